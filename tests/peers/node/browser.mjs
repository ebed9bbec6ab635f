// A headless browser that does what its standard input says: a command a line, an answer a line, both JSON. Owns pages and what went wrong in them;
// what they are to show is the tests' business.
//
//   {"id":1,"do":"open","url":…,"before":script?}  a new tab; `before` runs in every page of it, ahead of the page's own scripts  -> the tab's number
//   {"id":2,"do":"eval","tab":0,"script":…}        an expression (or a promise) in the tab's page  -> its value
//   {"id":3,"do":"write","tab":0,"into":…,"text":…}  clicks into the element, writes the text and presses Enter
//   {"id":4,"do":"reload","tab":0}                 as with F5
//   {"id":5,"do":"go","tab":0,"url":…}             to another page
//   {"id":6,"do":"back","tab":0}                   to the page before
//   {"id":7,"do":"offline","tab":0,"offline":true} takes its network away, or gives it back
//   {"id":8,"do":"freeze","tab":0,"frozen":true}   as a browser freezes a tab that nobody looks at; Chromium only
//   {"id":9,"do":"troubles","tab":0}               console errors, exceptions and refused loads (CSP) since asked last
//   {"id":10,"do":"close","tab":0}
//
// Ends with its standard input.
//
// Usage: browser.mjs chromium|firefox [SWITCH…]   (of Chromium only)
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { packages, say } from "./packages.mjs";

const puppeteer = packages("puppeteer-core");
const [name, ...switches] = process.argv.slice(2);
const profile = mkdtempSync(join(tmpdir(), `hark-${name}-`));
const forChromium = {
  args: [
    // The tests run as root, where Chromium's sandbox does not work; the pages are Hark's own.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    // Nothing but what the pages do, or Chromium asks for hosts that are not theirs.
    "--no-first-run",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    // Tabs in the background are to go on at full speed.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    ...switches,
  ],
};
const forFirefox = {
  // Tabs in the background are to go on at full speed.
  extraPrefsFirefox: { "dom.min_background_timeout_value": 4, "dom.timeout.enable_budget_timer_throttling": false },
};
const browser = await puppeteer.launch({
  browser: name === "firefox" ? "firefox" : "chrome",
  executablePath: join(process.env.HARK_PEERS, "bin", name),
  userDataDir: profile,
  protocolTimeout: 60_000,
  ...(name === "firefox" ? forFirefox : forChromium),
});

const tabs = [];

async function open({ url, before }) {
  const page = await browser.newPage();
  const troubles = [];
  page.on("console", (message) => {
    if (message.type() === "error") troubles.push(`${message.text()} (${message.location()?.url ?? ""})`);
  });
  page.on("pageerror", (error) => troubles.push(String(error?.stack ?? error)));
  await page.exposeFunction("__refused", (what) => troubles.push(what));
  await page.evaluateOnNewDocument(() => {
    addEventListener("securitypolicyviolation", (event) =>
      window.__refused(`CSP: ${event.violatedDirective} refused ${event.blockedURI}`),
    );
  });
  if (before) await page.evaluateOnNewDocument(before);
  await page.goto(url, { waitUntil: "load" });
  return tabs.push({ page, troubles }) - 1;
}

// The driver's own way waits for a page to load, which one out of the browser's cache does not.
async function back({ tab }) {
  const { page } = tabs[tab];
  const url = () => page.evaluate("location.href");
  const left = await url();
  await page.evaluate("void setTimeout(() => history.back())");
  const deadline = Date.now() + 30_000;
  // While the page changes there is nobody to answer.
  while ((await url().catch(() => left)) === left) {
    if (Date.now() > deadline) throw new Error("there was no way back");
    await new Promise((next) => setTimeout(next, 20));
  }
}

const commands = {
  open,
  // Through the debugger and not through the page's eval, which a CSP may forbid.
  eval: ({ tab, script }) => tabs[tab].page.evaluate(script),
  write: async ({ tab, into, text }) => {
    const { page } = tabs[tab];
    await page.bringToFront(); // or it would not get the keys
    await page.click(into);
    await page.keyboard.type(text);
    await page.keyboard.press("Enter");
  },
  reload: async ({ tab }) => void (await tabs[tab].page.reload({ waitUntil: "load" })),
  go: async ({ tab, url }) => void (await tabs[tab].page.goto(url, { waitUntil: "load" })),
  back,
  offline: ({ tab, offline }) => tabs[tab].page.setOfflineMode(offline),
  freeze: async ({ tab, frozen }) => {
    tabs[tab].session ??= await tabs[tab].page.createCDPSession();
    await tabs[tab].session.send("Page.setWebLifecycleState", { state: frozen ? "frozen" : "active" });
  },
  troubles: ({ tab }) => tabs[tab].troubles.splice(0),
  close: async ({ tab }) => void (await tabs[tab].page.close()),
};

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  try {
    say({ id: command.id, value: (await commands[command.do](command)) ?? null });
  } catch (error) {
    say({ id: command.id, error: String(error?.stack ?? error) });
  }
}
await browser.close();
rmSync(profile, { recursive: true, force: true });

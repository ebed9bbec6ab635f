// A headless Chromium that does what its standard input says: a command a line, an answer a line, both JSON. Owns pages and what went wrong in them;
// what they are to show is the tests' business.
//
//   {"id":1,"do":"open","url":…,"before":script?}  a new tab; `before` runs in every page of it, ahead of the page's own scripts  -> the tab's number
//   {"id":2,"do":"eval","tab":0,"script":…}        an expression (or a promise) in the tab's page  -> its value
//   {"id":3,"do":"write","tab":0,"into":…,"text":…}  clicks into the element, writes the text and presses Enter
//   {"id":4,"do":"reload","tab":0}                 as with F5
//   {"id":5,"do":"troubles","tab":0}               console errors, exceptions and refused loads (CSP) since asked last
//   {"id":6,"do":"close","tab":0}
//
// Ends with its standard input.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { packages, say } from "./packages.mjs";

const puppeteer = packages("puppeteer-core");
const profile = mkdtempSync(join(tmpdir(), "hark-chromium-"));
const browser = await puppeteer.launch({
  executablePath: join(process.env.HARK_PEERS, "bin", "chromium"),
  userDataDir: profile,
  protocolTimeout: 60_000,
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
  ],
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

const commands = {
  open,
  // Through the debugger and not through the page's eval, which a CSP may forbid.
  eval: ({ tab, script }) => tabs[tab].page.evaluate(script),
  write: async ({ tab, into, text }) => {
    const { page } = tabs[tab];
    await page.bringToFront(); // or it would not get the keys
    await page.click(into);
    await page.keyboard.sendCharacter(text);
    await page.keyboard.press("Enter");
  },
  reload: async ({ tab }) => void (await tabs[tab].page.reload({ waitUntil: "load" })),
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

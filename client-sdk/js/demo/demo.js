// @ts-check
// The demonstration page: a chat in rooms, with history, over Hark's JavaScript client. Owns what is on the page; everything
// that came from elsewhere is shown as text, never as markup.

import { connect, localCursor } from "../hark.js";
import { startChart } from "./chart.js";

// More than that is taken off the top of the page; it stays in the history.
const SHOWN = 300;
const EARLIER = 50;
const BURST = 200;

const $ = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));
const input = (/** @type {string} */ id) => /** @type {HTMLInputElement} */ ($(id));

/**
 * @param {string} tag
 * @param {string} className
 * @param {string} [text]
 */
const element = (tag, className, text = "") =>
  Object.assign(document.createElement(tag), { className, textContent: text });

// Where this page is served from, also behind a proxy that puts it under a path.
const base = new URL("..", import.meta.url).href.replace(/\/$/, "");
// Who opens it with `#token=…` is known by that: what stands behind `#` is not sent, and a reload finds it again.
const token = new URLSearchParams(location.hash.slice(1)).get("token") ?? undefined;
const hark = connect({ url: base, token });

// --- the connection ---

const TRANSPORTS = { websocket: "WebSocket", sse: "server-sent events", longpoll: "long-poll" };
/** @type {ReturnType<typeof setInterval> | undefined} */
let countdown;

hark.on("state", ({ state, transport, retryInMs = 0, error }) => {
  clearInterval(countdown);
  $("pill").dataset.state = state;
  $("pill").title = error?.message ?? "";
  $("pill-text").textContent = {
    connecting: "Connecting…",
    open: `Connected · ${TRANSPORTS[transport ?? "websocket"]}`,
    waiting: "Reconnecting",
    closed: `Closed: ${error?.message ?? ""}`,
  }[state];
  $("pill-countdown").textContent = "";
  if (state === "waiting") {
    const due = Date.now() + retryInMs;
    const show = () => ($("pill-countdown").textContent = `in ${Math.max(0, Math.ceil((due - Date.now()) / 1000))} s`);
    show();
    countdown = setInterval(show, 250);
  }
  showReceipt();
});

// --- the chart ---

const chart = startChart(/** @type {HTMLCanvasElement} */ ($("chart")), (rate, peak) => {
  $("rate").textContent = String(rate);
  $("peak").textContent = peak ? `peak ${peak}` : "";
  $("chart").setAttribute("aria-label", `Messages a second in the last minute: ${rate} now, at most ${peak}`);
});

// --- the messages ---

let isAtEnd = true;
const toEnd = () => ($("scroll").scrollTop = $("scroll").scrollHeight);

$("below").addEventListener("click", toEnd);
$("scroll").addEventListener(
  "scroll",
  () => {
    const { scrollHeight, scrollTop, clientHeight } = $("scroll");
    isAtEnd = scrollHeight - scrollTop - clientHeight < 60;
    if (isAtEnd) $("below").hidden = true;
  },
  { passive: true },
);
// A telephone's keyboard, or a window that is made smaller.
new ResizeObserver(() => isAtEnd && toEnd()).observe($("scroll"));

/**
 * Puts something at the end, and goes there unless the reader is elsewhere.
 *
 * @param {HTMLElement} item
 */
const append = (item) => {
  $("empty").hidden = true;
  $("messages").append(item);
  while ($("messages").children.length > SHOWN) $("messages").firstElementChild?.remove();
  if (isAtEnd) toEnd();
  else $("below").hidden = false;
};

/**
 * @param {string} text
 * @param {string} [kind]
 */
const note = (text, kind = "") => append(element("li", `note ${kind}`, text));

/** Whatever somebody published to the room: from this page, from curl, from anything. @param {any} data */
const wordsOf = (data) => {
  if (data instanceof Uint8Array) return { name: "curl", text: new TextDecoder().decode(data) };
  if (typeof data?.text === "string") return { name: String(data.name || "nameless"), text: data.text };
  return { name: "curl", text: typeof data === "string" ? data : JSON.stringify(data) };
};

const hueOf = (/** @type {string} */ name) =>
  [...name].reduce((sum, char) => (sum * 31 + (char.codePointAt(0) ?? 0)) % 9973, 7) % 8;

/** The message above, to see whether the next one goes on with it. */
let above = { name: "", time: 0, item: /** @type {HTMLElement | undefined} */ (undefined) };

/**
 * @param {{ data: any, time: number, cursor: string }} message
 * @param {boolean} live
 */
const showMessage = ({ data, time, cursor }, live) => {
  const { name, text } = wordsOf(data);
  const goesOn = above.name === name && time - above.time < 120_000 && above.item === $("messages").lastElementChild;
  const item = element("li", `message${goesOn ? " more" : ""}${live ? " fresh" : ""}`);
  const avatar = element("span", `avatar hue-${hueOf(name)}`, [...name][0]);
  avatar.setAttribute("aria-hidden", "true");
  const when = /** @type {HTMLTimeElement} */ (element("time", "time", clock(time)));
  when.dateTime = new Date(time).toISOString();
  const line = element("div", "line");
  line.append(element("span", "name", name), when, element("span", "cursor", cursor));
  const body = element("div", "body");
  body.append(line, element("div", "said", text));
  item.append(avatar, body);
  append(item);
  above = { name, time, item };
};

const clock = (/** @type {number} */ time) => {
  const date = new Date(time);
  const isToday = date.toDateString() === new Date().toDateString();
  return date.toLocaleString([], isToday ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" });
};

/** @param {{ reason: string, from?: number, to?: number }} gap */
const wordsOfGap = ({ reason, from, to }) => {
  const count = from !== undefined && to !== undefined ? to - from + 1 : 0;
  const messages = count === 1 ? "1 message" : `${count || "Some"} messages`;
  /** @type {Record<string, string>} */
  const words = {
    expired: `${messages} expired while you were away`,
    lost: `${messages} ${count === 1 ? "was" : "were"} lost to damage`,
    skipped: `${messages} skipped, to keep up`,
    deleted: "The room was deleted; it begins anew",
    other_epoch: "The room began anew while you were away",
    ahead: "The room does not reach as far as where you were",
  };
  return words[reason] ?? `Messages are missing (${reason})`;
};

// --- rooms ---

/** What is subscribed to for the room. @type {import("../hark.js").Subscription[]} */
let subscriptions = [];
let topic = "";
/** Counts the rooms that were entered: whoever comes back to one while its history is on the way is in it a second time. */
let visit = 0;

/** @param {string} cursor */
const placeOf = (cursor) => {
  const [epoch, offset] = cursor.split(":");
  return { epoch, offset: Number(offset) };
};

/** @param {string} room */
const enter = async (room) => {
  for (const subscription of subscriptions) subscription.close();
  subscriptions = [];
  topic = `demo.${room}`;
  const mine = ++visit;
  $("messages").replaceChildren();
  $("empty").hidden = false;
  $("below").hidden = true;
  chart.clear();
  showPlace(room);

  // The messages from before the last visit, for display alone; the subscription goes on behind them, from the stored cursor.
  // From there, wherever another tab moves it meanwhile.
  const { load, save } = localCursor(topic);
  const seen = await load();
  if (seen) await showEarlier(mine, placeOf(seen));
  if (visit !== mine) return;

  let isNew = !!seen && $("messages").children.length > 0;
  let live = false;
  const chat = hark.subscribe(topic, { from: { last: EARLIER }, cursor: { load: () => seen, save } });
  chat.on("message", (message) => {
    if (isNew && !live) note("New since your last visit");
    isNew = false;
    chart.count(live ? Date.now() : message.time);
    showMessage(message, live);
  });
  chat.on("gap", (gap) => note(wordsOfGap(gap), "gap"));
  chat.on("caught_up", () => (live = true));
  chat.on("error", ({ message }) => note(message, "gap"));

  let beatsLive = false;
  const beats = hark.subscribe(`${topic}.beats`, { from: { since: "60s" } });
  beats.on("message", ({ time }) => chart.count(beatsLive ? Date.now() : time));
  beats.on("caught_up", () => (beatsLive = true));
  beats.on("error", () => {});
  subscriptions = [chat, beats];
};

/**
 * @param {number} mine the visit that it is for
 * @param {{ epoch: string, offset: number }} seen
 */
const showEarlier = async (mine, seen) => {
  try {
    const response = await fetch(`${base}/v1/topics/${topic}/messages?from=last:${EARLIER}&limit=${EARLIER}`, {
      headers: token ? { authorization: `Bearer ${token}` } : {},
    });
    const { messages, cursor } = await response.json();
    const { epoch } = placeOf(cursor);
    if (visit !== mine || epoch !== seen.epoch) return;
    for (const { offset, time, data, text, data_base64 } of messages) {
      if (offset > seen.offset) break;
      const bytes = () => Uint8Array.from(atob(data_base64), (char) => char.charCodeAt(0));
      chart.count(time);
      const content = text ?? (data_base64 === undefined ? data : bytes());
      showMessage({ data: content, time, cursor: `${epoch}:${offset}` }, false);
    }
  } catch {
    // Without a connection there is no history either; the subscription comes when there is one.
  }
};

/** @param {string} room */
const showPlace = (room) => {
  input("room").value = room;
  document.title = `${room} · Hark`;
  const place = new URL(location.href);
  place.searchParams.set("room", room);
  history.replaceState(null, "", place);
  for (const link of document.querySelectorAll(".second")) /** @type {HTMLAnchorElement} */ (link).href = place.href;
  $("curl").textContent = `curl ${base}/v1/topics/${topic}/messages -d 'Hello from curl'`;
  /** @type {HTMLAnchorElement} */ ($("history")).href = `${base}/v1/topics/${topic}/messages?from=last:${EARLIER}`;
};

/** What a topic may be named. @param {string} text */
const roomNamed = (text) =>
  text
    .trim()
    .toLowerCase()
    .replace(/\s+/g, "-")
    .replace(/[^a-z0-9_-]/g, "")
    .slice(0, 40) || "lobby";

// --- writing ---

let unanswered = 0;
/** @type {{ text: string, bad?: boolean }} */
let receipt = { text: "" };

const showReceipt = () => {
  const waits = unanswered && hark.state !== "open";
  const waiting = `${unanswered === 1 ? "1 message waits" : `${unanswered} messages wait`} for the connection, and will be sent once.`;
  $("receipt").textContent = waits ? waiting : receipt.text;
  $("receipt").classList.toggle("bad", !waits && !!receipt.bad);
};

$("write").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = input("text").value.trim();
  if (!text) return;
  input("text").value = "";
  toEnd();
  const began = performance.now();
  unanswered++;
  showReceipt();
  try {
    const { cursor } = await hark.publish(topic, { name: nameNow(), text });
    receipt = {
      text: `Kept at ${cursor}, ${Math.max(1, Math.round(performance.now() - began))} ms after you pressed Send.`,
    };
  } catch (error) {
    receipt = { text: `Not sent: ${/** @type {Error} */ (error).message}`, bad: true };
    input("text").value ||= text;
  }
  unanswered--;
  showReceipt();
});

$("burst").addEventListener("click", async () => {
  const button = /** @type {HTMLButtonElement} */ ($("burst"));
  button.disabled = true;
  const place = `${topic}.beats`;
  const receipts = [];
  // A wave: slowly, fast, slowly.
  for (let n = 0; n < BURST; n++) {
    receipts.push(hark.publish(place, n));
    await new Promise((done) => setTimeout(done, 14 + 26 * (1 + Math.cos((n / BURST) * 2 * Math.PI))));
  }
  await Promise.allSettled(receipts);
  button.disabled = false;
});

$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText($("curl").textContent ?? "");
    $("copy").textContent = "Copied";
  } catch {
    // Not on a page without TLS: marked, it is one key away.
    getSelection()?.selectAllChildren($("curl"));
    $("copy").textContent = "Marked";
  }
  setTimeout(() => ($("copy").textContent = "Copy"), 2000);
});

// --- who, and where ---

const keep = (/** @type {string} */ key, /** @type {string} */ value) => {
  try {
    localStorage.setItem(key, value);
  } catch {
    // Then it is for this visit.
  }
};
const kept = (/** @type {string} */ key) => {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
};

const drawn = `guest-${crypto.getRandomValues(new Uint8Array(1))[0].toString(16).padStart(2, "0")}`;
const nameNow = () => input("name").value.trim() || drawn;

input("name").value = kept("hark-demo:name") ?? drawn;
input("name").addEventListener("change", () => keep("hark-demo:name", nameNow()));

const changeRoom = () => {
  const room = roomNamed(input("room").value);
  if (`demo.${room}` === topic) input("room").value = room;
  else enter(room);
};
input("room").addEventListener("change", changeRoom);
$("who").addEventListener("submit", (event) => {
  event.preventDefault();
  changeRoom();
  $("text").focus();
});

enter(roomNamed(new URLSearchParams(location.search).get("room") ?? "lobby"));
if (matchMedia("(min-width: 861px)").matches) $("text").focus();

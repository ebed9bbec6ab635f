// The demonstration page's rooms: entered while the history of another is on its way, and while another tab moves the stored cursor.
// With just enough of a page to hold it, a socket whose other end is the test, and a history that comes when the test says.

import assert from "node:assert/strict";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import { connect, localCursor } from "../src/index.js";
import { scriptedWebSocket } from "./support/socket.js";
import { until } from "./support/until.js";

class FakeElement extends EventTarget {
  children = [];
  dataset = {};
  classList = { toggle() {} };
  value = "";
  textContent = "";
  append(...items) {
    this.children.push(...items);
  }
  replaceChildren() {
    this.children = [];
  }
  get firstElementChild() {
    return this.children[0];
  }
  get lastElementChild() {
    return this.children.at(-1);
  }
  setAttribute() {}
  focus() {}
  /** What is written in it. */
  get words() {
    return [this.textContent, ...this.children.flatMap((child) => child.words)].filter(Boolean);
  }
}

/** The page in the room `a`, with what is in `localStorage`. */
const open = async (t, stored) => {
  const { WebSocket, sockets } = scriptedWebSocket();
  const hark = connect({ url: "http://hark.test", WebSocket, transports: ["websocket"] });
  const folder = mkdtempSync(join(tmpdir(), "hark-demo-"));
  const elements = {};
  const byId = (id) => (elements[id] ??= new FakeElement());
  /** What the page has asked the history for. @type {((page: any) => void)[]} */
  const histories = [];
  const rejections = [];
  const page = {
    demo: { connect: () => hark, localCursor },
    document: {
      getElementById: byId,
      createElement: () => new FakeElement(),
      querySelectorAll: () => [],
    },
    location: { href: "http://hark.test/demo/?room=a", search: "?room=a", hash: "" },
    history: { replaceState() {} },
    localStorage: { getItem: (key) => stored[key] ?? null, setItem: (key, value) => (stored[key] = value) },
    ResizeObserver: class {
      observe() {}
    },
    matchMedia: () => ({ matches: false }),
    fetch: () => new Promise((resolve) => histories.push((page) => resolve({ json: async () => page }))),
  };
  const before = Object.fromEntries(Object.keys(page).map((name) => [name, Object.getOwnPropertyDescriptor(globalThis, name)]));
  for (const [name, value] of Object.entries(page))
    Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
  const listeners = process.listeners("unhandledRejection");
  process.removeAllListeners("unhandledRejection");
  process.on("unhandledRejection", (error) => rejections.push(error.message));
  t.after(() => {
    hark.close();
    for (const [name, was] of Object.entries(before)) {
      if (was) Object.defineProperty(globalThis, name, was);
      else delete globalThis[name];
    }
    process.removeAllListeners("unhandledRejection");
    for (const listener of listeners) process.on("unhandledRejection", listener);
    rmSync(folder, { recursive: true });
  });

  // As the broker serves it: the client is beside the folder.
  mkdirSync(join(folder, "demo"));
  copyFileSync(fileURLToPath(new URL("../demo/demo.js", import.meta.url)), join(folder, "demo/demo.js"));
  writeFileSync(join(folder, "package.json"), '{ "type": "module" }');
  writeFileSync(join(folder, "hark.js"), "export const { connect, localCursor } = globalThis.demo;");
  writeFileSync(
    join(folder, "demo/chart.js"),
    "export const startChart = () => ({ clear() {}, count() {} });",
  );
  await import(pathToFileURL(join(folder, "demo/demo.js")).href);
  await until("it connects", () => sockets.length);
  sockets[0].accept();
  const enter = (room) => {
    byId("room").value = room;
    byId("room").dispatchEvent(new Event("change"));
  };
  const chats = () =>
    sockets[0].said("subscribe").filter(({ topic }) => !topic.endsWith(".beats"));
  const shown = () =>
    byId("messages").children.flatMap(({ words }) => words.filter((word) => word.startsWith("text ")));
  return { enter, histories, rejections, chats, shown, socket: sockets[0] };
};
const message = (offset) => ({ type: "message", topic: "demo.a", offset, time: offset, data: { name: "n", text: `text ${offset}` } });
const historyTo = (head) => ({
  messages: Array.from({ length: head }, (_, at) => message(at + 1)),
  cursor: `e:${head}`,
});

test("a room that is left and entered again before its history came is shown once", async (t) => {
  const { enter, histories, rejections, chats, shown } = await open(t, { "hark:demo.a": "e:2" });
  await until("the history is asked for", () => histories.length === 1);
  enter("b");
  await until("it is in the other room", () => chats().length === 1);
  enter("a");
  await until("the history is asked for again", () => histories.length === 2);
  for (const come of histories) come(historyTo(2));
  await until("it is back", () => chats().length === 2);
  // What the first visit would still do is done now.
  await new Promise((resolve) => setTimeout(resolve, 10));
  assert.deepEqual(rejections, []);
  assert.deepEqual(shown(), ["text 1", "text 2"]);
  assert.deepEqual(
    chats().map(({ topic, from }) => [topic, from]),
    [
      ["demo.b", { last: 50 }],
      ["demo.a", { after: "e:2" }],
    ],
  );
});

test("what came between the history and another tab's cursor is shown", async (t) => {
  const stored = { "hark:demo.a": "e:2" };
  const { histories, chats, shown, socket } = await open(t, stored);
  await until("the history is asked for", () => histories.length === 1);
  stored["hark:demo.a"] = "e:4";
  histories[0](historyTo(4));
  const [{ id, from }] = await until("it subscribes", () => chats().length && chats());
  assert.deepEqual(from, { after: "e:2" });
  socket.say({ type: "subscribed", id, topic: "demo.a", cursor: "e:2", head: 4, resumed: true });
  for (const offset of [3, 4]) socket.say(message(offset));
  await until("all are shown", () => shown().length >= 4);
  assert.deepEqual(shown(), ["text 1", "text 2", "text 3", "text 4"]);
});

test("what curl has published is shown, from before the visit as live", async (t) => {
  const { histories, chats, shown, socket } = await open(t, { "hark:demo.a": "e:2" });
  await until("the history is asked for", () => histories.length === 1);
  const plain = (offset, content) => ({ ...message(offset), data: undefined, content_type: "text/plain", ...content });
  const messages = [plain(1, { text: "text ü" }), plain(2, { data_base64: btoa("text 2") })];
  histories[0]({ messages, cursor: "e:2" });
  const [{ id }] = await until("it subscribes", () => chats().length && chats());
  socket.say({ type: "subscribed", id, topic: "demo.a", cursor: "e:2", head: 2, resumed: true });
  socket.say(plain(3, { text: "text 3" }));
  await until("all are shown", () => shown().length >= 3);
  assert.deepEqual(shown(), ["text ü", "text 2", "text 3"]);
});

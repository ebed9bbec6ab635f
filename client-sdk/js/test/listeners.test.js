// Who hears of what, and when it counts as taken: nothing is given to nobody, and what has ended has no more effects.

import assert from "node:assert/strict";
import test from "node:test";
import { Emitter } from "../src/emitter.js";
import { localCursor } from "../src/index.js";
import { Subscription } from "../src/subscription.js";
import { connect } from "../src/index.js";
import { start } from "./support/client.js";
import { fakeClock } from "./support/clock.js";
import { scriptedWebSocket } from "./support/socket.js";
import { uncaught } from "./support/uncaught.js";
import { until } from "./support/until.js";

const turns = async () => {
  for (let turn = 0; turn < 3; turn++) await new Promise(setImmediate);
};
/** Something to wait for that the test ends. */
const gate = () => {
  let open;
  const opened = new Promise((resolve) => (open = resolve));
  return { opened, open };
};
const memory = (cursor = null) => {
  const store = { saved: [], load: () => cursor, save: (text) => void store.saved.push((cursor = text)) };
  return store;
};
const subscribe = (store, hooks) =>
  new Subscription("a", store, { messages: 4, bytes: 1000 }, { drained() {}, left() {}, ...hooks });
const message = (offset) => ({ type: "message", topic: "a", offset, cursor: `e:${offset}` });
const push = (subscription, ...offsets) => {
  for (const offset of offsets) subscription.push(message(offset), 1);
};

test("with the last listener gone, what waits stays, and its cursor is not stored until there is one", async () => {
  const store = memory();
  const subscription = subscribe(store);
  const seen = [];
  const off = subscription.on("message", ({ offset }) => void seen.push(offset));
  push(subscription, 1, 2);
  off();
  push(subscription, 3, 4, 5, 6);
  await turns();
  assert.deepEqual([seen, store.saved, subscription.cursor], [[1, 2], ["e:1", "e:2"], "e:2"]);
  subscription.on("message", ({ offset }) => void seen.push(offset));
  await turns();
  assert.deepEqual([seen, store.saved.at(-1)], [[1, 2, 3, 4, 5, 6], "e:6"]);
});

test("a listener that takes itself away has one message of all that wait", async () => {
  const store = memory();
  const subscription = subscribe(store);
  const seen = [];
  push(subscription, 1, 2, 3);
  const off = subscription.on("message", ({ offset }) => (seen.push(offset), off()));
  await turns();
  assert.deepEqual([seen, store.saved], [[1], ["e:1"]]);
  assert.equal((await subscription.next()).value.offset, 2);
});

test("off while a listener waits: what it has is taken, the next event stays", async () => {
  const store = memory();
  const subscription = subscribe(store);
  const { opened, open } = gate();
  const seen = [];
  const off = subscription.on("message", ({ offset }) => (seen.push(offset), opened));
  push(subscription, 1, 2, 3);
  await turns();
  off();
  open();
  await turns();
  assert.deepEqual([seen, store.saved], [[1], ["e:1"]]);
  const later = [];
  subscription.on("message", ({ offset }) => void later.push(offset));
  await turns();
  assert.deepEqual([later, store.saved.at(-1)], [[2, 3], "e:3"]);
});

test("an event without a listener of its own waits for the one of messages too", async () => {
  const subscription = subscribe(memory());
  const seen = [];
  push(subscription, 1);
  subscription.push({ type: "gap", reason: "expired", cursor: "e:5" }, 0);
  subscription.on("gap", ({ reason }) => void seen.push(reason));
  const off = subscription.on("message", () => off());
  await turns();
  assert.deepEqual([seen, subscription.cursor], [[], "e:1"]);
});

test("closed while a listener waits: nobody is called any more", async () => {
  const subscription = subscribe(memory());
  const { opened, open } = gate();
  const seen = [];
  subscription.on("message", ({ offset }) => (seen.push(offset), opened));
  subscription.on("error", (error) => seen.push(error));
  push(subscription, 1, 2);
  await turns();
  subscription.close();
  subscription.finish(new Error("too late"));
  push(subscription, 3);
  open();
  await turns();
  assert.deepEqual(seen, [1]);
  assert.deepEqual(await subscription.next(), { done: true, value: undefined });
});

test("closed after it had failed: neither what is queued nor the error is given", async () => {
  const subscription = subscribe();
  push(subscription, 1);
  subscription.finish(new Error("forbidden"));
  subscription.close();
  const seen = [];
  subscription.on("message", ({ offset }) => void seen.push(offset));
  await turns();
  assert.deepEqual(seen, []);
  assert.deepEqual(await subscription.next(), { done: true, value: undefined });
});

test("a listener that takes another one away, or closes, is the last that is called", async () => {
  const subscription = subscribe();
  const seen = [];
  subscription.on("message", () => off());
  const off = subscription.on("message", () => void seen.push("taken away"));
  subscription.on("message", () => subscription.close());
  subscription.on("message", () => void seen.push("closed"));
  push(subscription, 1);
  await turns();
  assert.deepEqual(seen, []);
});

test("one off takes one registration, also of the same function", () => {
  const emitter = new Emitter();
  const seen = [];
  const listener = (event) => void seen.push(event);
  const [first, second] = [emitter.on("x", listener), emitter.on("x", listener)];
  emitter.emit("x", 1);
  first();
  first();
  emitter.emit("x", 2);
  second();
  emitter.emit("x", 3);
  assert.deepEqual(seen, [1, 1, 2]);
  assert.equal(emitter.has("x"), false);
});

test("a closed subscription does not write over what its successor has stored", async () => {
  const store = memory("e:4");
  const first = subscribe(store);
  const { opened, open } = gate();
  first.on("message", () => opened);
  push(first, 5);
  await turns();
  first.close();
  const second = subscribe(store);
  assert.equal(await second.load(), "e:4");
  second.on("message", () => {});
  push(second, 5, 6, 7);
  await turns();
  open();
  await turns();
  assert.deepEqual(store.saved, ["e:5", "e:6", "e:7"]);
});

test("a save that is under way, and the one behind it, are waited for before the next subscription loads", async () => {
  let stored = "e:1";
  const saves = [];
  const store = {
    load: () => stored,
    save: (cursor) => new Promise((resolve) => saves.push(() => resolve(void (stored = cursor)))),
  };
  const first = subscribe(store);
  first.on("message", () => {});
  push(first, 2, 3);
  await turns();
  first.close();
  const second = subscribe(store);
  let loaded;
  Promise.resolve(second.load()).then((cursor) => (loaded = cursor));
  await turns();
  assert.equal(loaded, undefined);
  saves[0]();
  await turns();
  assert.equal(loaded, undefined, "one waits behind it");
  saves[1]();
  await turns();
  assert.deepEqual([loaded, saves.length], ["e:3", 2]);
});

test("a save that never settles holds up the next one, and the next load, no longer than its time", async (t) => {
  const { pass } = fakeClock(t);
  const saved = [];
  const store = { load: () => "e:1", save: (cursor) => (saved.push(cursor), new Promise(() => {})) };
  const failures = uncaught(t);
  const first = subscribe(store);
  first.on("message", () => {});
  push(first, 2, 3, 4);
  await pass(9_000);
  assert.deepEqual(saved, ["e:2"]);
  await pass(1_000);
  assert.deepEqual(saved, ["e:2", "e:4"]);
  first.close();
  let loaded;
  Promise.resolve(subscribe(store).load()).then((cursor) => (loaded = cursor));
  await pass(9_000);
  assert.equal(loaded, undefined);
  await pass(1_000);
  assert.equal(loaded, "e:1");
  assert.deepEqual(failures, Array(2).fill("a cursor's save was not settled within 10000 ms"));
});

test("a save that is settled too late is made good: what it may have written over is saved once more", async (t) => {
  const { pass } = fakeClock(t);
  const saved = [];
  const settle = [];
  const store = { load: () => "e:1", save: (cursor) => (saved.push(cursor), new Promise((...ends) => settle.push(ends))) };
  uncaught(t);
  const orders = subscribe(store);
  orders.on("message", () => {});
  push(orders, 2, 3);
  await pass(10_000);
  assert.deepEqual(saved, ["e:2", "e:3"]);
  // While the newer one is under way, and by a failure: nothing is known of what it wrote.
  settle[0][1](new Error("lost"));
  await turns();
  assert.deepEqual(saved, ["e:2", "e:3"]);
  settle[1][0]();
  await turns();
  assert.deepEqual(saved, ["e:2", "e:3", "e:3"]);
  // When the newer one is done, and then nothing is: one that was the newest has written over none.
  await pass(10_000);
  settle[2][0]();
  await turns();
  assert.equal(saved.length, 3);
  push(orders, 4);
  await pass(10_000);
  push(orders, 5);
  await turns();
  settle[4][0]();
  await turns();
  settle[3][0]();
  await turns();
  assert.deepEqual(saved.slice(3), ["e:4", "e:5", "e:5"]);
});

test("a load that never settles is as one that found nothing, after its time", async (t) => {
  const failures = uncaught(t);
  const { hark, sockets, pass } = await start(t);
  sockets[0].accept();
  hark.subscribe("a", { from: "earliest", cursor: { load: () => new Promise(() => {}), save() {} } });
  await pass(9_000);
  assert.deepEqual(sockets[0].said("subscribe"), []);
  await pass(1_000);
  assert.deepEqual(
    sockets[0].said("subscribe").map(({ from }) => from),
    ["earliest"],
  );
  assert.deepEqual(failures, ["a cursor's load was not settled within 10000 ms"]);
});

test("what the callbacks of a closed subscription have done is stored, if nobody has gone on from there", async () => {
  const store = memory();
  const subscription = subscribe(store);
  subscription.load();
  subscription.on("message", async () => {
    await turns();
    subscription.close();
  });
  push(subscription, 1, 2);
  await turns();
  await turns();
  assert.deepEqual(store.saved, ["e:1"]);
});

test("two cursors of one key are one place", () => {
  assert.equal(localCursor("orders"), localCursor("orders"));
  assert.notEqual(localCursor("orders"), localCursor("audit"));
});

test("an error listener is called without one for messages, once", async () => {
  const subscription = subscribe();
  const seen = [];
  subscription.on("error", ({ message }) => void seen.push(message));
  push(subscription, 1);
  subscription.finish(new Error("forbidden"));
  await turns();
  assert.deepEqual(seen, ["forbidden"]);
  // Whoever comes later for the messages has them, and hears no second time.
  subscription.on("message", ({ offset }) => void seen.push(offset));
  await turns();
  assert.deepEqual(seen, ["forbidden", 1]);
});

test("an iterator that waits and an error listener both hear of it", async () => {
  const subscription = subscribe();
  const seen = [];
  subscription.on("error", ({ message }) => void seen.push(message));
  const next = assert.rejects(subscription.next(), { message: "forbidden" });
  subscription.finish(new Error("forbidden"));
  await next;
  await turns();
  assert.deepEqual(seen, ["forbidden"]);
  assert.deepEqual(await subscription.next(), { done: true, value: undefined });
});

test("states come in their order, whatever the listeners do", async (t) => {
  const { WebSocket, sockets } = scriptedWebSocket();
  const hark = connect({ url: "http://hark.test", WebSocket, transports: ["websocket"] });
  t.after(() => hark.close());
  const first = [];
  const second = [];
  hark.on("state", async ({ state }) => {
    first.push(state);
    // The earlier the state, the longer it takes; and one of them changes the state itself.
    if (state === "open") hark.close();
    await new Promise((resolve) => setTimeout(resolve, 30 / first.length));
  });
  hark.on("state", ({ state }) => void second.push(state));
  await until("the client connects", () => sockets.length);
  sockets[0].accept();
  await until("it is closed", () => second.includes("closed"));
  assert.deepEqual(first, ["connecting", "open", "closed"]);
  assert.deepEqual(second, first);
});

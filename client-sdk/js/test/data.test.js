// What may be published and asked for, in whatever form an application has it: taken as what it is, or refused by name.

import assert from "node:assert/strict";
import test from "node:test";
import vm from "node:vm";
import { connect } from "../src/index.js";
import { scriptedWebSocket } from "./support/socket.js";
import { until } from "./support/until.js";

const open = async (t, options) => {
  const { WebSocket, sockets } = scriptedWebSocket();
  const hark = connect({ url: "http://hark.test", WebSocket, transports: ["websocket"], ...options });
  t.after(() => hark.close());
  await until("the client connects", () => sockets.length);
  sockets[0].accept();
  return { hark, socket: sockets[0] };
};
/** What was warned of. */
const warnings = (t) => {
  const said = [];
  t.mock.method(console, "warn", (text) => said.push(text));
  return said;
};
const elsewhere = (code) => vm.runInNewContext(code);

const bytes = {
  "a Uint8Array": Uint8Array.of(0, 1, 254, 255),
  "an ArrayBuffer": Uint8Array.of(0, 1, 254, 255).buffer,
  "a SharedArrayBuffer": (() => {
    const shared = new SharedArrayBuffer(4);
    new Uint8Array(shared).set([0, 1, 254, 255]);
    return shared;
  })(),
  "a part of a larger one": new Uint8Array([9, 0, 1, 254, 255, 9]).subarray(1, 5),
  "a Buffer": Buffer.from([0, 1, 254, 255]),
  "a DataView": new DataView(new Uint8Array([9, 0, 1, 254, 255]).buffer, 1),
  "numbers of 16 bits": new Uint16Array(Uint8Array.of(0, 1, 254, 255).buffer),
  "a Uint8Array of another realm": elsewhere("Uint8Array.of(0, 1, 254, 255)"),
  "an ArrayBuffer of another realm": elsewhere("Uint8Array.of(0, 1, 254, 255).buffer"),
  "a DataView of another realm": elsewhere("new DataView(Uint8Array.of(0, 1, 254, 255).buffer)"),
};
test("bytes are bytes, whatever holds them, and wherever it was made", async (t) => {
  const { hark, socket } = await open(t);
  for (const [what, data] of Object.entries(bytes)) {
    const before = socket.said("publish").length;
    hark.publish("a", data, { contentType: "image/png" });
    const { data_base64, content_type } = await until(what, () => socket.said("publish")[before]);
    assert.deepEqual([data_base64, content_type], ["AAH+/w==", "image/png"], what);
  }
});

const circle = {};
circle.circle = circle;
const noJson = {
  undefined,
  "a function": () => {},
  "a symbol": Symbol("a"),
  "a BigInt": 1n,
  "a circle": circle,
  "a Blob": new Blob(["a"]),
  "a Map": new Map([["a", 1]]),
  "a Set": new Set([1]),
  Headers: new Headers({ a: "b" }),
  URLSearchParams: new URLSearchParams("a=b"),
  FormData: new FormData(),
  "a Promise": Promise.resolve(1),
  "a WeakMap": new WeakMap(),
  "a regular expression": /a/,
  "an Error": new Error("a"),
  "a Map of another realm": elsewhere("new Map([[1, 2]])"),
  "a Set within": { a: [{ b: new Set([1]) }] },
  "bytes within": { a: Uint8Array.of(1) },
  "a buffer within": [new ArrayBuffer(1)],
  "a toJSON that throws": { toJSON: () => assert.fail("no") },
  "a toJSON that gives nothing": { toJSON() {} },
};
test("what JSON cannot say, or would say as nothing, is refused", async (t) => {
  const { hark, socket } = await open(t);
  for (const [what, data] of Object.entries(noJson)) {
    for (const options of [{}, { contentType: "image/png" }]) {
      const refused = { name: "PublishError", code: "bad_data", topic: "a", maybeKept: false };
      await assert.rejects(hark.publish("a", data, options), refused, what);
      await assert.rejects(hark.publishAll(["a", "b"], data, options), { ...refused, topic: "a,b" }, what);
    }
  }
  assert.deepEqual(socket.said("publish"), []);
});

class Order {
  id = 1;
  #secret = 2;
}
const json = [
  [null, null],
  [0, 0],
  ["", ""],
  [{}, {}],
  [[], []],
  [Object.create(null), {}],
  [elsewhere("({ a: [1] })"), { a: [1] }],
  [new Date(0), "1970-01-01T00:00:00.000Z"],
  [new URL("http://a.test/"), "http://a.test/"],
  [new Order(), { id: 1 }],
  [new Number(5), 5],
  [{ a: undefined, b: () => {}, c: NaN }, { c: null }],
  [Object.assign(new Error("a"), { code: 5 }), { code: 5 }],
];
test("what JSON says as well as it can is published so", async (t) => {
  const { hark, socket } = await open(t);
  for (const [data, said] of json) {
    const before = socket.said("publish").length;
    hark.publish("a", data);
    assert.deepEqual((await until("a publish", () => socket.said("publish")[before])).data, said);
  }
});

test("a topic that is no text is none", async (t) => {
  const { hark, socket } = await open(t);
  for (const topic of [undefined, null, 5, {}, Symbol("a"), ["a"], Object.create(null), new String("a")]) {
    await assert.rejects(hark.publish(topic, 1), { name: "PublishError", code: "bad_topic", topic: "" });
    const events = hark.subscribe(topic);
    await assert.rejects(events.next(), { name: "SubscribeError", code: "bad_topic" });
  }
  assert.equal(socket.sent.filter((text) => !text.includes('"ping"')).length, 0);
});

test("headers that are Headers, or a Map, are not taken for none", async (t) => {
  const { hark } = await open(t);
  for (const headers of [new Headers({ a: "b" }), new Map([["a", "b"]])]) {
    await assert.rejects(hark.publish("a", 1, { headers }), { code: "bad_frame" });
  }
});

test("a time to start from may be a Date of another realm", async (t) => {
  const { hark, socket } = await open(t);
  hark.subscribe("a", { from: { since: elsewhere("new Date(0)") } });
  assert.deepEqual(socket.said("subscribe")[0].from, { since: "1970-01-01T00:00:00.000Z" });
});

test("undefined replaces no default", async (t) => {
  const none = undefined;
  const options = { token: none, connectTimeoutMs: none, probeMs: none, fetch: none };
  const { hark, socket } = await open(t, {
    ...options,
    window: { messages: 2, bytes: none },
    queue: { messages: none, bytes: none },
  });
  const waits = ["x", "y"].map((data) => hark.publish("a", data, { headers: none, contentType: none, messageId: none }));
  await assert.rejects(hark.publish("a", 3), { code: "window_full" });
  hark.subscribe("b", { from: none, cursor: none });
  const { id, from } = socket.said("subscribe")[0];
  assert.equal(from, "now");
  // The queue has its bound of 1,024 messages.
  socket.say({ type: "subscribed", id, topic: "b", cursor: "e:0", head: 0, resumed: false });
  for (let offset = 1; offset <= 1024; offset++) socket.say({ type: "message", topic: "b", offset, time: 1, data: 1 });
  assert.equal(socket.said("unsubscribe").length, 1);
  for (const { id } of socket.said("publish")) socket.say({ type: "published", id, topic: "a", cursor: "e:1", duplicate: false });
  await Promise.all(waits);
});

test("the window's bytes have their default beside undefined", async (t) => {
  const { hark } = await open(t, { window: { messages: undefined, bytes: undefined } });
  const half = new Uint8Array(600_000);
  const results = await Promise.race([
    Promise.all(Array.from({ length: 40 }, () => hark.publish("a", half).catch(({ code }) => code))),
    hark.publish("b", half).then(assert.fail, ({ code }) => code),
  ]);
  assert.equal(results, "window_full");
});

test("options that there are not are named once", async (t) => {
  const said = warnings(t);
  const { hark } = await open(t, { tokn: "a", retries: 5, queue: { message: 3 }, window: {} });
  assert.equal(said.length, 2, said.join("\n"));
  assert.match(said[0], /connect has no option tokn, retries/);
  assert.match(said[1], /queue has no option message;/);
  for (let times = 0; times < 3; times++) hark.publish("a", 1, { header: {}, messageId: "k" });
  hark.subscribe("a", { after: "e:1" });
  assert.equal(said.length, 4, said.join("\n"));
  assert.match(said[2], /publish has no option header;/);
  assert.match(said[3], /subscribe has no option after;/);
});

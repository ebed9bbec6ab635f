// Against the real broker, over WebSocket: kept once, in order; received once, in order; across kills, reloads and restarts.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import test from "node:test";
import { WebSocket } from "ws";
import { connect } from "../src/index.js";
import { Broker } from "./support/broker.js";
import { Proxy } from "./support/proxy.js";
import { messages, take, until } from "./support/until.js";

const start = async (t, ...more) => {
  const broker = await Broker.start(...more);
  t.after(() => broker.delete());
  return broker;
};
const client = (t, url, options) => {
  const hark = connect({ url, WebSocket, transports: ["websocket"], ...options });
  t.after(() => hark.close());
  return hark;
};
const count = (to) => Array.from({ length: to }, (_, at) => at + 1);
const memoryCursor = () => {
  const saved = [];
  return { saved, load: () => saved.at(-1), save: (cursor) => void saved.push(cursor) };
};

test("publishes and subscribes", async (t) => {
  const broker = await start(t);
  const hark = client(t, broker.url);
  const events = hark.subscribe("orders.eu", { from: "earliest" });
  const receipt = await hark.publish("orders.eu", { any: "json" }, { headers: { trace: "1" } });
  assert.match(receipt.cursor, /:1$/);
  assert.equal(receipt.duplicate, false);
  const taken = await take(events, ({ type }) => type === "message");
  const { time, ...message } = taken.at(-1);
  assert.deepEqual(message, {
    type: "message",
    topic: "orders.eu",
    offset: 1,
    data: { any: "json" },
    headers: { trace: "1" },
    cursor: receipt.cursor,
  });
  assert.ok(Math.abs(Date.now() - time) < 60_000);
});

test("takes every form of URL, also with a path in front", async (t) => {
  const broker = await start(t);
  for (const url of [broker.url, `${broker.url}/`, `${broker.url}/ws`, `${broker.url.replace("http", "ws")}/ws`]) {
    const hark = client(t, url);
    await hark.publish("a", url);
    hark.close();
  }
  assert.throws(() => connect({ url: "ftp://hark.test" }), { code: "bad_url" });
});

test("is told for good that a token is not looked at, where no authentication is configured", async (t) => {
  const broker = await start(t);
  for (const transport of ["websocket", "sse", "longpoll"]) {
    const changes = [];
    const hark = client(t, broker.url, { transports: [transport], token: "garbage" });
    hark.on("state", (change) => changes.push(change));
    await assert.rejects(hark.publish("a", 1), transport);
    await until(`${transport} is closed`, () => changes.at(-1)?.state === "closed");
    assert.equal(changes.at(-1).error.code, "unsupported", transport);
  }
});

test("goes on after kill -9 and a restart: nothing missing, nothing twice", async (t) => {
  const broker = await start(t);
  const reader = client(t, broker.url);
  const writer = client(t, broker.url);
  const events = reader.subscribe("a", { from: "earliest" });
  const seen = [];
  const done = (async () => {
    for await (const event of events) {
      assert.notEqual(event.type, "gap");
      if (event.type === "message") seen.push(event.data);
      if (seen.length === 300) return;
    }
  })();
  for (const round of [0, 1, 2]) {
    const receipts = count(100).map((n) => writer.publish("a", round * 100 + n));
    // Some are answered, some are under way.
    await receipts[10];
    await broker.kill();
    await broker.restart();
    await Promise.all(receipts);
  }
  await done;
  assert.deepEqual(seen, count(300));
  assert.deepEqual(await broker.history("a"), count(300));
});

test("keeps once and in order what is published across cut connections", async (t) => {
  const broker = await start(t);
  const proxy = await Proxy.start(broker.url);
  t.after(() => proxy.close());
  const hark = client(t, proxy.url);
  const receipts = count(600).map((n) => hark.publish(`t${n % 3}`, n));
  for (const at of [30, 200, 400]) {
    await receipts[at];
    proxy.cut();
  }
  await Promise.all(receipts);
  for (const k of [0, 1, 2])
    assert.deepEqual(
      await broker.history(`t${k}`),
      count(600).filter((n) => n % 3 === k),
    );
});

test("goes on from the stored cursor after a reload", async (t) => {
  const broker = await start(t);
  const cursor = memoryCursor();
  for (const n of count(10)) await broker.publish("a", n);
  const first = client(t, broker.url);
  const events = first.subscribe("a", { from: "earliest", cursor });
  assert.deepEqual(await messages(events, 4), [1, 2, 3, 4]);
  // The fourth was given but not taken: whoever dies over it gets it again.
  first.close();
  assert.match(cursor.load(), /:3$/);
  const second = client(t, broker.url);
  assert.deepEqual(await messages(second.subscribe("a", { from: "now", cursor }), 7), [4, 5, 6, 7, 8, 9, 10]);
});

test("a stored cursor may be read asynchronously, and one that is none is passed over", async (t) => {
  const broker = await start(t);
  for (const n of [1, 2, 3]) await broker.publish("a", n);
  const { cursor } = await broker.publish("a", 4);
  const { cursor: at } = await (await fetch(`${broker.url}/v1/topics/a/messages?from=earliest&limit=2`)).json();
  const later = (value) => ({ load: async () => value, save: async () => {} });
  const hark = client(t, broker.url);
  const good = hark.subscribe("a", { cursor: later(at) });
  assert.deepEqual(await messages(good, 2), [3, 4]);
  good.close();
  const bad = hark.subscribe("a", { from: { last: 1 }, cursor: later("rubbish") });
  assert.equal((await take(bad, ({ type }) => type === "message")).at(-1).cursor, cursor);
});

test("callbacks: one message after the other, taken when they are done", async (t) => {
  const broker = await start(t);
  for (const n of count(20)) await broker.publish("a", n);
  const cursor = memoryCursor();
  const hark = client(t, broker.url);
  const subscription = hark.subscribe("a", { from: "earliest", cursor });
  const seen = [];
  let running = 0;
  subscription.on("message", async ({ data, offset }) => {
    assert.equal(++running, 1, "not two at a time");
    await new Promise((resolve) => setImmediate(resolve));
    assert.match(cursor.load() ?? ":0", new RegExp(`:${offset - 1}$`), "not stored before it is done");
    running--;
    seen.push(data);
  });
  const caughtUp = new Promise((resolve) => subscription.on("caught_up", resolve));
  await caughtUp;
  assert.deepEqual(seen, count(20));
  await until("the last is stored", () => cursor.load()?.endsWith(":20"));
});

test("says what has expired", async (t) => {
  const broker = await start(t, "--retention-messages", "5");
  const { cursor } = await broker.publish("a", 1);
  await broker.publishMany("a", count(2000).map((n) => n + 1));
  const hark = client(t, broker.url);
  const first = await until("retention has taken something", async () => {
    const { first } = await (await fetch(`${broker.url}/v1/topics/a`)).json();
    return first > 2 && first;
  });
  const events = hark.subscribe("a", { from: { after: cursor } });
  const [gap, message] = await take(events, ({ type }) => type === "message");
  assert.equal(gap.type, "gap");
  assert.equal(gap.reason, "expired");
  assert.equal(gap.from, 2);
  assert.ok(gap.to >= first - 1);
  assert.equal(message.offset, gap.to + 1);
});

test("says that a topic was deleted, and goes on with the new one", async (t) => {
  const broker = await start(t);
  const hark = client(t, broker.url);
  const events = hark.subscribe("a", { from: "earliest" });
  await hark.publish("a", "old");
  await take(events, ({ type }) => type === "message");
  await fetch(`${broker.url}/v1/topics/a`, { method: "DELETE" });
  // The producer is forgotten with the topic, which the client finds out by itself.
  await hark.publish("a", "new");
  await hark.publish("a", "newer");
  const taken = await take(events, ({ data }) => data === "newer");
  const kinds = taken
    .filter(({ type }) => type !== "caught_up")
    .map(({ type, reason, data }) => reason ?? data ?? type);
  assert.deepEqual(kinds, ["deleted", "new", "newer"]);
});

test("a consumer that lags is parked, and misses nothing", async (t) => {
  const broker = await start(t);
  const hark = client(t, broker.url, { queue: { messages: 10 } });
  const events = hark.subscribe("a", { from: "earliest" });
  await events.ready;
  const other = hark.subscribe("b");
  await other.ready;
  await Promise.all(count(500).map((n) => hark.publish("a", n)));
  // Others are not held up meanwhile.
  await hark.publish("b", "through");
  assert.deepEqual(await messages(other, 1), ["through"]);
  assert.deepEqual(await messages(events, 500), count(500));
});

test("a topic can be subscribed to again, but not twice at a time", async (t) => {
  const broker = await start(t);
  await broker.publish("a", 1);
  const hark = client(t, broker.url);
  const first = hark.subscribe("a", { from: "earliest" });
  assert.throws(() => hark.subscribe("a"), { name: "SubscribeError", code: "already_subscribed" });
  first.close();
  for (let at = 0; at < 20; at++) hark.subscribe("a").close();
  assert.deepEqual(await messages(hark.subscribe("a", { from: "earliest" }), 1), [1]);
  assert.deepEqual(await first.next(), { done: true, value: undefined });
});

test("what Hark refuses ends that subscription or message alone", async (t) => {
  const broker = await start(t);
  const hark = client(t, broker.url);
  await assert.rejects(hark.subscribe("a..b").next(), { name: "SubscribeError", code: "bad_topic", topic: "a..b" });
  const called = hark.subscribe("c", { from: { after: "rubbish" } });
  called.on("message", () => {});
  const error = await new Promise((resolve) => called.on("error", resolve));
  assert.equal(error.code, "bad_cursor");
  await assert.rejects(hark.publish("$sys.x", 1), { name: "PublishError", code: "bad_topic" });
  await assert.rejects(hark.publish("a", "x".repeat(1 << 20)), { code: "too_large", maybeKept: false });
  await assert.rejects(hark.publish("a", undefined), { code: "bad_data" });
  await assert.rejects(hark.publish("a", 1n), { code: "bad_data" });
  for (let times = 0; times < 20; times++) {
    await assert.rejects(hark.publish("a", 1, { headers: { n: 1 } }), { code: "bad_frame" });
    await assert.rejects(hark.publish(undefined, "to no topic"), { name: "PublishError", code: "bad_topic" });
    await hark.publish("a", "and what is right passes");
  }
  assert.equal((await hark.publish("a", "ü".repeat(400_000))).duplicate, false);
});

test("the window of unanswered messages is bounded", async (t) => {
  const broker = await start(t);
  await broker.kill();
  const hark = client(t, broker.url, { window: { messages: 3 } });
  const waiting = count(3).map((n) => hark.publish("a", n));
  await assert.rejects(hark.publish("a", 4), { code: "window_full", maybeKept: false });
  await broker.restart();
  await Promise.all(waiting);
  await hark.publish("a", 5);
  assert.deepEqual(await broker.history("a"), [1, 2, 3, 5]);
});

test("a restart tells its time: nobody comes back before", async (t) => {
  const broker = await start(t, "--drain", "300ms");
  const hark = client(t, broker.url);
  await hark.publish("a", 1);
  const changes = [];
  hark.on("state", ({ state }) => changes.push(state));
  await broker.stop();
  await broker.restart();
  await hark.publish("a", 2);
  assert.deepEqual(changes.slice(0, 1), ["waiting"]);
  assert.equal(changes.at(-1), "open");
});

test("close ends everything: the process exits", async (t) => {
  const broker = await start(t);
  const script = `
    import { connect } from ${JSON.stringify(new URL("../src/index.js", import.meta.url).href)};
    import { WebSocket } from ${JSON.stringify(import.meta.resolve("ws"))};
    const here = connect({ url: ${JSON.stringify(broker.url)}, WebSocket });
    const nowhere = connect({ url: "http://127.0.0.1:1", WebSocket });
    const overHttp = connect({ url: "http://127.0.0.1:1", transports: ["longpoll"] });
    const lost = nowhere.publish("a", 1).catch(({ code }) => console.log(code));
    const events = here.subscribe("a");
    await here.publish("a", 1);
    const loop = (async () => { for await (const event of events); })();
    for (const hark of [here, nowhere, overHttp]) hark.close();
    await loop;
    await lost;
    console.log(here.state);
  `;
  const child = spawn(process.execPath, ["--input-type=module", "--eval", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  t.after(() => child.kill("SIGKILL"));
  let said = "";
  child.stdout.on("data", (text) => (said += text));
  await until("the process exits", () => child.exitCode !== null);
  assert.equal(said, "closed\nclosed\n");
});

// Ten frames in a row that Hark cannot read end a connection for good: they must never be said.
const many = (names, value = "v") => Object.fromEntries(Array.from({ length: names }, (_, at) => [`h${at}`, value]));
const half = "\ud800";
const unreadable = {
  "no topic": ["", 1, {}, "bad_topic"],
  "a topic with an empty segment": ["a..b", 1, {}, "bad_topic"],
  "a topic that ends with a dot": ["a.", 1, {}, "bad_topic"],
  "a topic with a space": ["a b", 1, {}, "bad_topic"],
  "a topic with a line break": ["a\n", 1, {}, "bad_topic"],
  "a topic with a dollar inside": ["a$b", 1, {}, "bad_topic"],
  "a topic of the system": ["$sys.a", 1, {}, "bad_topic"],
  "a long topic": ["a".repeat(256), 1, {}, "bad_topic"],
  "a header that is no text": ["a", 1, { headers: { n: 1 } }, "bad_frame"],
  "a header that is a list": ["a", 1, { headers: { n: ["b"] } }, "bad_frame"],
  "a header with half a character": ["a", 1, { headers: { n: half } }, "bad_frame"],
  "a header named half a character": ["a", 1, { headers: { [half]: "\udc00" } }, "bad_frame"],
  "a header without a name": ["a", 1, { headers: { "": "b" } }, "bad_frame"],
  "headers that are a list": ["a", 1, { headers: ["b"] }, "bad_frame"],
  "headers that are a text": ["a", 1, { headers: "b" }, "bad_frame"],
  "headers that are an empty text": ["a", 1, { headers: "" }, "bad_frame"],
  "33 headers": ["a", 1, { headers: many(33) }, "too_large"],
  "headers of 4,097 bytes": ["a", 1, { headers: { h: "ü".repeat(2048) } }, "too_large"],
  "an empty key": ["a", 1, { messageId: "" }, "bad_frame"],
  "a key of 65 bytes": ["a", 1, { messageId: "k".repeat(65) }, "bad_frame"],
  "a key of 66 bytes": ["a", 1, { messageId: "ü".repeat(33) }, "bad_frame"],
  "a key with a control character": ["a", 1, { messageId: "a\u0085" }, "bad_frame"],
  "a key with half a character": ["a", 1, { messageId: half }, "bad_frame"],
  "a key that is no text": ["a", 1, { messageId: 5 }, "bad_frame"],
  "a content type of 256 bytes": ["a", new Uint8Array(), { contentType: "t".repeat(256) }, "bad_frame"],
  "a content type with a line break": ["a", new Uint8Array(), { contentType: "a\nb" }, "bad_frame"],
  "a content type that is no text": ["a", new Uint8Array(), { contentType: {} }, "bad_frame"],
  "JSON with a content type": ["a", { any: "json" }, { contentType: "text/plain" }, "bad_frame"],
  "nothing with a content type": ["a", undefined, { contentType: "text/plain" }, "bad_data"],
  "a string that is called an image": ["a", "a", { contentType: "image/png" }, "bad_frame"],
  "a string of another charset": ["a", "a", { contentType: 'text/a; b; Charset="latin1"' }, "bad_frame"],
  "text with half a character": ["a", half, { contentType: "text/plain" }, "bad_frame"],
  "data that JSON cannot say": ["a", () => {}, {}, "bad_data"],
};

test("ten messages in a row that Hark could not read cost the client nothing", async (t) => {
  const broker = await start(t);
  const hark = client(t, broker.url);
  const changes = [];
  hark.on("state", ({ state }) => changes.push(state));
  for (const [what, [topic, data, options, code]] of Object.entries(unreadable)) {
    const refused = count(10).map(() =>
      assert.rejects(hark.publish(topic, data, options), { name: "PublishError", code, topic, maybeKept: false }, what),
    );
    await Promise.all([...refused, hark.publish("b", what)]);
  }
  assert.deepEqual(changes, ["connecting", "open"]);
  assert.deepEqual(await broker.history("b"), Object.keys(unreadable));
});

test("what is just within the limits is kept", async (t) => {
  const broker = await start(t);
  const hark = client(t, broker.url);
  const topic = `${"a-Z_9:@.".repeat(31)}1234567`;
  assert.equal(topic.length, 255);
  const whole = "\u{1f600}";
  await hark.publish(topic, half, { headers: { ...many(31), whole }, messageId: whole.repeat(16) });
  await hark.publish(topic, 2, { headers: { [whole]: "ü".repeat(2046) }, messageId: null });
  await hark.publish(topic, new Uint8Array(), { contentType: "ü".repeat(127), headers: null });
  await hark.publish(topic, new Uint8Array(), { contentType: "", headers: { "a\u0000": "b\n" } });
  assert.equal((await broker.history(topic)).length, 4);
});

test("text comes back as the text it was, whoever published it", async (t) => {
  const broker = await start(t);
  const hark = client(t, broker.url);
  const events = hark.subscribe("a", { from: "earliest" });
  const plain = "text/plain; charset=utf-8";
  const published = [
    ["Grüße\n", plain],
    ["", "text/html"],
    // It comes as base64, being longer as text.
    ["\u0000\u0001", 'TEXT/plain;a=b ;CHARSET = "US-ascii"'],
    ["\ufeffwith a mark", "text/csv;header"],
  ];
  for (const [data, contentType] of published) await hark.publish("a", data, { contentType });
  const body = (text, type) => ({ method: "POST", body: text, headers: { "content-type": type } });
  await fetch(`${broker.url}/v1/topics/a/messages`, body("hello", "application/x-www-form-urlencoded"));
  await fetch(`${broker.url}/v1/topics/a/messages`, body(Uint8Array.of(0xff), "text/plain"));
  await hark.publish("a", new TextEncoder().encode("bytes"), { contentType: "text/plain;charset=latin1" });
  await hark.publish("a", "JSON");
  const taken = (await take(events, ({ offset }) => offset === 8)).filter(({ type }) => type === "message");
  assert.deepEqual(
    taken.map(({ data, contentType }) => [data, contentType]),
    [
      ...published,
      ["hello", plain],
      [Uint8Array.of(0xff), "text/plain"],
      [new TextEncoder().encode("bytes"), "text/plain;charset=latin1"],
      ["JSON", undefined],
    ],
  );
});

test("ten subscriptions in a row that Hark cannot read end alone", async (t) => {
  const broker = await start(t);
  const hark = client(t, broker.url);
  const changes = [];
  hark.on("state", ({ state }) => changes.push(state));
  for (const [topic, from, code] of [
    ["a..b", "now", "bad_topic"],
    ["$", "now", "bad_topic"],
    ["", "now", "bad_topic"],
    ["a", {}, "bad_cursor"],
    ["a", null, "bad_cursor"],
    ["a", "soon", "bad_cursor"],
    ["a", { last: -1 }, "bad_cursor"],
    ["a", { after: "rubbish" }, "bad_cursor"],
    // These only Hark can tell.
    ["a", { after: "no-epoch:1" }, "bad_cursor"],
    ["a", { since: "a while" }, "bad_cursor"],
    ["a", { since: new Date(8.64e15) }, "bad_cursor"],
  ]) {
    const ended = count(12).map((n) => {
      const name = topic === "a" ? `a${n}` : topic;
      const subscription = hark.subscribe(name, { from });
      return assert.rejects(subscription.next(), { name: "SubscribeError", code, topic: name });
    });
    await Promise.all(ended);
  }
  await hark.subscribe("$sys.anything").ready;
  await hark.subscribe("a", { from: { since: "5m" } }).ready;
  assert.deepEqual(changes, ["connecting", "open"]);
});

test("publishes more than it may in a time, and loses nothing", async (t) => {
  for (const transport of ["websocket", "sse"]) {
    const broker = await start(t, "--limit-commands", "all=200/s");
    const hark = client(t, broker.url, { transports: [transport] });
    const receipts = await Promise.all(count(600).map((n) => hark.publish("a", n)));
    assert.ok(
      receipts.every(({ cursor, duplicate }, at) => cursor.endsWith(`:${at + 1}`) && !duplicate),
      transport,
    );
    assert.deepEqual(await messages(hark.subscribe("a", { from: "earliest" }), 600), count(600), transport);
  }
});

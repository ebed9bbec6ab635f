// Against the real broker, where a WebSocket cannot be had: the same promises over server-sent events and long-poll, and the way
// back to a WebSocket.

import assert from "node:assert/strict";
import test from "node:test";
import { WebSocket } from "ws";
import { connect } from "../src/index.js";
import { Broker } from "./support/broker.js";
import { Proxy } from "./support/proxy.js";
import { messages, take, until } from "./support/until.js";

const start = async (t, ...more) => {
  const broker = await Broker.start(...more);
  t.after(() => broker.delete());
  const proxy = await Proxy.start(broker.url);
  t.after(() => proxy.close());
  return { broker, proxy };
};
const client = (t, url, options) => {
  const hark = connect({ url, WebSocket, ...options });
  t.after(() => hark.close());
  return hark;
};
const count = (to) => Array.from({ length: to }, (_, at) => at + 1);
const opened = (hark) => until("it is open", () => hark.state === "open" && hark.transport);

for (const transport of ["sse", "longpoll"]) {
  const over = (name, run) => test(`${transport}: ${name}`, (t) => run(t, { transports: [transport] }));

  over("publishes and subscribes, bytes, text and headers too", async (t, options) => {
    const { broker, proxy } = await start(t);
    const hark = client(t, proxy.url, options);
    const events = hark.subscribe("orders.eu", { from: "earliest" });
    const receipts = [
      await hark.publish("orders.eu", { any: "json" }, { headers: { trace: "1" } }),
      await hark.publish("orders.eu", Uint8Array.of(0, 255), { contentType: "image/png" }),
      await hark.publish("orders.eu", "# Grüße\n", { contentType: "text/markdown" }),
    ];
    assert.match(receipts[2].cursor, /:3$/);
    const taken = (await take(events, ({ offset }) => offset === 3)).filter(({ type }) => type === "message");
    assert.deepEqual(
      taken.map(({ data, headers, contentType, cursor }) => [data, headers, contentType, cursor]),
      [
        [{ any: "json" }, { trace: "1" }, undefined, receipts[0].cursor],
        [Uint8Array.of(0, 255), {}, "image/png", receipts[1].cursor],
        ["# Grüße\n", {}, "text/markdown", receipts[2].cursor],
      ],
    );
    assert.deepEqual(
      proxy.requests.filter((line) => line.startsWith("UPGRADE")),
      [],
    );
  });

  over("starts where it is told to", async (t, options) => {
    const { broker } = await start(t);
    for (const n of count(5)) await broker.publish("a", n);
    const { cursor } = await (await fetch(`${broker.url}/v1/topics/a/messages?from=earliest&limit=2`)).json();
    for (const [from, expected] of [
      ["earliest", [1, 2, 3, 4, 5]],
      [{ last: 2 }, [4, 5]],
      [{ after: cursor }, [3, 4, 5]],
      [{ since: "1h" }, [1, 2, 3, 4, 5]],
    ]) {
      const hark = client(t, broker.url, options);
      const events = hark.subscribe("a", { from });
      assert.deepEqual(await messages(events, expected.length), expected, JSON.stringify(from));
      assert.equal((await events.ready).split(":")[1], String(5 - expected.length));
      hark.close();
    }
    const hark = client(t, broker.url, options);
    const events = hark.subscribe("a");
    assert.equal((await events.ready).split(":")[1], "5");
    await broker.publish("a", 6);
    assert.deepEqual(await messages(events, 1), [6]);
  });

  over("says caught_up once, behind what was kept", async (t, options) => {
    const { broker } = await start(t);
    for (const n of count(3)) await broker.publish("a", n);
    const hark = client(t, broker.url, options);
    const events = hark.subscribe("a", { from: "earliest" });
    const kept = await take(events, ({ type }) => type === "caught_up");
    assert.deepEqual(
      kept.map(({ type, data }) => data ?? type),
      [1, 2, 3, "caught_up"],
    );
    await broker.publish("a", 4);
    assert.equal((await take(events, () => true))[0].data, 4);
  });

  over("goes on after kill -9 and a restart: nothing missing, nothing twice", async (t, options) => {
    const { broker } = await start(t);
    const hark = client(t, broker.url, options);
    const events = hark.subscribe("a", { from: "earliest" });
    const all = messages(events, 150);
    for (const round of [0, 1, 2]) {
      const receipts = count(50).map((n) => hark.publish("a", round * 50 + n));
      await receipts[0];
      await broker.kill();
      await broker.restart();
      await Promise.all(receipts);
    }
    assert.deepEqual(await all, count(150));
    assert.deepEqual(await broker.history("a"), count(150));
  });

  over("keeps once and in order what is published across cut connections", async (t, options) => {
    const { broker, proxy } = await start(t);
    const hark = client(t, proxy.url, options);
    const receipts = count(300).map((n) => hark.publish(`t${n % 3}`, n));
    for (const at of [5, 100, 200]) {
      await receipts[at];
      proxy.cut();
    }
    await Promise.all(receipts);
    for (const k of [0, 1, 2])
      assert.deepEqual(
        await broker.history(`t${k}`),
        count(300).filter((n) => n % 3 === k),
      );
  });

  over("more than 32 topics take several streams, none of more than 32", async (t, options) => {
    const { broker, proxy } = await start(t);
    const hark = client(t, proxy.url, options);
    const topics = count(70).map((n) => `many.t${n}`);
    const subscriptions = topics.map((topic) => hark.subscribe(topic, { from: "earliest" }));
    await Promise.all(subscriptions.map(({ ready }) => ready));
    await Promise.all(topics.map((topic) => hark.publish(topic, topic)));
    for (const [at, events] of subscriptions.entries()) assert.deepEqual(await messages(events, 1), [topics[at]]);
    const streams = proxy.requests.filter((line) => /^GET \/v1\/(events|messages)/.test(line));
    const sizes = streams.map((line) => line.split("topic=").length - 1);
    assert.equal(Math.max(...sizes), 32);
    // One topic less: the others go on.
    subscriptions[0].close();
    await Promise.all(topics.map((topic) => hark.publish(topic, "again")));
    for (const events of subscriptions.slice(1)) assert.deepEqual(await messages(events, 1), ["again"]);
  });

  over("one topic that is refused costs the others nothing", async (t, options) => {
    const { broker } = await start(t);
    const hark = client(t, broker.url, options);
    const good = hark.subscribe("a", { from: "earliest" });
    const bad = hark.subscribe("a..b");
    const old = hark.subscribe("c", { from: { after: "rubbish" } });
    await assert.rejects(bad.next(), { name: "SubscribeError", code: "bad_topic", topic: "a..b" });
    await assert.rejects(old.next(), { code: "bad_cursor", topic: "c" });
    await broker.publish("a", 1);
    assert.deepEqual(await messages(good, 1), [1]);
    await assert.rejects(hark.publish("a..b", 1), { name: "PublishError", code: "bad_topic" });
    await assert.rejects(hark.publish("a", "x".repeat(1 << 20)), { code: "too_large" });
    assert.equal(hark.state, "open");
  });

  over("says gaps: expired, and deleted", async (t, options) => {
    const { broker } = await start(t, "--retention-messages", "5");
    const { cursor } = await broker.publish("a", 1);
    await broker.publishMany("a", count(2000).map((n) => n + 1));
    await until(
      "retention has taken something",
      async () => (await (await fetch(`${broker.url}/v1/topics/a`)).json()).first > 2,
    );
    const hark = client(t, broker.url, options);
    const events = hark.subscribe("a", { from: { after: cursor } });
    const [gap, message] = await take(events, ({ type }) => type === "message");
    assert.deepEqual([gap.reason, gap.from, gap.to], ["expired", 2, message.offset - 1]);
    await take(events, ({ data }) => data === 2001);
    await fetch(`${broker.url}/v1/topics/a`, { method: "DELETE" });
    await hark.publish("a", "new");
    const taken = await take(events, ({ data }) => data === "new");
    assert.deepEqual(
      taken.map(({ type, reason }) => reason ?? type).filter((word) => word !== "caught_up"),
      ["deleted", "message"],
    );
  });

  over("a consumer that lags is parked, and misses nothing", async (t, options) => {
    const { broker } = await start(t);
    const hark = client(t, broker.url, { ...options, queue: { messages: 10 } });
    const events = hark.subscribe("a", { from: "earliest" });
    const other = hark.subscribe("b", { from: "earliest" });
    await Promise.all(count(200).map((n) => hark.publish("a", n)));
    await hark.publish("b", "through");
    assert.deepEqual(await messages(other, 1), ["through"]);
    assert.deepEqual(await messages(events, 200), count(200));
  });
}

test("falls back to server-sent events where WebSockets are refused, and comes back", async (t) => {
  const { broker, proxy } = await start(t);
  proxy.websockets = "refuse";
  const hark = client(t, proxy.url, { probeMs: 50 });
  const changes = [];
  hark.on("state", ({ state, transport }) => changes.push(transport ?? state));
  const events = hark.subscribe("a", { from: "earliest" });
  const receipts = count(20).map((n) => hark.publish("a", n));
  assert.equal(await opened(hark), "sse");
  assert.deepEqual(await messages(events, 20), count(20));
  await Promise.all(receipts);
  const more = count(20).map((n) => hark.publish("a", 20 + n));
  proxy.websockets = "pass";
  await until("it is back on a WebSocket", () => hark.transport === "websocket");
  await Promise.all(more);
  await hark.publish("a", 41);
  assert.deepEqual(await messages(events, 21), count(41).slice(20));
  assert.deepEqual(await broker.history("a"), count(41));
  assert.deepEqual(changes, ["connecting", "sse", "websocket"]);
});

test("falls back to long-poll where streams are held back, too", async (t) => {
  const { proxy } = await start(t);
  proxy.websockets = "refuse";
  proxy.holdsStreams = true;
  const hark = client(t, proxy.url, { connectTimeoutMs: 300 });
  const events = hark.subscribe("a", { from: "earliest" });
  await hark.publish("a", 1);
  assert.deepEqual(await messages(events, 1), [1]);
  assert.equal(hark.transport, "longpoll");
});

test("what is better is tried in the background, and does not take over while it lets nothing through", async (t) => {
  const { proxy } = await start(t);
  proxy.websockets = "refuse";
  proxy.holdsStreams = true;
  const hark = client(t, proxy.url, { connectTimeoutMs: 300, probeMs: 10 });
  const changes = [];
  const events = hark.subscribe("a", { from: "earliest" });
  await until("it has fallen back", () => hark.transport === "longpoll");
  hark.on("state", (change) => changes.push(change));
  proxy.requests.length = 0;
  const tries = (what) => proxy.requests.filter((line) => line.includes(what)).length;
  await until("some tries of both", () => tries("UPGRADE") >= 4 && tries("/events") >= 3);
  await hark.publish("a", 1);
  assert.deepEqual(await messages(events, 1), [1]);
  assert.deepEqual(changes, []);
});

test("falls back where WebSockets are swallowed", async (t) => {
  const { proxy } = await start(t);
  proxy.websockets = "swallow";
  const hark = client(t, proxy.url, { connectTimeoutMs: 300 });
  await hark.publish("a", 1);
  assert.ok(proxy.requests.some((line) => line.startsWith("UPGRADE")));
  // Which of the two, a busy machine decides: what does not answer in so short a time is passed over too.
  assert.ok(["sse", "longpoll"].includes(hark.transport), hark.transport);
});

test("does without a WebSocket where there is none", async (t) => {
  const { broker } = await start(t);
  const hark = client(t, broker.url, { WebSocket: null });
  await hark.publish("a", 1);
  assert.equal(hark.transport, "sse");
  assert.throws(() => connect({ url: broker.url, WebSocket: null, transports: ["websocket"] }), {
    code: "unsupported_runtime",
  });
  assert.throws(() => connect({ url: broker.url, transports: ["websockets", "sse"] }), {
    code: "no_transport",
    message: /websockets/,
  });
});

test("a WebSocket that cannot be had any more is passed over at once, also if it has worked", async (t) => {
  const { proxy } = await start(t);
  const hark = client(t, proxy.url);
  await hark.publish("a", 1);
  proxy.requests.length = 0;
  proxy.websockets = "refuse";
  proxy.cut();
  await until("it has fallen back", () => hark.transport === "sse");
  const tries = proxy.requests.filter((line) => line.startsWith("UPGRADE"));
  assert.equal(tries.length, 1);
});

test("reconnect begins with the best transport", async (t) => {
  const { proxy } = await start(t);
  proxy.websockets = "refuse";
  const hark = client(t, proxy.url);
  assert.equal(await opened(hark), "sse");
  proxy.websockets = "pass";
  hark.reconnect();
  await until("it is back on a WebSocket", () => hark.transport === "websocket");
});

// Against the real broker, through what real lines and proxies do to HTTP. Whatever it is, each message arrives once and each
// publish has its receipt, and no client ends for it.

import assert from "node:assert/strict";
import test from "node:test";
import { connect } from "../src/index.js";
import { Broker } from "./support/broker.js";
import { Proxy } from "./support/proxy.js";
import { messages, until } from "./support/until.js";

const start = async (t, options, ...more) => {
  const broker = await Broker.start(...more);
  t.after(() => broker.delete());
  const proxy = await Proxy.start(broker.url);
  t.after(() => proxy.close());
  const hark = connect({ url: proxy.url, WebSocket: null, ...options });
  t.after(() => hark.close());
  const changes = [];
  hark.on("state", (change) => changes.push(change));
  return { broker, proxy, hark, changes };
};
const count = (to) => Array.from({ length: to }, (_, at) => at + 1);

for (const [what, status, headers, body] of [
  ["a page that asks to sign in", 200, { "content-type": "text/html" }, "<h1>Sign in</h1>"],
  ["a proxy's 401", 401, { "content-type": "text/html", "www-authenticate": "Basic" }, "<h1>401</h1>"],
  ["a proxy's 403", 403, { "content-type": "text/html" }, "<h1>403</h1>"],
  ["a gateway's JSON", 403, { "content-type": "application/json" }, '{"code":"AccessDenied","message":"no"}'],
  ["another server's 404", 404, { "content-type": "text/html" }, "<h1>404</h1>"],
])
  test(`${what}: the client comes through as soon as it is gone`, async (t) => {
    const { broker, proxy, hark, changes } = await start(t);
    const answer = (request, response) => (response.writeHead(status, headers).end(body), true);
    proxy.intercept = answer;
    const events = hark.subscribe("a", { from: "earliest" });
    const receipts = [hark.publish("a", 1)];
    await until("it waits", () => changes.filter(({ state }) => state === "waiting").length >= 2);
    proxy.intercept = () => false;
    await receipts[0];
    assert.deepEqual(await messages(events, 1), [1]);
    // In the midst of it, too.
    proxy.intercept = answer;
    proxy.cut();
    receipts.push(hark.publish("a", 2));
    await until("it waits again", () => hark.state === "waiting");
    proxy.intercept = () => false;
    await receipts[1];
    assert.deepEqual(await messages(events, 1), [2]);
    assert.deepEqual(await broker.history("a"), [1, 2]);
    assert.ok(changes.every(({ state }) => state !== "closed"));
  });

test("an event stream that dies in its body is given up for long-poll", async (t) => {
  const { broker, proxy, hark } = await start(t, {}, "--heartbeat", "1s");
  proxy.passesBytes = ({ url }) => (url.startsWith("/v1/events") ? 1000 : Infinity);
  const events = hark.subscribe("a", { from: "earliest" });
  const all = messages(events, 40);
  for (const n of count(40)) await hark.publish("a", n);
  assert.deepEqual(await all, count(40));
  assert.deepEqual(await broker.history("a"), count(40));
  assert.equal(hark.transport, "longpoll");
});

for (const transport of ["sse", "longpoll"])
  test(`${transport}: a message that takes longer than any silence may last arrives, and so does its receipt`, async (t) => {
    const { broker, proxy, hark, changes } = await start(t, { transports: [transport] }, "--heartbeat", "500ms");
    proxy.bytesPerSecond = 50_000;
    const events = hark.subscribe("a", { from: "earliest" });
    await hark.publish("a", "first");
    proxy.requests.length = 0;
    const large = "x".repeat(200_000);
    const receipt = hark.publish("a", large);
    assert.deepEqual(await messages(events, 2), ["first", large]);
    await receipt;
    assert.deepEqual(await broker.history("a"), ["first", large]);
    assert.deepEqual(
      changes.map(({ state }) => state),
      ["connecting", "open"],
    );
    assert.equal(proxy.requests.filter((line) => line.startsWith("POST")).length, 1);
  });

test("an answer whose body dies costs no receipt, and keeps nothing twice", async (t) => {
  const { broker, proxy, hark } = await start(t, { transports: ["longpoll"] });
  await hark.publish("a", 0);
  let dying = 3;
  proxy.passesBytes = ({ method }) => (method === "POST" && dying-- > 0 ? 100 : Infinity);
  const receipts = count(10).map((n) => hark.publish("a", n));
  // What comes no more is not waited for to the end here: the line is cut, as the deadline would.
  for (const left of [2, 1, 0]) {
    await until("another answer dies", () => dying <= left);
    await new Promise((resolve) => setTimeout(resolve, 100));
    proxy.cut();
  }
  await Promise.all(receipts);
  assert.deepEqual(await broker.history("a"), [0, ...count(10)]);
});

test("a fetch without body streams has each message once and each receipt", async (t) => {
  const withoutBodies = async (url, init) => {
    const response = await fetch(url, init);
    const { ok, status, headers } = response;
    return { ok, status, headers, text: () => response.text() };
  };
  const { broker, proxy, hark } = await start(t, { fetch: withoutBodies });
  const events = hark.subscribe("a", { from: "earliest" });
  const all = messages(events, 30);
  const receipts = count(10).map((n) => hark.publish("a", n));
  await Promise.all(receipts);
  for (const n of count(20)) await hark.publish("a", 10 + n);
  assert.deepEqual(await all, count(30));
  assert.deepEqual(await broker.history("a"), count(30));
  assert.equal(hark.transport, "longpoll");
  assert.ok(proxy.requests.filter((line) => line.startsWith("POST")).length <= 24, "none was sent again and again");
});

// A browser's six connections: however many pages read, a publish finds one, and every page has every message once.

import assert from "node:assert/strict";
import test from "node:test";
import { openLongPoll } from "../src/longpoll.js";
import { openSse } from "../src/sse.js";
import { fakeClock } from "./support/clock.js";
import { eventStream, nothing, openLine, pages, scriptedFetch } from "./support/http.js";
import { beAPage, connections, fakeChannels, fakeLocks } from "./support/tabs.js";

/** A Hark with its topics in memory, as it is seen over HTTP. */
const server = () => {
  const topics = new Map();
  const readers = new Set();
  const of = (topic) => topics.get(topic) ?? topics.set(topic, []).get(topic);
  const after = (topic, from) =>
    from === "now" ? of(topic).length : from === "earliest" ? 0 : Number(from.split(":")[1]);
  const message = (topic, offset) => ({ type: "message", topic, offset, time: 1, data: of(topic)[offset - 1] });
  const pageOf = (topic, from) => {
    const start = after(topic, from);
    const messages = of(topic)
      .slice(start)
      .map((_, at) => message(topic, start + at + 1));
    return { topic, messages, cursor: `e:${of(topic).length}`, caught_up: true };
  };
  const asked = ({ query }) => query.getAll("topic").map((topic, at) => [topic, query.getAll("from")[at]]);
  const get = (request) => {
    const reader = { end: () => readers.delete(reader) };
    request.signal.addEventListener("abort", reader.end);
    if (request.pathname === "/v1/events") {
      const stream = eventStream();
      stream.begin();
      for (const [topic, from] of asked(request)) {
        const start = after(topic, from);
        stream.say({ type: "subscribed", topic, cursor: `e:${start}`, head: of(topic).length, resumed: true });
        for (let offset = start + 1; offset <= of(topic).length; offset++) stream.say(message(topic, offset));
      }
      const names = new Set(request.query.getAll("topic"));
      readers.add(
        Object.assign(reader, {
          isStream: true,
          published: (topic, offset) => names.has(topic) && stream.say(message(topic, offset)),
        }),
      );
      return stream.response;
    }
    const page = () => pages(...asked(request).map(([topic, from]) => pageOf(topic, from)));
    if (!request.query.get("wait")) return page();
    return new Promise((resolve) => {
      readers.add(Object.assign(reader, { published: () => (reader.end(), resolve(page())) }));
    });
  };
  const post = ({ body }) => {
    if (!body) return nothing();
    const lines = body.split("\n").map((line) => {
      const { id, topic, data } = JSON.parse(line);
      of(topic).push(data);
      for (const reader of [...readers]) reader.published(topic, of(topic).length);
      return JSON.stringify({ id, topic, cursor: `e:${of(topic).length}`, duplicate: false });
    });
    return new Response(`${lines.join("\n")}\n`, { headers: { "content-type": "application/x-ndjson" } });
  };
  return { get, post, streams: () => [...readers].filter(({ isStream }) => isStream).length, held: () => readers.size };
};

/** Pages that read a topic, through six connections. */
const start = async (t, { tabs, browser, open = openSse, topics = ["a"], most = 6 }) => {
  const clock = fakeClock(t);
  if (browser) beAPage(t, browser);
  const hark = server();
  const { fetch: inner, requests } = scriptedFetch(hark);
  const pool = connections(inner, most);
  const fetch = browser ? pool.fetch : inner;
  const lines = [];
  for (let n = 0; n < tabs; n++) {
    lines.push(
      openLine(
        t,
        open,
        {},
        (line) => topics.forEach((topic, at) => line.say({ type: "subscribe", id: at + 1, topic, from: "now" })),
        {
          fetch,
        },
      ),
    );
    await clock.pass(10);
  }
  const read = ({ heard }, topic = "a") =>
    heard.filter((frame) => frame.type === "message" && frame.topic === topic).map(({ data }) => data);
  const receipts = ({ heard }) => heard.filter(({ type }) => type === "published").map(({ id }) => id);
  let lastId = 1000;
  const publish = ({ line }, data, topic = "a") => line.publish(++lastId, JSON.stringify({ id: lastId, topic, data }));
  return { clock, hark, pool, requests, lines, read, receipts, publish };
};

for (const [transport, open] of Object.entries({ sse: openSse, longpoll: openLongPoll }))
  test(`${transport}: seven pages hold four connections, and each publishes and reads`, async (t) => {
    const { clock, hark, pool, lines, read, receipts, publish } = await start(t, {
      tabs: 7,
      browser: { locks: fakeLocks() },
      open,
    });
    await clock.pass(3000);
    assert.deepEqual(
      lines.map(({ told }) => told.opened.length),
      Array(7).fill(1),
    );
    assert.equal(hark.held(), 4);
    for (const [at, tab] of lines.entries()) {
      publish(tab, at);
      await clock.pass(10);
      assert.equal(receipts(tab).length, 1, "at once");
    }
    await clock.pass(5000);
    for (const tab of lines) assert.deepEqual(read(tab), [0, 1, 2, 3, 4, 5, 6]);
    assert.ok(pool.most <= 6);
    assert.deepEqual(
      lines.flatMap(({ told }) => told.lost),
      [],
    );
  });

test("who waits for a place polls about once a second, one at a time, and takes the place that gets free", async (t) => {
  const locks = fakeLocks();
  const { clock, hark, pool, requests, lines, read, publish } = await start(t, { tabs: 8, browser: { locks } });
  await clock.pass(1000);
  const polls = () => requests.filter(({ pathname }) => pathname === "/v1/messages").length;
  const before = polls();
  await clock.pass(10_000);
  assert.ok(polls() - before >= 32 && polls() - before <= 44, `${polls() - before} polls of four pages in ten seconds`);
  assert.ok(requests.every(({ query }) => !(Number(query.get("wait")) > 1)));
  assert.equal(pool.most, 5, "four streams and one poll");
  publish(lines[0], "first");
  await clock.pass(10);
  lines[1].line.close();
  lines[2].line.close();
  await clock.pass(10);
  assert.equal(hark.streams(), 4);
  publish(lines[0], "second");
  await clock.pass(3000);
  for (const at of [0, 3, 4, 5, 6, 7]) assert.deepEqual(read(lines[at]), ["first", "second"], `page ${at}`);
  for (const { line } of lines) line.close();
  await clock.pass(10);
  assert.deepEqual([locks.held(), clock.waiting, pool.busy], [[], 0, 0]);
});

test("each of a page's streams counts", async (t) => {
  const topics = Array.from({ length: 6 * 32 }, (_, n) => `t${n}`);
  const { clock, hark, pool, lines, read, publish } = await start(t, {
    tabs: 1,
    browser: { locks: fakeLocks() },
    topics,
  });
  await clock.pass(2000);
  assert.equal(hark.streams(), 4);
  for (const topic of topics) publish(lines[0], topic, topic);
  await clock.pass(5000);
  for (const topic of topics) assert.deepEqual(read(lines[0], topic), [topic]);
  assert.ok(pool.most <= 6);
});

test("a stream that is started again keeps its place", async (t) => {
  const { clock, hark, lines, requests } = await start(t, { tabs: 5, browser: { locks: fakeLocks() } });
  lines[0].line.say({ type: "subscribe", id: 2, topic: "b", from: "now" });
  await clock.pass(2000);
  assert.equal(hark.streams(), 4);
  assert.ok(lines[0].heard.some(({ type, topic }) => type === "subscribed" && topic === "b"));
  const topics = requests.filter(({ pathname }) => pathname === "/v1/events").map(({ query }) => query.getAll("topic"));
  assert.deepEqual(topics.at(-1).sort(), ["a", "b"], "by an event stream, not by asking in turn");
});

const noLocks = {
  "no locks": () => ({ BroadcastChannel: fakeChannels() }),
  "locks that throw, as in a sandbox": () => ({
    BroadcastChannel: fakeChannels(),
    locks: { request: () => Promise.reject(new DOMException("no", "SecurityError")) },
  }),
};
for (const [what, browser] of Object.entries(noLocks)) {
  test(`${what}: pages ask each other, and hold four connections`, async (t) => {
    const { clock, hark, pool, lines, read, receipts, publish } = await start(t, { tabs: 7, browser: browser() });
    await clock.pass(2000);
    assert.deepEqual([hark.streams(), lines.flatMap(({ told }) => told.opened).length], [4, 7]);
    for (const [at, tab] of lines.entries()) {
      publish(tab, at);
      await clock.pass(10);
      assert.equal(receipts(tab).length, 1, "at once");
    }
    lines[0].line.close();
    await clock.pass(2500);
    assert.equal(hark.streams(), 4);
    publish(lines[1], "last");
    await clock.pass(3000);
    for (const tab of lines.slice(1)) assert.deepEqual(read(tab), [0, 1, 2, 3, 4, 5, 6, "last"]);
    assert.ok(pool.most <= 6);
    for (const { line } of lines) line.close();
    await clock.pass(200);
    assert.deepEqual([clock.waiting, pool.busy], [0, 0]);
  });
}

test("no locks: when a request hangs nevertheless, all pages poll for some minutes", async (t) => {
  // Something else holds two.
  const { clock, hark, lines, read, receipts, publish } = await start(t, {
    tabs: 6,
    browser: noLocks["no locks"](),
    most: 4,
  });
  await clock.pass(100);
  assert.equal(hark.streams(), 4);
  publish(lines[0], "first");
  await clock.pass(8000);
  assert.equal(receipts(lines[0]).length, 1);
  assert.equal(hark.streams(), 0);
  publish(lines[5], "second");
  await clock.pass(3000);
  // The others began when there was a connection for them.
  for (const [at, tab] of lines.entries()) assert.deepEqual(read(tab), at < 4 ? ["first", "second"] : ["second"]);
  assert.deepEqual(
    lines.flatMap(({ told }) => told.lost),
    [],
  );
  // Later it may be otherwise.
  for (const { line } of lines.slice(3)) line.close();
  await clock.pass(320_000);
  assert.equal(hark.streams(), 3);
  publish(lines[0], "third");
  await clock.pass(100);
  for (const tab of lines.slice(0, 3)) assert.deepEqual(read(tab), ["first", "second", "third"]);
});

test("no locks and no channel: a page whose own request hangs gives its stream up for it", async (t) => {
  const { clock, hark, lines, receipts, publish } = await start(t, { tabs: 6, browser: {} });
  publish(lines[0], "first");
  await clock.pass(6000);
  assert.equal(receipts(lines[0]).length, 1);
  assert.equal(hark.streams(), 5);
});

test("outside of a browser nothing is shared", async (t) => {
  const { clock, hark, lines } = await start(t, { tabs: 9 });
  await clock.pass(10);
  assert.equal(hark.streams(), 9);
  assert.ok(lines.every(({ told }) => told.opened.length === 1));
});

// One message to several topics: how it travels, and that every topic is answered, and sent again, for itself.

import assert from "node:assert/strict";
import test from "node:test";
import { WebSocket } from "ws";
import { connect } from "../src/index.js";
import { Outbox } from "../src/outbox.js";
import { WORLD } from "../src/world.js";
import { Broker } from "./support/broker.js";
import { scriptedWebSocket } from "./support/socket.js";
import { until } from "./support/until.js";

const open = async (t, version, options) => {
  const { WebSocket, sockets } = scriptedWebSocket();
  const hark = connect({ url: "http://hark.test", WebSocket, transports: ["websocket"], ...options });
  t.after(() => hark.close());
  const [socket] = await until("the client connects", () => sockets.length && sockets);
  socket.accept({ version });
  return { hark, socket, sockets };
};
/** What the client has said since the last call. */
const reader = (socket) => {
  let seen = 0;
  return () => {
    const said = socket.said("publish");
    const news = said.slice(seen);
    seen = said.length;
    return news;
  };
};
const kept = (topic, offset) => ({ topic, cursor: `e:${offset}`, duplicate: false });
const busy = (topic) => ({ topic, code: "busy", message: "later" });

test("to an older Hark it goes one by one", async (t) => {
  const { hark, socket } = await open(t, "0.1.9");
  const results = hark.publishAll(["a", "b"], 7);
  const said = await until("both", () => socket.said("publish").length === 2 && socket.said("publish"));
  assert.deepEqual(
    said.map(({ topic, topics, data, seq }) => [topic, topics, data, seq]),
    [
      ["a", undefined, 7, 1],
      ["b", undefined, 7, 1],
    ],
  );
  for (const { id, topic } of said) socket.say({ type: "published", id, ...kept(topic, 1) });
  assert.deepEqual(await results, [kept("a", 1), kept("b", 1)]);
});

test("each topic has its own number, and what failed is sent again alone", async (t) => {
  const { hark, socket } = await open(t, "0.2.0");
  const news = reader(socket);
  const one = hark.publish("b", 0);
  const results = hark.publishAll(["a", "b", "c"], 1);
  const [alone, all] = await until("both", () => socket.said("publish").length === 2 && news());
  assert.deepEqual([alone.topic, all.topics, all.seqs, all.seq], ["b", ["a", "b", "c"], [1, 2, 1], undefined]);
  socket.say({ type: "published", id: alone.id, ...kept("b", 1) });
  await one;
  socket.say({ type: "published_all", id: all.id, receipts: [kept("a", 1), busy("b"), busy("c")] });
  const again = await until("it is sent again", () => news()[0]);
  assert.deepEqual([again.topics, again.seqs, again.producer], [["b", "c"], [2, 1], all.producer]);
  // An answer to the sending before says nothing any more.
  socket.say({ type: "published_all", id: all.id, receipts: [kept("b", 99), kept("c", 99)] });
  socket.say({ type: "published_all", id: again.id, receipts: [kept("b", 2), kept("c", 2)] });
  assert.deepEqual(await results, [kept("a", 1), kept("b", 2), kept("c", 2)]);
});

test("what failed in one frame waits on one timer: two that are as long need not end together", () => {
  const waits = [];
  const later = (ms, run) => waits.push({ ms, run });
  const world = { ...WORLD, later, stop: () => {}, random: () => 0.5 };
  const outbox = new Outbox({ messages: 100, bytes: 10_000 }, () => {}, world);
  let id = 0;
  const next = () => outbox.next(() => ++id, { frameBytes: 1000, inFlight: 10, several: true });
  outbox.publish(["a", "b"], '"data":1', false);
  outbox.publishedAll({ id: next().id, receipts: [busy("a"), busy("b")] });
  assert.deepEqual([waits.length, next()], [1, undefined]);
  waits[0].run();
  assert.deepEqual(JSON.parse(next().text).topics, ["a", "b"]);
});

test("a refusal of the whole is one of each topic", async (t) => {
  const { hark, socket } = await open(t, "1.0.0");
  const results = hark.publishAll(["a", "b"], 1);
  const { id } = await until("a publish", () => socket.said("publish")[0]);
  socket.say({ type: "error", id, code: "forbidden", message: "no" });
  const codes = (await results).map(({ topic, error }) => [topic, error.code, error.maybeKept]);
  assert.deepEqual(codes, [
    ["a", "forbidden", false],
    ["b", "forbidden", false],
  ]);
});

test("after a lost connection all that was not answered goes again in one frame, with its numbers", async (t) => {
  const { hark, socket, sockets } = await open(t, "0.2.0");
  const results = [1, 2].map((n) => hark.publishAll(["a", "b"], n));
  const first = await until("both", () => socket.said("publish").length === 2 && socket.said("publish"));
  socket.end();
  const next = await until("a new connection", () => sockets[1]);
  next.accept({ version: "0.2.0" });
  const again = await until("both again", () => next.said("publish").length === 2 && next.said("publish"));
  const numbered = (said) => said.map(({ topics, seqs, producer, data }) => [topics.toSorted(), seqs, producer, data]);
  assert.deepEqual(numbered(again), numbered(first));
  for (const { id, topics, data } of again) {
    next.say({ type: "published_all", id, receipts: topics.map((topic) => kept(topic, data)) });
  }
  assert.deepEqual(await results[1], [kept("a", 2), kept("b", 2)]);
});

test("a Hark that has forgotten the producer is counted anew, in one frame still", async (t) => {
  const { hark, socket } = await open(t, "0.2.0");
  const first = hark.publishAll(["a", "b"], 1);
  const [{ id, producer }] = await until("a publish", () => socket.said("publish").length === 1 && socket.said("publish"));
  socket.say({ type: "published_all", id, receipts: [kept("a", 1), kept("b", 1)] });
  await first;
  const second = hark.publishAll(["a", "b"], 2);
  const said = await until("another", () => socket.said("publish")[1]);
  const forgotten = (topic) => ({ topic, code: "out_of_sequence", message: "", expected_seq: 1 });
  socket.say({ type: "published_all", id: said.id, receipts: [forgotten("a"), forgotten("b")] });
  const anew = await until("it again", () => socket.said("publish")[2]);
  assert.deepEqual([anew.topics, anew.seqs], [["a", "b"], [1, 1]]);
  assert.notEqual(anew.producer, producer);
  socket.say({ type: "published_all", id: anew.id, receipts: [kept("a", 1), kept("b", 1)] });
  assert.deepEqual(await second, [kept("a", 1), kept("b", 1)]);
});

test("a frame that would be too large is cut in two, and content that is too large fails in each", async (t) => {
  const { hark, socket } = await open(t, "0.2.0");
  socket.say({ type: "welcome", version: "0.2.0", max_message_bytes: 1000, max_inflight: 1024 });
  const topics = Array.from({ length: 100 }, (_, at) => `a.topic.${at}`);
  const results = hark.publishAll(topics, "x");
  const told = new Set();
  await until("all are sent", () => {
    for (const { id, topics } of socket.said("publish")) {
      if (told.has(id)) continue;
      told.add(id);
      socket.say({ type: "published_all", id, receipts: topics.map((topic) => kept(topic, 1)) });
    }
    return socket.said("publish").flatMap(({ topics }) => topics).length === 100;
  });
  assert.ok(socket.sent.every((text) => text.length <= 1000));
  assert.deepEqual(
    (await results).map(({ topic, cursor }) => [topic, cursor]),
    topics.map((topic) => [topic, "e:1"]),
  );
  const fits = "x".repeat(980);
  const large = await hark.publishAll(["a", "b"], fits);
  assert.deepEqual(
    large.map(({ error }) => error.code),
    ["too_large", "too_large"],
  );
  await assert.rejects(hark.publishAll(["a"], fits + fits), { code: "too_large" });
});

test("what is wrong with the message is one error", async (t) => {
  const { hark } = await open(t, "0.2.0", { window: { messages: 3 } });
  await assert.rejects(hark.publishAll(["a", "b", "a"], 1), { name: "PublishError", code: "bad_frame" });
  await assert.rejects(
    hark.publishAll(["a"], () => {}),
    { code: "bad_data" },
  );
  for (const names of ["orders", undefined, 5, {}]) {
    await assert.rejects(hark.publishAll(names, 1), { name: "PublishError", code: "bad_topic" }, `${names}`);
  }
  const [none] = await hark.publishAll([undefined], 1);
  assert.deepEqual([none.topic, none.error.code], ["", "bad_topic"], "one name of several fails alone");
  assert.deepEqual(await hark.publishAll([], 1), []);
  hark.publishAll(["a", "b"], 1).catch(() => {});
  await assert.rejects(hark.publishAll(["c", "d"], 1), { code: "window_full" }, "each topic counts");
});

test("what was not written after all is next again, by what Hark allows by then, and has no number until it is", async () => {
  const outbox = new Outbox({ messages: 100, bytes: 10_000 }, () => {});
  let id = 0;
  const next = (limits) => {
    const frame = outbox.next(() => ++id, { frameBytes: 1000, inFlight: 10, several: false, ...limits });
    return frame && JSON.parse(frame.text);
  };
  const large = outbox.publish(["a"], `"data":"${"x".repeat(500)}"`, false)[0];
  outbox.takeBack(next().id);
  const both = outbox.publish(["a", "b"], '"data":1', false);
  const small = [next({ frameBytes: 300 }), next()];
  await assert.rejects(large, { code: "too_large", maybeKept: false });
  assert.deepEqual(
    small.map(({ topic, seq }) => [topic, seq]),
    [
      ["b", 1],
      ["a", 1],
    ],
    "no number was lost",
  );
  small.forEach(({ id, topic }) => outbox.published({ id, cursor: `${topic}:1`, duplicate: false }));
  await Promise.all(both);
  outbox.publish(["a", "b"], '"data":2', false);
  const together = next({ several: true });
  assert.deepEqual([together.topics, together.seqs], [["a", "b"], [2, 2]]);
  outbox.takeBack(together.id);
  const alone = [next(), next(), next()];
  assert.deepEqual(
    alone.map((frame) => frame && [frame.topic, frame.seq]).sort(),
    [["a", 2], ["b", 2], undefined],
  );
  // One that had been sent before keeps its number.
  outbox.lost({ proven: true, transport: "websocket", transports: ["websocket"] });
  outbox.takeBack(next({ several: true }).id);
  assert.deepEqual([next().seq, next().seq, next()], [2, 2, undefined]);
});

for (const transport of ["websocket", "sse", "longpoll"]) {
  test(`against the real broker, through kills, over ${transport}`, async (t) => {
    const broker = await Broker.start();
    t.after(() => broker.delete());
    const hark = connect({ url: broker.url, WebSocket, transports: [transport] });
    t.after(() => hark.close());
    const topics = ["a", "b", "c", "d"];
    const first = await hark.publishAll(["a", "b..", "c"], 0, { headers: { k: "v" } });
    assert.deepEqual(
      first.map(({ topic, duplicate, error }) => [topic, duplicate, error?.code]),
      [
        ["a", false, undefined],
        ["b..", undefined, "bad_topic"],
        ["c", false, undefined],
      ],
    );
    const all = Array.from({ length: 60 }, (_, n) => hark.publishAll(topics, n + 1));
    await all[20];
    await broker.kill();
    await broker.restart();
    const results = (await Promise.all(all)).flat();
    assert.ok(results.every(({ error }) => !error));
    for (const topic of topics) {
      const page = await fetch(`${broker.url}/v1/topics/${topic}/messages?limit=1000`);
      const kept = (await page.json()).messages.map(({ data }) => data);
      const expected = Array.from({ length: 60 }, (_, n) => n + 1);
      assert.deepEqual(kept, "ac".includes(topic) ? [0, ...expected] : expected);
    }
  });
}

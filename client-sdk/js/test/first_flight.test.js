// What goes out as soon as the upgrade is answered, without waiting for `welcome`; and that nothing is lost or doubled if it went
// to something that is no Hark.

import assert from "node:assert/strict";
import test from "node:test";
import { WebSocket, WebSocketServer } from "ws";
import { connect } from "../src/index.js";
import { Broker } from "./support/broker.js";
import { harkFetch, settled, start } from "./support/client.js";
import { messages, until } from "./support/until.js";

const types = (socket) => socket.sent.map((text) => JSON.parse(text).type);
const count = (to) => Array.from({ length: to }, (_, at) => at + 1);

test("the token, the subscribes and the publishes go in one turn, before anything was heard", async (t) => {
  const { hark, sockets } = await start(t, { token: "secret" });
  hark.subscribe("a");
  hark.subscribe("b", { from: "earliest" });
  const receipts = [hark.publish("a", 1), hark.publish("b", 2)];
  assert.deepEqual(sockets[0].sent, [], "nothing before the upgrade is answered (RFC 6455, 4.1)");
  sockets[0].upgrade();
  assert.deepEqual(types(sockets[0]), ["auth", "subscribe", "subscribe", "publish", "publish"]);
  assert.deepEqual([hark.state, hark.transport], ["connecting", undefined], "but it is not open yet");
  hark.publish("a", 3).catch(() => {});
  hark.subscribe("c");
  assert.deepEqual(types(sockets[0]).slice(5), ["publish", "subscribe"], "nor does what comes meanwhile wait");
  sockets[0].welcome();
  assert.deepEqual([hark.state, hark.transport], ["open", "websocket"]);
  assert.equal(sockets[0].sent.length, 7, "nothing is said twice");
  sockets[0].receipts();
  await Promise.all(receipts);
});

test("with nothing to say it asks whether Hark is there", async (t) => {
  const { sockets } = await start(t);
  sockets[0].upgrade();
  assert.deepEqual(types(sockets[0]), ["ping"]);
});

test("before `welcome` 1,024 messages go, and then as many as it allows", async (t) => {
  const { hark, sockets } = await start(t);
  for (const n of count(3000)) hark.publish("a", n).catch(() => {});
  sockets[0].upgrade();
  assert.equal(sockets[0].said("publish").length, 1024);
  sockets[0].welcome({ max_inflight: 2000 });
  await settled();
  assert.equal(sockets[0].said("publish").length, 2000);
});

test("before `welcome` no large frame goes, nor one behind it", async (t) => {
  const { hark, sockets } = await start(t);
  const receipts = [1, "x".repeat(70_000), 3].map((data) => hark.publish("a", data));
  sockets[0].upgrade();
  assert.equal(sockets[0].said("publish").length, 1);
  hark.publish("a", 4).catch(() => {});
  assert.equal(sockets[0].said("publish").length, 1);
  sockets[0].welcome();
  assert.deepEqual(
    sockets[0].said("publish").map(({ seq }) => seq),
    [1, 2, 3, 4],
  );
  sockets[0].receipts();
  await Promise.all(receipts);
});

test("before `welcome` no message for several topics goes: only then it is known whether Hark takes it as one", async (t) => {
  for (const [version, frames] of [
    ["0.1.9", 2],
    ["0.2.0", 1],
  ]) {
    await t.test(version, async (t) => {
      const { hark, sockets } = await start(t);
      const results = hark.publishAll(["a", "b"], 1);
      const next = hark.publish("a", 2);
      sockets[0].upgrade();
      assert.equal(sockets[0].said("publish").length, 0);
      sockets[0].welcome({ version });
      const said = sockets[0].said("publish");
      assert.equal(said.length, frames + 1);
      for (const { id, topics } of said) {
        const receipts = topics?.map((topic) => ({ topic, cursor: "e:1", duplicate: false }));
        if (receipts) sockets[0].say({ type: "published_all", id, receipts });
      }
      sockets[0].receipts();
      await next;
      assert.deepEqual(
        (await results).map(({ topic, cursor }) => [topic, cursor]),
        [
          ["a", "e:1"],
          ["b", "e:1"],
        ],
      );
    });
  }
});

test("one that `welcome` does not allow fails, and those behind it go on, with the numbers that Hark expects", async (t) => {
  const { hark, sockets } = await start(t);
  const large = assert.rejects(hark.publish("a", "x".repeat(70_000)), { code: "too_large", maybeKept: false });
  const next = [hark.publish("a", 1), hark.publish("b", 1)];
  sockets[0].upgrade();
  sockets[0].welcome({ max_message_bytes: 65_536 });
  await large;
  await settled();
  sockets[0].receipts();
  await Promise.all(next);
  const said = sockets[0].said("publish").map(({ topic, seq }) => [topic, seq]);
  assert.deepEqual(said.sort(), [
    ["a", 1],
    ["b", 1],
  ]);
});

test("a large one that waited when the connection was lost goes by the next one, once", async (t) => {
  t.mock.method(Math, "random", () => 0);
  const { hark, sockets, pass } = await start(t);
  const receipt = hark.publish("a", "x".repeat(70_000));
  sockets[0].upgrade();
  sockets[0].end();
  await pass(1);
  sockets[1].accept();
  assert.equal(sockets[1].said("publish").length, 1);
  sockets[1].receipts();
  await receipt;
});

for (const [what, turn] of [
  ["closes", (socket) => (socket.upgrade(), socket.end(1000))],
  ["says nothing", (socket) => socket.upgrade()],
  ["says something else", (socket) => (socket.upgrade(), socket.say("hello"), socket.say("null"), socket.say("[]"), socket.end(1003))],
  ["echoes", (socket) => (socket.upgrade(), socket.sent.slice().forEach((text) => socket.say(text)), socket.end())],
]) {
  test(`what ${what} is no Hark: the next transport has all of it, once`, async (t) => {
    const { fetch, requests } = harkFetch();
    const { hark, sockets, steps, pass } = await start(t, { fetch, transports: ["websocket", "longpoll"] });
    const events = hark.subscribe("a");
    const receipts = count(3).map((n) => hark.publish("a", n));
    turn(sockets[0]);
    await pass(6500);
    assert.deepEqual(steps(), ["connecting", "longpoll"]);
    assert.deepEqual(
      (await Promise.all(receipts)).map(({ cursor }) => cursor),
      ["e:1", "e:2", "e:3"],
    );
    assert.equal(sockets[0].said("publish").length, 3, "they had been said");
    assert.ok(requests.includes("GET /v1/messages"));
    assert.equal(await events.ready, "e:0");
  });
}

test("against a WebSocket server that is no Hark, and then against Hark", async (t) => {
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1" });
  const heard = [];
  server.on("connection", (socket) => socket.on("message", (text) => (heard.push(JSON.parse(text)), socket.close(1008))));
  await new Promise((resolve) => server.once("listening", resolve));
  t.after(() => server.close());
  const broker = await Broker.start();
  t.after(() => broker.delete());
  const url = `ws://127.0.0.1:${server.address().port}`;
  const urls = [url, url];
  class Elsewhere extends WebSocket {
    constructor(url, protocol) {
      super(urls.shift() ?? url, protocol);
    }
  }
  const hark = connect({ url: broker.url, WebSocket: Elsewhere, transports: ["websocket"] });
  t.after(() => hark.close());
  const events = hark.subscribe("a", { from: "earliest" });
  await Promise.all(count(200).map((n) => hark.publish("a", n)));
  assert.deepEqual(await messages(events, 200), count(200));
  assert.deepEqual(await broker.history("a"), count(200));
  assert.ok(heard.length >= 2, "the other one had heard of it");
});

test("Hark answers what came before its `welcome`, with a token too", async (t) => {
  const broker = await Broker.start();
  t.after(() => broker.delete());
  const socket = new WebSocket(`${broker.url.replace("http", "ws")}/ws`, "hark.v1.json");
  t.after(() => socket.close());
  const heard = [];
  socket.on("message", (text) => heard.push(JSON.parse(text)));
  socket.on("open", () => {
    for (const frame of [
      { type: "auth", id: 0, token: "any" },
      { type: "subscribe", id: 1, topic: "a" },
      { type: "publish", id: 2, topic: "a", data: 1 },
    ]) {
      socket.send(JSON.stringify(frame));
    }
  });
  await until("all of it is answered", () => [0, 1, 2].every((id) => heard.some((frame) => frame.id === id)));
  assert.equal(heard[0].type, "welcome");
});

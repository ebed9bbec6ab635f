// A gateway that cuts every connection over which more than so much goes: what does not pass it is said, and holds up nothing else.

import assert from "node:assert/strict";
import net from "node:net";
import test from "node:test";
import { WebSocket } from "ws";
import { connect } from "../src/index.js";
import { Broker } from "./support/broker.js";
import { until } from "./support/until.js";

const MOST_BYTES = 1 << 16;
const large = "x".repeat(200_000);

/** In front of a broker. Most bytes in one direction, and how often it has cut. */
const gateway = async (t, base) => {
  const { hostname, port } = new URL(base);
  const all = new Set();
  const state = { cuts: 0, url: "" };
  const server = net.createServer((socket) => {
    const onward = net.connect(port, hostname);
    for (const [from, to] of [
      [socket, onward],
      [onward, socket],
    ]) {
      all.add(from);
      let bytes = 0;
      from.on("data", (chunk) => {
        const room = MOST_BYTES - bytes;
        bytes += chunk.length;
        if (chunk.length <= room) return to.write(chunk);
        state.cuts++;
        to.end(chunk.subarray(0, room));
        from.destroy();
      });
      from.on("error", () => {});
      from.on("close", () => to.end());
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  state.url = `http://127.0.0.1:${server.address().port}`;
  t.after(() => {
    server.close();
    for (const socket of all) socket.destroy();
  });
  return state;
};

for (const transport of ["websocket", "sse", "longpoll"]) {
  const start = async (t) => {
    const broker = await Broker.start();
    t.after(() => broker.delete());
    const way = await gateway(t, broker.url);
    // It does not wait between two attempts.
    t.mock.method(Math, "random", () => 0);
    const hark = connect({ url: way.url, WebSocket, transports: [transport] });
    t.after(() => hark.close());
    return { broker, way, hark };
  };

  test(`${transport}: a message that cannot come is said, and other topics go on`, async (t) => {
    const { broker, way, hark } = await start(t);
    await broker.publish("a", "small");
    await broker.publish("a", large);
    await broker.publish("b", 1);
    const told = [];
    const first = await broker.history("a");
    assert.equal(first.length, 2);
    const [page] = (await (await fetch(`${broker.url}/v1/topics/a/messages?from=earliest&limit=1`)).json()).messages;
    const { epoch } = await (await fetch(`${broker.url}/v1/topics/a`)).json();
    const cursor = `${epoch}:${page.offset}`;
    const stuck = hark.subscribe("a", { from: { after: cursor } });
    stuck.on("message", ({ data }) => void told.push(data.length));
    stuck.on("stuck", (event) => void told.push(event));
    await until("it is told", () => told.length);
    assert.deepEqual(told, [{ type: "stuck", topic: "a", cursor, tries: 5 }]);
    const { cuts } = way;
    assert.ok(cuts >= 5 && cuts < 12, `${cuts} cuts`);
    const seen = [];
    hark.subscribe("b", { from: "earliest" }).on("message", ({ data }) => void seen.push(data));
    await until("the other topic comes", () => seen.length);
    await broker.publish("b", 2);
    await until("and goes on", () => seen.length === 2);
    assert.equal(way.cuts, cuts, "what is stuck is left alone for a while");
  });

  test(`${transport}: a message that cannot go fails, and those behind it and of other topics are kept`, async (t) => {
    const { broker, way, hark } = await start(t);
    const poison = hark.publish("a", large).then(assert.fail, (error) => error);
    const behind = hark.publish("a", "small");
    const other = hark.publish("b", "other");
    const { code, maybeKept, topic } = await poison;
    assert.deepEqual({ code, maybeKept, topic }, { code: "lost", maybeKept: true, topic: "a" });
    await Promise.all([behind, other]);
    assert.ok(way.cuts >= 5 && way.cuts < 12, `${way.cuts} cuts`);
    assert.deepEqual([await broker.history("a"), await broker.history("b")], [["small"], ["other"]]);
  });
}

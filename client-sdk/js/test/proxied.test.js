// The client behind a Proxy, as frameworks put one around what an application keeps; and failures that nobody looks at.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import test from "node:test";
import { isReactive, reactive, ref, shallowRef } from "@vue/reactivity";
import { connect } from "../src/index.js";
import { scriptedWebSocket } from "./support/socket.js";
import { until } from "./support/until.js";

const around = {
  "nothing": (hark) => hark,
  "a plain Proxy": (hark) => new Proxy(hark, {}),
  "a Proxy that reads by itself": (hark) => new Proxy(hark, { get: (target, name, self) => Reflect.get(target, name, self) }),
  "Vue's reactive": (hark) => reactive(hark),
  "Vue's reactive, deep": (hark) => reactive({ here: { hark } }).here.hark,
  "Vue's ref": (hark) => ref(hark).value,
  "Vue's shallowRef": (hark) => shallowRef(hark).value,
};

for (const [what, wrap] of Object.entries(around)) {
  test(`all of it works behind ${what}`, async (t) => {
    const { WebSocket, sockets } = scriptedWebSocket();
    const raw = connect({ url: "http://hark.test", WebSocket, transports: ["websocket"] });
    t.after(() => raw.close());
    const hark = wrap(raw);
    if (what.startsWith("Vue")) assert.equal(isReactive(hark), false, "Vue leaves it alone");
    const states = [];
    hark.on("state", ({ state }) => states.push(state));
    const [socket] = await until("the client connects", () => sockets.length && sockets);
    socket.accept();
    assert.deepEqual([hark.state, hark.transport], ["open", "websocket"]);
    const receipt = hark.publish("a", 1);
    const results = hark.publishAll(["a", "b"], 2);
    await until("they are sent", () => socket.said("publish").length >= 2);
    for (const { id, topic } of socket.said("publish")) {
      socket.say({ type: "published", id, topic, cursor: "e:1", duplicate: false });
    }
    await Promise.all([receipt, results]);
    const subscription = wrap(hark.subscribe("a"));
    const { id } = socket.said("subscribe")[0];
    socket.say({ type: "subscribed", id, topic: "a", cursor: "e:1", head: 1, resumed: false });
    assert.deepEqual([await subscription.ready, subscription.topic, subscription.cursor], ["e:1", "a", "e:1"]);
    const offsets = [];
    const off = subscription.on("message", ({ offset }) => void offsets.push(offset));
    socket.say({ type: "message", topic: "a", offset: 2, time: 1, data: 1 });
    await until("it is heard", () => offsets.length);
    off();
    socket.say({ type: "message", topic: "a", offset: 3, time: 1, data: 1 });
    for await (const { offset } of subscription) {
      assert.equal(offset, 3);
      break;
    }
    hark.reconnect();
    hark.close();
    assert.equal(hark.state, "closed");
    await assert.rejects(hark.publish("a", 1), { code: "closed" });
  });
}

test("a method that was taken off works too", async (t) => {
  const { WebSocket } = scriptedWebSocket();
  const { publish, close, subscribe } = connect({ url: "http://hark.test", WebSocket, transports: ["websocket"] });
  const waits = publish("a", 1);
  assert.equal(subscribe("b").topic, "b");
  close();
  await assert.rejects(waits, { code: "closed" });
});

test("a publish that nobody awaits and a close do not end the process; one that is awaited fails", async (t) => {
  const script = `
    import { connect } from ${JSON.stringify(new URL("../src/index.js", import.meta.url).href)};
    const hark = connect({ url: "http://127.0.0.1:1", transports: ["longpoll"] });
    hark.publish("a", 1);
    hark.publishAll(["a", "b"], 2);
    const awaited = hark.publish("a", 3);
    const late = hark.publish("b", 4);
    setTimeout(async () => {
      hark.close();
      hark.publish("a", 5);
      hark.publishAll(["a"], 6);
      await new Promise(setImmediate);
      for (const wait of [awaited, late]) await wait.catch(({ code }) => console.log(code));
      process.stdout.write("alive");
    }, 50);
  `;
  const child = spawn(process.execPath, ["--input-type=module", "--eval", script]);
  t.after(() => child.kill("SIGKILL"));
  let said = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (said += text));
  await until("the process exits", () => child.exitCode !== null);
  assert.deepEqual([said, child.exitCode], ["closed\nclosed\nalive", 0]);
});

test("what fails for another reason is still nobody's secret", async (t) => {
  const script = `
    import { connect } from ${JSON.stringify(new URL("../src/index.js", import.meta.url).href)};
    const hark = connect({ url: "http://127.0.0.1:1", transports: ["longpoll"] });
    hark.publish("no topic", 1);
  `;
  const child = spawn(process.execPath, ["--input-type=module", "--eval", script]);
  t.after(() => child.kill("SIGKILL"));
  let said = "";
  child.stderr.on("data", (text) => (said += text));
  await until("the process exits", () => child.exitCode !== null);
  assert.equal(child.exitCode, 1);
  assert.match(said, /bad_topic/);
});

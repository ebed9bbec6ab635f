// Whether a connection that looks open still is: when it is asked, how long the answer may take, and who may be judged.

import assert from "node:assert/strict";
import test from "node:test";
import { browser, start } from "./support/client.js";

const pings = (socket) => socket.said("ping").length;
/** A connection that has proven itself, and was heard just now. */
const proven = async (t, { welcome, ...options } = {}) => {
  const all = await start(t, options);
  const [socket] = all.sockets;
  socket.accept(welcome);
  socket.say({ type: "authenticated", id: 0, identity: "ana" });
  socket.say({ type: "pong" });
  await all.pass(10_000);
  socket.say({ type: "pong" });
  return { ...all, socket };
};

test("after one heartbeat of silence it is asked, and has 3 s for its answer", async (t) => {
  const { hark, socket, pass } = await proven(t, { welcome: { heartbeat_ms: 20_000 } });
  const before = pings(socket);
  await pass(19_900);
  assert.equal(pings(socket), before);
  await pass(200);
  assert.equal(pings(socket), before + 1, "asked once");
  await pass(2800);
  socket.say({ type: "pong" });
  await pass(19_900);
  assert.deepEqual([hark.state, pings(socket)], ["open", before + 1], "a heartbeat from the last that was heard");
  await pass(200);
  assert.equal(pings(socket), before + 2);
  await pass(2800);
  assert.equal(hark.state, "open");
  await pass(200);
  assert.notEqual(hark.state, "open", "a heartbeat and 3 s, not two and a half");
  assert.equal(socket.closedWith, 1000);
});

for (const [what, command, answer] of [
  ["publish", (hark) => hark.publish("a", 1).catch(() => {}), (socket) => socket.receipts()],
  ["subscribe", (hark) => hark.subscribe("a"), (socket) => socket.subscribed()],
  ["auth", (_, socket) => socket.say({ type: "error", code: "expiring", message: "soon" }), (socket) => socket.say({ type: "authenticated", id: 0, identity: "ana" })],
]) {
  test(`while a ${what} is unanswered it is asked after 5 s, and each 5 s from then`, async (t) => {
    const { hark, socket, pass } = await proven(t, what === "auth" ? { token: (reason) => reason } : {});
    command(hark, socket);
    await pass(0);
    for (let times = 1; times <= 3; times++) {
      const before = pings(socket);
      await pass(4900);
      assert.equal(pings(socket), before, "not yet");
      await pass(100);
      assert.equal(pings(socket), before + 1, `the ${times}. time`);
      // Hark is there, and the command is still unanswered.
      socket.say({ type: "pong" });
    }
    answer(socket);
    const before = pings(socket);
    await pass(24_000);
    assert.deepEqual([hark.state, pings(socket)], ["open", before]);
  });
}

test("a publish that nobody answers is sent again by another connection within 8 s", async (t) => {
  t.mock.method(Math, "random", () => 0);
  const { hark, sockets, pass } = await start(t);
  sockets[0].accept();
  await pass(12_000);
  const receipt = hark.publish("a", 1);
  await pass(8100);
  assert.equal(sockets.length, 2);
  sockets[1].accept();
  sockets[1].receipts();
  assert.equal((await receipt).cursor, "e:1");
});

test("the time of the answer begins when nothing is left, and anew with each byte that leaves", async (t) => {
  const { hark, sockets, pass } = await start(t);
  sockets[0].accept();
  hark.publish("a", "x").catch(() => {});
  sockets[0].bufferedAmount = 900_000;
  await pass(5100);
  const asked = pings(sockets[0]);
  for (let left = 900_000; left > 0; left -= 100_000) {
    sockets[0].bufferedAmount = left;
    await pass(8000);
    assert.equal(hark.state, "open", `${left} bytes are left`);
  }
  assert.equal(pings(sockets[0]), asked, "one question, as long as bytes move");
  sockets[0].bufferedAmount = 0;
  await pass(2900);
  assert.equal(hark.state, "open");
  await pass(500);
  assert.notEqual(hark.state, "open");
});

test("what does not leave at all is waited for as long as a heartbeat", async (t) => {
  const { hark, sockets, pass } = await start(t);
  sockets[0].accept();
  hark.publish("a", "x").catch(() => {});
  sockets[0].bufferedAmount = 900_000;
  await pass(5000 + 24_000);
  assert.equal(hark.state, "open");
  await pass(1500);
  assert.notEqual(hark.state, "open");
});

test("what has left the page may still be in the kernel: 4 KiB a second for what was said, at most 60 s more", async (t) => {
  for (const [bytes, withinMs] of [
    [240_000, 5000 + 3000 + 58_600],
    [900_000, 5000 + 3000 + 60_000],
  ]) {
    await t.test(`${bytes} bytes`, async (t) => {
      const { hark, sockets, pass } = await start(t);
      sockets[0].accept();
      // Of two bytes each.
      hark.publish("a", "\u00e9".repeat(bytes / 2)).catch(() => {});
      await pass(withinMs - 500);
      assert.equal(hark.state, "open");
      await pass(1000);
      assert.notEqual(hark.state, "open");
    });
  }
});

test("what was said before something was heard gives no more time", async (t) => {
  const { hark, sockets, pass } = await start(t);
  sockets[0].accept();
  hark.publish("a", "x".repeat(240_000)).catch(() => {});
  await pass(1000);
  sockets[0].receipts();
  hark.publish("a", 1).catch(() => {});
  await pass(5000 + 3500);
  assert.notEqual(hark.state, "open");
});

test("what is said meanwhile is no byte that moves", async (t) => {
  const { hark, sockets, pass } = await start(t);
  sockets[0].accept();
  sockets[0].send = function (text) {
    this.bufferedAmount += text.length;
    this.sent.push(text);
  };
  hark.publish("a", 0).catch(() => {});
  for (let second = 1; second <= 32; second++) {
    await pass(1000);
    hark.publish("a", second).catch(() => {});
  }
  assert.notEqual(hark.state, "open");
});

test("what leaves is seen also while as much is said again", async (t) => {
  const { hark, socket, pass } = await proven(t);
  socket.bufferedAmount = 900_000;
  socket.send = function (text) {
    this.bufferedAmount += text.length;
    this.sent.push(text);
  };
  for (let second = 1; second <= 60; second++) {
    const before = socket.bufferedAmount;
    hark.publish("a", second).catch(() => {});
    socket.bufferedAmount = before;
    await pass(1000);
  }
  assert.equal(hark.state, "open");
});

for (const monotonicToo of [false, true]) {
  test(`after a sleep it is asked at once, and not judged by the silence (${monotonicToo ? "both clocks go on" : "the wall's alone"})`, async (t) => {
    const { hark, socket, pass, sleep } = await proven(t);
    for (const isAnswered of [true, false]) {
      const before = pings(socket);
      sleep(3_600_000, monotonicToo);
      // At the next beat at the latest; a timer that is due runs at once.
      await pass(monotonicToo ? 100 : 5000);
      assert.equal(pings(socket), before + 1);
      assert.equal(hark.state, "open", "silence says nothing yet");
      if (isAnswered) socket.say({ type: "pong" });
      await pass(3100);
      assert.equal(hark.state === "open", isAnswered);
    }
  });
}

test("a verdict that comes late is not spoken: it asks once more", async (t) => {
  const { hark, socket, pass, sleep } = await proven(t);
  await pass(26_000);
  const asked = pings(socket);
  sleep(60_000, true);
  await pass(100);
  assert.deepEqual([hark.state, pings(socket)], ["open", asked + 1]);
  socket.say({ type: "pong" });
  await pass(5000);
  assert.equal(hark.state, "open", "it was there all the time");
});

test("a clock that always runs late keeps no dead connection", async (t) => {
  const { hark, sockets, pass, sleep } = await start(t);
  sockets[0].accept();
  // The timers of a page that nobody looks at run once a minute.
  for (let minute = 0; minute < 4; minute++) {
    sleep(60_000, true);
    await pass(1);
  }
  assert.notEqual(hark.state, "open");
});

test("the wall's clock set back, or forward, ends nothing and hides nothing", async (t) => {
  const { hark, sockets, pass, setWall } = await start(t);
  sockets[0].accept();
  await pass(1000);
  setWall(-3_600_000);
  await pass(24_500);
  assert.equal(hark.state, "open");
  await pass(3000);
  assert.notEqual(hark.state, "open", "a dead line is noticed all the same");
  await pass(5000);
  sockets.at(-1).answers = true;
  sockets.at(-1).accept();
  setWall(3_600_000);
  await pass(60_000);
  assert.equal(hark.state, "open");
});

test("whatever is heard is an answer", async (t) => {
  const { hark, sockets, pass } = await start(t);
  sockets[0].accept();
  hark.subscribe("a");
  for (let second = 0; second < 90; second++) {
    await pass(1000);
    sockets[0].say({ type: "of_a_newer_hark" });
  }
  assert.equal(hark.state, "open");
});

test("an attempt that slept through its time says nothing against the transport", async (t) => {
  t.mock.method(Math, "random", () => 0);
  const { sockets, pass, sleep, steps } = await start(t, {
    transports: ["websocket", "sse"],
    fetch: () => new Promise(() => {}),
  });
  await pass(1000);
  sleep(3_600_000, true);
  await pass(100);
  assert.equal(sockets.length, 2, "a WebSocket again");
  assert.deepEqual(steps(), ["connecting", "waiting", "connecting"]);
});

test("a closed client has no timers left", async (t) => {
  browser(t);
  const { hark, sockets, pass, clock } = await start(t, { token: () => "x" });
  sockets[0].accept();
  hark.subscribe("a");
  sockets[0].subscribed();
  await pass(30_000);
  hark.close();
  await pass(1);
  assert.equal(clock.waiting, 0);
});

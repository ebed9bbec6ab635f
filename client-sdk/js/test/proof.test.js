// "Open" is not "useful": what a connection has to do before it counts, and what follows from one that has not.

import assert from "node:assert/strict";
import test from "node:test";
import { Connection } from "../src/connection.js";
import { harkFetch, settled, start } from "./support/client.js";
import { fakeClock } from "./support/clock.js";
import { scriptedWebSocket } from "./support/socket.js";

const greet = (socket) => {
  socket.answers = true;
  socket.accept();
};
/** Cut as soon as it has said `subscribed`. */
const cut = (socket) => {
  socket.accept();
  if (socket.said("subscribe").length) socket.subscribed();
  socket.end();
};
/** Nothing comes behind the first `subscribed`, and nobody says so. */
const swallow = (socket) => {
  socket.accept();
  if (socket.said("subscribe").length) socket.subscribed();
};
const ALL = ["websocket", "sse", "longpoll"];

test("the wait grows until a connection has served 10 s, however much it has answered", async (t) => {
  t.mock.method(Math, "random", () => 1);
  const { hark, sockets, waits, pass } = await start(t);
  hark.subscribe("a");
  const serve = async (ms) => {
    const socket = sockets.at(-1);
    greet(socket);
    await settled();
    socket.say({ type: "caught_up", topic: "a", cursor: "e:0" });
    await pass(ms);
    socket.end();
    await settled();
    await pass(waits().at(-1));
  };
  await serve(0);
  await serve(5000);
  await serve(9900);
  assert.deepEqual(waits(), [250, 500, 1000]);
  await serve(10_100);
  assert.deepEqual(waits(), [250, 500, 1000, 250]);
});

test("it has not served while nothing came: 10 s of silence prove nothing", async (t) => {
  t.mock.method(Math, "random", () => 1);
  const { hark, sockets, waits, pass } = await start(t);
  hark.subscribe("a");
  for (let times = 0; times < 3; times++) {
    swallow(sockets.at(-1));
    await pass(24_000);
    sockets.at(-1).end();
    await pass(1000);
  }
  assert.deepEqual(waits(), [250, 500, 1000]);
});

test("with nothing to answer, its first pong counts, and a pong beside a command that is not answered does not", async (t) => {
  t.mock.method(Math, "random", () => 1);
  const { hark, sockets, waits, pass } = await start(t);
  const serve = async () => {
    greet(sockets.at(-1));
    await pass(17_000);
    sockets.at(-1).end();
    await pass(5000);
  };
  await serve();
  await serve();
  assert.deepEqual(waits(), [250, 250]);
  hark.publish("a", 1).catch(() => {});
  await serve();
  await serve();
  assert.deepEqual(waits(), [250, 250, 500, 1000]);
});

test("a receipt counts as the first answer", async (t) => {
  t.mock.method(Math, "random", () => 1);
  const { hark, sockets, waits, pass } = await start(t);
  for (let times = 0; times < 2; times++) {
    greet(sockets.at(-1));
    hark.publish("a", 1).catch(() => {});
    await settled();
    sockets.at(-1).receipts();
    await pass(11_000);
    sockets.at(-1).end();
    await pass(300);
  }
  assert.deepEqual(waits(), [250, 250]);
});

test("what is cut right after `subscribed` is tried with growing waits", async (t) => {
  t.mock.method(Math, "random", () => 0.5);
  const { hark, sockets, pass } = await start(t, { made: cut });
  hark.subscribe("a");
  await pass(10_000);
  assert.ok(sockets.length <= 8, `${sockets.length} tries in 10 s`);
  await pass(50_000);
  assert.ok(sockets.length <= 30, `${sockets.length} tries in the first minute`);
});

test("by every transport, too", async (t) => {
  t.mock.method(Math, "random", () => 0.5);
  const { fetch, streams, requests } = harkFetch();
  const cutting = async (...request) => {
    const response = await fetch(...request);
    if (request[0].includes("/v1/events")) streams.at(-1).end();
    return response;
  };
  const { hark, sockets, waits, pass } = await start(t, {
    made: cut,
    fetch: cutting,
    transports: ["websocket", "sse"],
  });
  hark.subscribe("a");
  await pass(10_000);
  const tries = sockets.length + requests.filter((what) => what.includes("events")).length;
  assert.ok(sockets.length >= 2 && streams.length >= 2, "each has its turn");
  assert.ok(tries <= 16, `${tries} tries in 10 s`);
  assert.ok(waits().length >= tries - 2, "at once only where it had not been tried yet");
});

test("the bound of the wait is 5 s for a minute, then 20 s", async (t) => {
  t.mock.method(Math, "random", () => 1);
  const { sockets, waits, pass } = await start(t);
  greet(sockets[0]);
  await pass(600_000);
  sockets[0].end();
  await settled();
  for (let times = 0; times < 20; times++) {
    await pass(waits().at(-1));
    sockets.at(-1).end();
    await settled();
  }
  const sum = (count) => waits().slice(0, count).reduce((all, wait) => all + wait, 0);
  const early = waits().filter((_, at) => sum(at) < 60_000);
  assert.deepEqual(early.slice(0, 7), [250, 500, 1000, 2000, 4000, 5000, 5000]);
  assert.ok(Math.max(...early) === 5000, `${early}`);
  assert.equal(waits().at(-1), 20_000);
});

test("after an outage of 7 s it is there again within 5 s", async (t) => {
  for (const random of [0.1, 0.5, 1]) {
    await t.test(String(random), async (t) => {
      t.mock.method(Math, "random", () => random);
      let isThere = true;
      const { hark, sockets, pass } = await start(t, { made: (socket) => (isThere ? greet(socket) : socket.end()) });
      await pass(60_000);
      isThere = false;
      sockets.at(-1).end();
      await pass(7000);
      isThere = true;
      await pass(5000);
      assert.equal(hark.state, "open");
    });
  }
});

for (const [what, retryAfterMs, least] of [
  ["what Hark asks for is waited for in full, also in the first minute", 30_000, 30_000],
  ["but not longer than 300 s", 3_600_000, 300_000],
  ["also where it is beyond what a timer takes", 2 ** 31 + 5000, 300_000],
  ["what is no time is none", -5, 0],
]) {
  test(what, async (t) => {
    t.mock.method(Math, "random", () => 1);
    const { sockets, waits, pass } = await start(t);
    greet(sockets[0]);
    sockets[0].say({ type: "goodbye", reason: "restart", retry_after_ms: retryAfterMs });
    sockets[0].end(1012);
    await settled();
    assert.deepEqual(waits(), [least + 250]);
    await pass(Math.max(0, least - 1));
    assert.equal(sockets.length, 1);
    await pass(251);
    assert.equal(sockets.length, 2);
  });
}

for (const [what, made] of [
  ["is killed right after `welcome`", (socket) => (socket.accept(), socket.end())],
  ["is swallowed right after `welcome`", (socket) => socket.accept()],
  ["is killed right after `subscribed`", cut],
  ["is swallowed right after `subscribed`", swallow],
]) {
  test(`a WebSocket that ${what} twice makes room for an event stream`, async (t) => {
    const { fetch } = harkFetch();
    const { hark, sockets, steps, pass } = await start(t, { made, fetch, transports: ALL, probeMs: 600_000 });
    hark.subscribe("a");
    await pass(70_000);
    assert.deepEqual([hark.state, hark.transport, sockets.length], ["open", "sse", 2]);
    assert.deepEqual(steps(), ["connecting", "websocket", "waiting", "connecting", "websocket", "sse"]);
  });
}

test("room is not made before what Hark asked for", async (t) => {
  t.mock.method(Math, "random", () => 0);
  const { fetch } = harkFetch();
  const leave = (socket) => {
    socket.accept();
    socket.say({ type: "goodbye", reason: "restart", retry_after_ms: 3000 });
    socket.end(1012);
  };
  const { hark, waits, pass } = await start(t, { made: leave, fetch, transports: ALL });
  await pass(3100);
  assert.deepEqual([hark.state, waits()], ["waiting", [3000, 3000]]);
  await pass(3000);
  assert.deepEqual([hark.state, hark.transport], ["open", "sse"]);
});

test("one that cannot be had makes room at once, and one loss of one that was open does not", async (t) => {
  const { fetch } = harkFetch();
  const turns = [greet, (socket) => socket.end()];
  const { sockets, steps, pass } = await start(t, {
    made: (socket) => turns.shift()?.(socket),
    fetch,
    transports: ALL,
  });
  await pass(20_000);
  sockets[0].end();
  await pass(400);
  assert.deepEqual(steps(), ["connecting", "websocket", "waiting", "connecting", "sse"]);
});

for (const [what, end, asked] of [
  ["what is final is final", (socket) => socket.end(4400), ["connect", "connect"]],
  ["a refused token is no reason for another transport", (socket) => socket.end(4401), ["connect", "connect", "refused"]],
]) {
  test(`${what}, also where room was to be made`, async (t) => {
    t.mock.method(Math, "random", () => 0);
    const { fetch, requests } = harkFetch();
    const tokens = [];
    const turns = [(socket) => (socket.accept(), socket.end()), (socket) => (socket.accept(), end(socket))];
    const { hark, steps, pass } = await start(t, {
      made: (socket) => turns.shift()?.(socket),
      fetch,
      transports: ALL,
      token: (reason) => (tokens.push(reason), "any"),
    });
    await pass(100);
    assert.deepEqual([requests, tokens], [[], asked]);
    assert.equal(hark.state, asked.length > 2 ? "connecting" : "closed");
    assert.ok(!steps().includes("sse"));
  });
}

test("losses that are not in a row, with a proof between them, make no room", async (t) => {
  const { fetch } = harkFetch();
  const { sockets, hark, pass } = await start(t, { made: greet, fetch, transports: ALL });
  for (const servedMs of [1000, 11_000, 1000, 11_000, 1000]) {
    await pass(servedMs);
    sockets.at(-1).end();
    await pass(5000);
  }
  assert.equal(hark.transport, "websocket");
});

test("what has proven itself is tried first after an outage, not what is swallowed", async (t) => {
  const { fetch, state, streams } = harkFetch();
  const { hark, sockets, steps, pass } = await start(t, { fetch, transports: ALL, probeMs: 600_000 });
  hark.subscribe("a");
  await pass(6100);
  assert.deepEqual([hark.transport, sockets.length], ["sse", 1]);
  await pass(11_000);
  streams[0].event({ type: "caught_up", topic: "a", cursor: "e:0" });
  await pass(0);
  state.is = "away";
  streams[0].end();
  await pass(7000);
  state.is = "there";
  await pass(5000);
  assert.deepEqual([hark.state, hark.transport, sockets.length], ["open", "sse", 1]);
  assert.equal(steps().at(-1), "sse");
});

test("in a circle: when the last one is of no use, the first has its turn again, after a wait", async (t) => {
  t.mock.method(Math, "random", () => 1);
  const { fetch, state } = harkFetch();
  state.is = "foreign";
  const { sockets, waits, pass } = await start(t, { made: (socket) => socket.end(), fetch, transports: ALL });
  await pass(200);
  assert.deepEqual([sockets.length, waits()], [1, [250]]);
  await pass(100);
  assert.deepEqual([sockets.length, waits()], [2, [250, 500]]);
});

// --- what is tried in the background ---

/** By an event stream, while WebSockets are refused. */
const bySse = async (t, options) => {
  const hark = harkFetch();
  const all = await start(t, {
    fetch: hark.fetch,
    transports: ALL,
    probeMs: 1000,
    made: (socket) => socket.end(),
    ...options,
  });
  await all.pass(10);
  assert.equal(all.hark.transport, "sse");
  return { ...all, ...hark };
};

test("a probe takes over when it has served for 10 s beside the line in use, and not when it is greeted", async (t) => {
  t.mock.method(Math, "random", () => 1);
  const turns = [(socket) => socket.end(), greet];
  const { hark, sockets, steps, pass } = await bySse(t, { made: (socket) => turns.shift()?.(socket) });
  await pass(1000);
  assert.equal(sockets.length, 2);
  const [, probe] = sockets;
  await pass(9900);
  assert.equal(hark.transport, "sse");
  assert.deepEqual(probe.said("subscribe"), []);
  const events = hark.subscribe("a");
  assert.deepEqual(probe.said("subscribe"), []);
  await pass(200);
  assert.equal(hark.transport, "websocket");
  assert.equal(probe.said("subscribe").length, 1);
  assert.deepEqual(steps(), ["connecting", "sse", "websocket"]);
  probe.say({ type: "message", topic: "a", offset: 1, time: 1, data: "by the probe" });
  const { value } = await events.next();
  assert.equal(value.data, "by the probe");
});

for (const [what, probe] of [
  ["killed after `welcome`", (socket) => (socket.accept(), socket.end())],
  ["swallowed after `welcome`", (socket) => socket.accept()],
  ["swallowed after its first pong", (socket) => (socket.accept(), socket.say({ type: "pong" }))],
]) {
  test(`a probe that is ${what} never takes over, and is tried less and less often`, async (t) => {
    t.mock.method(Math, "random", () => 1);
    const turns = [(socket) => socket.end()];
    const { hark, sockets, steps, pass } = await bySse(t, { made: (socket) => (turns.shift() ?? probe)(socket) });
    hark.subscribe("a");
    await pass(600_000);
    assert.deepEqual([steps(), hark.state], [["connecting", "sse"], "open"]);
    assert.ok(sockets.length >= 5 && sockets.length <= 11, `${sockets.length} tries in ten minutes`);
    assert.ok(sockets.slice(1, -1).every(({ closedWith }) => closedWith === 1000), "none is left behind");
  });
}

test("a probe that took over has to prove itself once more: what is cut then makes room again", async (t) => {
  t.mock.method(Math, "random", () => 1);
  const turns = [(socket) => socket.end()];
  const { hark, sockets, steps, pass } = await bySse(t, { made: (socket) => (turns.shift() ?? greet)(socket) });
  hark.subscribe("a");
  await pass(11_100);
  assert.equal(hark.transport, "websocket");
  sockets.at(-1).end();
  await pass(300);
  sockets.at(-1).end();
  await pass(300);
  assert.equal(hark.transport, "sse");
  assert.deepEqual(steps(), ["connecting", "sse", "websocket", "waiting", "connecting", "websocket", "sse"]);
});

/** By long-poll, while an event stream is being tried by topic "a". */
const byLongPoll = async (t) => {
  t.mock.method(Math, "random", () => 1);
  const { fetch, streams } = harkFetch();
  let isHeld = true;
  const all = await start(t, {
    transports: ["sse", "longpoll"],
    probeMs: 1000,
    fetch: (url, init) => (isHeld && url.includes("/v1/events") ? new Promise(() => {}) : fetch(url, init)),
  });
  const events = all.hark.subscribe("a");
  await all.pass(20_000);
  assert.equal(all.hark.transport, "longpoll");
  isHeld = false;
  for (let second = 0; !streams.length && second < 60; second++) await all.pass(1000);
  await all.pass(10_100);
  assert.equal(streams.length, 1);
  const isTaken = async () => {
    streams[0].event({ type: "message", topic: "a", offset: 1, time: 1, data: "twice, if both were heard" });
    await all.pass(200);
    assert.equal(all.steps().at(-1), "sse");
    assert.ok(streams[0].closed, "the stream of the trial has ended");
  };
  return { ...all, streams, events, isTaken };
};

test("an event stream is tried by the topic that was subscribed to last, beside a long-poll", async (t) => {
  const { streams, events, pass, isTaken } = await byLongPoll(t);
  await isTaken();
  assert.equal(streams.length, 2, "the subscriptions go on by a stream of their own");
  streams[1].event({ type: "message", topic: "a", offset: 1, time: 1, data: 1 });
  streams[1].event({ type: "message", topic: "a", offset: 2, time: 1, data: 2 });
  await pass(100);
  const data = [];
  while (data.length < 2) {
    const { value } = await events.next();
    if (value.type === "message") data.push(value.data);
  }
  assert.deepEqual(data, [1, 2]);
});

test("a topic that nobody wants any more when its trial is over is not read on", async (t) => {
  const { streams, events, isTaken } = await byLongPoll(t);
  events.close();
  await isTaken();
  assert.equal(streams.length, 1);
});

test("a line that neither proves itself nor ends is not tried for ever", async (t) => {
  t.mock.method(Math, "random", () => 1);
  const { fetch, requests } = harkFetch();
  let isHeld = true;
  const refusal = { code: "forbidden", message: "not by this transport" };
  const { hark, pass } = await start(t, {
    transports: ["sse", "longpoll"],
    probeMs: 1000,
    fetch: async (url, init) => {
      if (!url.includes("/v1/events")) return fetch(url, init);
      requests.push("stream");
      return isHeld ? new Promise(() => {}) : Response.json(refusal, { status: 403 });
    },
  });
  hark.subscribe("a");
  await pass(20_000);
  assert.equal(hark.transport, "longpoll");
  isHeld = false;
  requests.length = 0;
  await pass(600_000);
  const tries = requests.filter((what) => what === "stream").length;
  assert.ok(tries >= 3 && tries <= 10, `${tries} tries in ten minutes`);
});

// --- what only the connection decides, without a client ---

const connect = async (t, losses, { made = swallow, ...options }) => {
  const clock = fakeClock(t);
  const { WebSocket, sockets } = scriptedWebSocket(made);
  const lost = [];
  const changes = [];
  const connection = new Connection(
    {
      base: "https://hark.test",
      token: undefined,
      transports: ALL,
      WebSocket,
      patienceMs: 6000,
      probeMs: 1000,
      ...options,
    },
    {
      ready: () => connection.say({ type: "subscribe", id: 1, topic: "a", from: "now" }),
      open: () => {},
      hear: () => {},
      lost: (loss) => (lost.push(loss), losses.shift() ?? 0),
      end: () => {},
      state: ({ state, transport }) => changes.push(transport ?? state),
    },
  );
  t.after(() => connection.close());
  await settled();
  return { ...clock, connection, sockets, lost, changes };
};

test("after two losses over one message a WebSocket makes room for an event stream, wherever that stands, and for long", async (t) => {
  t.mock.method(Math, "random", () => 1);
  const { fetch } = harkFetch();
  const { pass, sockets, connection, lost } = await connect(t, [1, 2], {
    fetch,
    transports: ["websocket", "longpoll", "sse"],
  });
  await pass(60_000);
  assert.deepEqual([connection.transport, sockets.length], ["sse", 2]);
  assert.deepEqual(
    lost.map(({ proven, transport }) => [proven, transport]),
    [
      [false, "websocket"],
      [false, "websocket"],
    ],
  );
  await pass(500_000);
  assert.equal(sockets.length, 2, "the message has ten minutes");
  await pass(120_000);
  assert.equal(sockets.length, 3);
});

test("what was no Hark says nothing against what was said to it", async (t) => {
  const { sockets, lost, connection, pass } = await connect(t, [], {
    transports: ["websocket"],
    made: (socket) => (socket.upgrade(), socket.end()),
  });
  await pass(1);
  assert.equal(sockets[0].said("subscribe").length, 1);
  const said = lost.map(({ proven, saysNothing }) => [proven, saysNothing]);
  assert.deepEqual([said, connection.state], [[[false, true]], "waiting"]);
});

test("who is told of a loss is told whether it says anything", async (t) => {
  t.mock.method(Math, "random", () => 0);
  const { sockets, lost, connection, pass } = await connect(t, [], { transports: ["websocket"] });
  const said = () => lost.map(({ proven, saysNothing }) => (proven ? "for it" : saysNothing ? "nothing" : "against it"));
  sockets[0].end();
  await settled();
  assert.deepEqual(said(), ["against it"], "open, and lost at once");
  connection.reconnect();
  await pass(1);
  connection.reconnect();
  assert.deepEqual(said(), ["against it", "nothing"], "it was not lost");
  await pass(1);
  sockets.at(-1).answers = true;
  sockets.at(-1).say({ type: "pong" });
  await pass(10_100);
  sockets.at(-1).end();
  await settled();
  assert.deepEqual(said(), ["against it", "nothing", "for it"], "it had proven itself");
});

// --- a message that does not come through by HTTP ---

for (const transports of [["longpoll"], ["sse", "longpoll"], ALL])
  for (const [how, isProven] of [["cut", false], ["swallowed", false], ["cut", true], ["swallowed", true]])
    test(`${transports}: a publish that is always ${how} fails with lost${isProven ? ", also while streams live" : ""}, and costs no other topic`, async (t) => {
      t.mock.method(Math, "random", () => 0.5);
      const { fetch: hark } = harkFetch();
      const fetch = async (url, init) => {
        if (!init.body?.includes("poison")) return hark(url, init);
        if (how === "cut") throw new TypeError("fetch failed");
        return new Promise((_, reject) => init.signal.addEventListener("abort", () => reject(new Error("aborted"))));
      };
      const { hark: client, pass } = await start(t, { transports, fetch, probeMs: 600_000, made: (socket) => socket.end() });
      if (isProven) client.subscribe("s");
      await pass(60_000);
      const ends = [];
      const end = (what) => (error) => ends.push([what, error?.code]);
      client.publish("a", "poison").then(end("poison"), end("poison"));
      client.publish("b", 1).then(end("b"), end("b"));
      client.publish("a", 2).then(end("behind it"), end("behind it"));
      for (let minute = 0; ends.length < 3 && minute < 30; minute++) await pass(60_000);
      assert.deepEqual(ends.sort(), [["b", undefined], ["behind it", undefined], ["poison", "lost"]].sort());
    });

test("while Hark is away, nothing is lost however long and often it is tried", async (t) => {
  t.mock.method(Math, "random", () => 0.5);
  const { fetch, state } = harkFetch();
  const { hark, pass } = await start(t, { transports: ["longpoll"], fetch });
  await pass(1000);
  const ends = [];
  for (const is of ["away", "silent", "foreign"]) {
    state.is = is;
    hark.publish(is, 1).then(({ cursor }) => ends.push(cursor), (error) => ends.push(error));
    await pass(900_000);
    assert.deepEqual(ends, [], is);
  }
  state.is = "there";
  await pass(60_000);
  assert.deepEqual(ends, ["e:1", "e:1", "e:1"]);
});

test("a client that is closed when it says that a topic is stuck has no timers left", async (t) => {
  t.mock.method(Math, "random", () => 0);
  const { hark, sockets, clock, pass } = await start(t, { made: (socket) => socket.accept() });
  for (const topic of ["a", "b", "c"]) {
    const events = hark.subscribe(topic, { from: { after: "e:7" } });
    events.on("message", () => {});
    events.on("stuck", () => hark.close());
  }
  const cutAll = (socket) => {
    for (const topic of ["a", "b", "c"]) socket.subscribed(topic, "e:7");
    socket.end();
  };
  for (let times = 0; hark.state !== "closed" && times < 20; times++) {
    await pass(1000);
    if (sockets.at(-1).said("subscribe").length === 3) cutAll(sockets.at(-1));
  }
  await pass(1);
  assert.deepEqual([hark.state, clock.waiting], ["closed", 0]);
});

test("the cursor of caught_up is what was received, whatever Hark says", async (t) => {
  const { hark, sockets } = await start(t);
  const events = hark.subscribe("a");
  sockets[0].accept();
  sockets[0].subscribed("a", "e:0");
  sockets[0].say({ type: "caught_up", topic: "a", cursor: "e:9" });
  const { value } = await events.next();
  assert.deepEqual([value.type, value.cursor], ["caught_up", "e:0"]);
});

test("what is unanswered has less than 1 MiB in UTF-8, but for one message that is larger alone", async (t) => {
  const { hark, sockets } = await start(t);
  sockets[0].accept({ max_message_bytes: 4 << 20 });
  await settled();
  // Of two bytes each.
  const text = "\u00e9".repeat(200_000);
  for (let times = 0; times < 4; times++) hark.publish("a", text).catch(() => {});
  hark.publish("b", "x".repeat(600_000)).catch(() => {});
  await settled();
  assert.deepEqual(sockets[0].said("publish").map(({ topic }) => topic), ["a", "a"]);
});

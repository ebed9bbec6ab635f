// When to connect, again, how, and with which token: with sockets whose other end is the test, and clocks that it moves.

import assert from "node:assert/strict";
import test from "node:test";
import { connect } from "../src/index.js";
import { draw } from "../src/backoff.js";
import { scriptedWebSocket } from "./support/socket.js";

/** Lets everything that is due now happen. */
const settled = async () => {
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
};
const start = async (t, options = {}) => {
  let now = 1_000_000;
  t.mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  t.mock.method(Date, "now", () => now);
  const { WebSocket, sockets } = scriptedWebSocket();
  const hark = connect({ url: "https://hark.test/prefix/", WebSocket, transports: ["websocket"], ...options });
  const changes = [];
  hark.on("state", (change) => changes.push(change));
  t.after(() => hark.close());
  await settled();
  const pass = async (ms) => {
    // In steps, so that what one timer begins is seen by the next.
    await settled();
    for (let step = 0; step < 50; step++) {
      now += Math.ceil(ms / 50);
      t.mock.timers.tick(Math.ceil(ms / 50));
      await settled();
    }
  };
  /** The machine sleeps: its clock goes on, its timers do not. */
  const sleep = (ms) => (now += ms);
  return { hark, sockets, changes, pass, sleep };
};

test("the URL of the WebSocket, and its subprotocol", async (t) => {
  const { sockets } = await start(t);
  assert.deepEqual([sockets[0].url, sockets[0].protocol], ["wss://hark.test/prefix/ws", "hark.v1.json"]);
});

test("the bound of the wait doubles up to the longest", () => {
  const largest = (failures) => Math.max(...Array.from({ length: 2000 }, () => draw(failures, 250, 20_000)));
  for (const [failures, bound] of [
    [0, 250],
    [1, 500],
    [3, 2000],
    [6, 16_000],
    [7, 20_000],
    [4000, 20_000],
  ]) {
    const seen = largest(failures);
    assert.ok(seen <= bound && seen > bound * 0.9, `${failures} failures: ${seen} ms`);
  }
});

test("the wait grows until something is answered, not when the connection stands", async (t) => {
  t.mock.method(Math, "random", () => 1);
  const { hark, sockets, changes, pass } = await start(t);
  hark.subscribe("a");
  const waits = () => changes.filter(({ state }) => state === "waiting").map(({ retryInMs }) => retryInMs);
  sockets[0].end();
  await pass(250);
  sockets[1].accept();
  sockets[1].end();
  await pass(500);
  assert.deepEqual(waits(), [250, 500]);
  sockets[2].accept();
  sockets[2].say({
    type: "subscribed",
    id: sockets[2].said("subscribe")[0].id,
    topic: "a",
    cursor: "e:0",
    head: 0,
    resumed: false,
  });
  sockets[2].end();
  await settled();
  assert.deepEqual(waits(), [250, 500, 250]);
});

test("close codes tell whether to connect again", async (t) => {
  for (const again of [1001, 1006, 1011, 1012, 1013, 4500, 4501]) {
    await t.test(String(again), async (t) => {
      const { hark, sockets, pass } = await start(t);
      sockets[0].accept();
      sockets[0].end(again);
      await pass(300);
      assert.equal(sockets.length, 2);
      assert.equal(hark.state, "connecting");
    });
  }
  for (const never of [1000, 1002, 1003, 1007, 1008, 1009, 1010, 4400, 4401, 4499]) {
    await t.test(String(never), async (t) => {
      const { hark, sockets, changes, pass } = await start(t);
      const lost = assert.rejects(hark.publish("a", 1), {
        name: "PublishError",
        code: never === 4401 ? "unauthenticated" : "closed_by_hark",
        maybeKept: true,
      });
      const events = hark.subscribe("a");
      sockets[0].accept();
      await settled();
      sockets[0].end(never, "because");
      await pass(300);
      assert.equal(sockets.length, 1);
      assert.equal(hark.state, "closed");
      assert.match(changes.at(-1).error.message, /because/);
      await lost;
      await assert.rejects(events.next(), { name: "SubscribeError" });
      await assert.rejects(hark.publish("a", 1), { maybeKept: false });
      assert.throws(() => hark.subscribe("b"));
    });
  }
});

test("the token callback is never called twice at a time", async (t) => {
  const asked = [];
  let answer;
  const token = (reason) => (asked.push(reason), new Promise((resolve) => (answer = resolve)));
  const { sockets } = await start(t, { token });
  assert.equal(sockets.length, 0, "no attempt without a token");
  answer("one");
  await settled();
  sockets[0].accept();
  assert.deepEqual(JSON.parse(sockets[0].sent[0]), { type: "auth", token: "one" });
  for (let times = 0; times < 3; times++) sockets[0].say({ type: "error", code: "expiring", message: "soon" });
  await settled();
  assert.deepEqual(asked, ["connect", "expiring"]);
  answer("two");
  await settled();
  // Three that waited for it, and each says it.
  assert.ok(
    sockets[0]
      .said("auth")
      .slice(1)
      .every(({ token }) => token === "two"),
  );
  sockets[0].say({ type: "error", code: "expiring", message: "soon" });
  await settled();
  assert.deepEqual(asked, ["connect", "expiring", "expiring"]);
});

test("a refused token is asked for once more", async (t) => {
  const asked = [];
  const { hark, sockets, changes, pass } = await start(t, { token: async (reason) => (asked.push(reason), "old") });
  sockets[0].accept();
  sockets[0].end(4401, "run out");
  await pass(300);
  sockets[1].accept();
  sockets[1].say({ type: "error", code: "unauthenticated", message: "no good" });
  await pass(300);
  assert.deepEqual(asked, ["connect", "refused"]);
  assert.equal(hark.state, "closed");
  assert.equal(changes.at(-1).error.code, "unauthenticated");
});

test("a callback that fails is asked again later", async (t) => {
  const tokens = ["fails", "good"];
  const token = () => {
    const next = tokens.shift();
    if (next === "fails") throw new Error("the login service is away");
    return next;
  };
  const { sockets, changes, pass } = await start(t, { token });
  assert.match(changes.at(-1).error.message, /the login service is away/);
  assert.equal(changes.at(-1).error.code, "no_token");
  await pass(300);
  sockets[0].accept();
  assert.equal(sockets[0].said("auth")[0].token, "good");
});

test("a connection without a sound is asked, and given up", async (t) => {
  const { hark, sockets, pass } = await start(t);
  sockets[0].accept({ heartbeat_ms: 20_000 });
  await pass(26_000);
  assert.ok(sockets[0].said("ping").length >= 2, "the greeting, and one after a heartbeat");
  sockets[0].say({ type: "pong" });
  await pass(26_000);
  assert.equal(hark.state, "open");
  await pass(30_000);
  assert.equal(sockets[0].closedWith, 1000);
  assert.ok(sockets.length >= 2, "a new one is tried");
});

test("after a sleep the connection is checked at once", async (t) => {
  const { hark, sockets, pass, sleep } = await start(t);
  sockets[0].accept();
  for (const answered of [true, false]) {
    sleep(3_600_000);
    const before = sockets[0].said("ping").length;
    await pass(5000);
    assert.equal(sockets[0].said("ping").length, before + 1);
    assert.equal(hark.state, "open", "silence says nothing yet");
    if (answered) sockets[0].say({ type: "pong" });
    await pass(5100);
    assert.equal(hark.state === "open", answered);
  }
});

/** A browser's window and document, as far as they are listened to. */
const browser = (t) => {
  const window = new EventTarget();
  const document = Object.assign(new EventTarget(), { visibilityState: "visible" });
  Object.assign(globalThis, { window, document });
  t.after(() => {
    delete globalThis.window;
    delete globalThis.document;
  });
  return { window, document };
};

for (const [name, wake] of Object.entries({
  online: ({ window }) => window.dispatchEvent(new Event("online")),
  offline: ({ window }) => window.dispatchEvent(new Event("offline")),
  pageshow: ({ window }) => window.dispatchEvent(new Event("pageshow")),
  "a page that is looked at again": ({ document }) => document.dispatchEvent(new Event("visibilitychange")),
})) {
  test(`${name}: checks the connection with a short deadline`, async (t) => {
    const page = browser(t);
    const { hark, sockets, pass } = await start(t);
    sockets[0].accept();
    wake(page);
    assert.equal(sockets[0].said("ping").length, 2);
    sockets[0].say({ type: "pong" });
    await pass(5100);
    assert.equal(hark.state, "open", "it was answered");
    wake(page);
    await pass(5100);
    assert.notEqual(hark.state, "open", "it was not");
  });

  test(`${name}: does not wait any longer`, async (t) => {
    t.mock.method(Math, "random", () => 1);
    const page = browser(t);
    const { hark, sockets, pass } = await start(t);
    sockets[0].end();
    await settled();
    assert.equal(hark.state, "waiting");
    wake(page);
    await pass(1);
    assert.equal(sockets.length, 2);
  });
}

test("what Hark asked for is waited for, whoever wakes", async (t) => {
  const page = browser(t);
  const { hark, sockets, pass } = await start(t);
  sockets[0].accept();
  sockets[0].say({ type: "goodbye", reason: "restart", retry_after_ms: 2000 });
  sockets[0].end(1012);
  await settled();
  page.window.dispatchEvent(new Event("online"));
  await pass(1900);
  assert.equal(sockets.length, 1);
  await pass(200);
  assert.equal(sockets.length, 2);
  hark.close();
  assert.equal(hark.state, "closed");
});

for (const when of ["connecting", "open", "waiting"]) {
  test(`a client may be closed when it says ${when}, and is then at rest`, async (t) => {
    const { hark, sockets, changes, pass } = await start(t, {
      transports: ["websocket", "sse"],
      fetch: async () => new Response(""),
    });
    hark.on("state", ({ state }) => state === when && hark.close());
    sockets[0].accept();
    if (when === "connecting" || when === "waiting") sockets[0].end();
    await pass(30_000);
    assert.equal(changes.at(-1).state, "closed");
    assert.equal(sockets.length, 1);
    assert.equal(sockets[0].said("publish").length, 0);
  });
}

test("a closed client listens to nothing and says nothing", async (t) => {
  const page = browser(t);
  const { hark, sockets, changes } = await start(t);
  sockets[0].accept();
  const said = sockets[0].sent.length;
  hark.close();
  hark.close();
  page.window.dispatchEvent(new Event("online"));
  sockets[0].say({ type: "goodbye", reason: "restart", retry_after_ms: 1 });
  hark.reconnect();
  await settled();
  assert.deepEqual([sockets.length, sockets[0].sent.length, sockets[0].closedWith], [1, said, 1000]);
  assert.deepEqual(
    changes.map(({ state }) => state),
    ["connecting", "open", "closed"],
  );
});

/** A `fetch` whose answers the test gives, in the order of the requests. */
const scriptedFetch = () => {
  const requests = [];
  const fetch = (url, { method = "GET", signal }) =>
    new Promise((resolve, reject) => {
      signal.addEventListener("abort", () => reject(new Error("aborted")));
      requests.push({ what: `${method} ${new URL(url).pathname}`, answer: () => resolve(new Response("")) });
    });
  return { fetch, requests };
};
const steps = (changes) => changes.map(({ state, transport }) => transport ?? state);

test("a slow answer on an event stream's line is no reason to do with less", async (t) => {
  const page = browser(t);
  const { fetch, requests } = scriptedFetch();
  const { hark, changes, pass } = await start(t, { fetch, transports: ["sse", "longpoll"] });
  requests[0].answer();
  await pass(1);
  page.window.dispatchEvent(new Event("pageshow"));
  await pass(5400);
  assert.equal(requests.length, 3, "the check was not answered, so there is a new line");
  requests[2].answer();
  await pass(1);
  assert.deepEqual(steps(changes), ["connecting", "sse", "waiting", "connecting", "sse"]);
  assert.equal(hark.transport, "sse");
});

for (const [what, silent] of Object.entries({
  "that is not answered": () => new Promise(() => {}),
  "that is answered with nothing": async () => new Response(new ReadableStream()),
})) {
  test(`where a stream got through once, another one ${what} is no reason to do with less`, async (t) => {
    const requests = [];
    let isSlow = false;
    const welcome = `data: {"type":"welcome","heartbeat_ms":25000,"max_message_bytes":9999,"max_inflight":9}\n\n`;
    const fetch = async (url, { method = "GET", signal }) => {
      requests.push(`${method} ${new URL(url).pathname}`);
      if (method === "POST") return new Response("");
      if (isSlow) {
        const aborted = new Promise((_, reject) => signal.addEventListener("abort", () => reject(new Error("aborted"))));
        return Promise.race([silent(), aborted]);
      }
      const body = new ReadableStream({ start: (stream) => stream.enqueue(new TextEncoder().encode(welcome)) });
      return new Response(body);
    };
    const { hark, changes, pass } = await start(t, { fetch, transports: ["sse", "longpoll"] });
    hark.subscribe("a");
    await pass(50);
    isSlow = true;
    hark.subscribe("b");
    await pass(6500);
    assert.deepEqual(steps(changes), ["connecting", "sse", "waiting", "connecting", "sse"]);
    assert.ok(!requests.includes("GET /prefix/v1/messages"), "no long-poll");
  });
}

test("what is better is tried in the background: not a WebSocket alone", async (t) => {
  const { fetch, requests } = scriptedFetch();
  const { hark, sockets, changes, pass } = await start(t, {
    fetch,
    transports: ["websocket", "sse", "longpoll"],
    probeMs: 1000,
  });
  sockets[0].end();
  // Server-sent events are slow this once.
  await pass(6100);
  assert.equal(requests.length, 2);
  requests[1].answer();
  await pass(1);
  assert.equal(hark.transport, "longpoll");
  await pass(1000);
  assert.equal(sockets.length, 2, "a WebSocket is tried first");
  sockets[1].end();
  await pass(1);
  requests.at(-1).answer();
  await pass(1);
  assert.deepEqual(steps(changes), ["connecting", "longpoll", "sse"]);
  // It opens, but its stream is held back: then it is passed over as at the start.
  hark.subscribe("a");
  await pass(1);
  assert.equal(requests.at(-1).what, "GET /prefix/v1/events");
  await pass(6100);
  requests.at(-1).answer();
  await pass(1);
  assert.deepEqual(steps(changes), ["connecting", "longpoll", "sse", "longpoll"]);
  hark.close();
});

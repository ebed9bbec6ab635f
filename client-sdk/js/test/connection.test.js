// When to connect, again, how, and with which token: with sockets whose other end is the test, and clocks that it moves.

import assert from "node:assert/strict";
import test from "node:test";
import { draw } from "../src/backoff.js";
import { Tokens } from "../src/token.js";
import { browser, harkFetch, settled, start } from "./support/client.js";

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

test("close codes tell whether to connect again", async (t) => {
  for (const again of [1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 4000, 4399, 4500, 4501, 4503]) {
    await t.test(String(again), async (t) => {
      const { hark, sockets, pass } = await start(t);
      sockets[0].accept();
      sockets[0].end(again);
      await pass(300);
      assert.equal(sockets.length, 2);
      assert.equal(hark.state, "connecting");
    });
  }
  for (const never of [4400, 4401, 4402, 4403, 4499]) {
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

for (const code of [1002, 1003, 1007, 1009]) {
  const open = async (t) => {
    const all = await start(t, { transports: ["websocket"] });
    const end = async (code, servedMs = 0) => {
      const socket = all.sockets.at(-1);
      socket.answers = true;
      socket.accept();
      await all.pass(servedMs);
      socket.end(code, "too much");
      await settled();
      await all.pass(all.waits().at(-1));
    };
    return { ...all, end };
  };

  test(`${code} is final the third time in a row`, async (t) => {
    const { hark, changes, end } = await open(t);
    await end(code);
    await end(1009);
    assert.equal(hark.state, "connecting");
    await end(code);
    assert.equal(hark.state, "closed");
    assert.equal(changes.at(-1).error.code, "closed_by_hark");
    assert.match(changes.at(-1).error.message, /too much/);
  });

  test(`${code} is not, when a connection has proven itself between`, async (t) => {
    const { hark, end } = await open(t);
    await end(code);
    await end(code);
    await end(code, 10_100);
    await end(code);
    assert.equal(hark.state, "connecting");
    await end(code);
    assert.equal(hark.state, "closed");
  });

  test(`${code} is not, with another end between`, async (t) => {
    const { hark, end } = await open(t);
    for (const other of [code, code, 1006, code, code]) await end(other);
    assert.equal(hark.state, "connecting");
  });

  test(`${code} before \`welcome\` comes of something else, and of nothing final`, async (t) => {
    const { hark, sockets, waits, pass } = await open(t);
    for (let times = 0; times < 5; times++) {
      sockets.at(-1).upgrade();
      sockets.at(-1).end(code);
      await settled();
      await pass(waits().at(-1));
    }
    assert.equal(hark.state, "connecting");
  });
}

test("the token callback is never called twice at a time", async (t) => {
  const asked = [];
  let answer;
  const token = (reason) => (asked.push(reason), new Promise((resolve) => (answer = resolve)));
  const { sockets } = await start(t, { token });
  assert.equal(sockets.length, 0, "no attempt without a token");
  answer("one");
  await settled();
  sockets[0].accept();
  assert.deepEqual(JSON.parse(sockets[0].sent[0]), { id: 0, type: "auth", token: "one" });
  for (let times = 0; times < 3; times++) sockets[0].say({ type: "error", code: "expiring", message: "soon" });
  await settled();
  assert.deepEqual(asked, ["connect", "expiring"]);
  answer("two");
  await settled();
  // Three waited for it, and it is said once.
  assert.deepEqual(
    sockets[0].said("auth").map(({ token }) => token),
    ["one", "two"],
  );
  sockets[0].say({ type: "error", code: "expiring", message: "soon" });
  await settled();
  assert.deepEqual(asked, ["connect", "expiring", "expiring"]);
});

test("a token that is in use is not sent again when it runs out", async (t) => {
  for (const [token, expected] of [
    ["one", ["one"]],
    [() => "one", ["one"]],
    [(reason) => (reason === "connect" ? "one" : "two"), ["one", "two"]],
  ]) {
    const { sockets } = await start(t, { token });
    sockets[0].accept();
    for (let times = 0; times < 3; times++) {
      sockets[0].say({ type: "error", code: "expiring", message: "soon" });
      await settled();
    }
    const said = sockets[0].said("auth").map(({ token }) => token);
    assert.deepEqual(said, expected);
  }
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

test("a refused token is not asked for by the call that may have brought it", async () => {
  const asked = [];
  const answers = [];
  const tokens = new Tokens((reason) => (asked.push(reason), new Promise((...ways) => answers.push(ways))), 6000);
  const one = tokens.get("connect");
  const fresh = ["refused", "refused"].map((reason) => tokens.get(reason));
  assert.equal(await Promise.race([tokens.get("expiring"), settled()]), undefined, "it is waited for");
  answers[0][0]("old");
  assert.equal(await one, "old");
  await settled();
  assert.deepEqual(asked, ["connect", "refused"]);
  answers[1][0]("new");
  assert.deepEqual(await Promise.all(fresh), ["new", "new"]);
  // Nor does it matter how that call ends.
  const failing = tokens.get("connect");
  const another = tokens.get("refused");
  answers[2][1](new Error("the login service is away"));
  await assert.rejects(failing, /away/);
  await settled();
  answers[3][0]("newer");
  assert.equal(await another, "newer");
});

for (const transport of ["websocket", "sse", "longpoll"]) {
  test(`${transport}: a token that ran out while the machine slept is not shown`, async (t) => {
    const page = browser(t);
    let calls = 0;
    const shown = [];
    const { fetch, requests, streams } = harkFetch();
    const asks = (url, init) => (shown.push(init.headers.authorization), fetch(url, init));
    const token = async () => `t${++calls}`;
    const { hark, sockets, pass, sleep } = await start(t, { transports: [transport], fetch: asks, token });
    const made = (socket) => {
      socket.answers = true;
      socket.accept();
    };
    sockets.forEach(made);
    hark.subscribe("a");
    await pass(100);
    assert.equal(hark.state, "open");
    const before = shown.length;
    page.shows("hidden");
    sleep(8 * 3_600_000);
    page.shows("visible");
    if (transport === "websocket") sockets[0].end(1006);
    await pass(300);
    if (transport !== "websocket") {
      assert.ok(shown.length > before, `it asks again: ${requests}`);
      assert.deepEqual(new Set(shown.slice(before)), new Set(["Bearer t2"]));
      return;
    }
    sockets[1].accept();
    assert.deepEqual(
      sockets.map((socket) => socket.said("auth")[0].token),
      ["t1", "t2"],
    );
  });
}

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

test("a callback that never answers is given up, and asked again", async (t) => {
  const asked = [];
  const token = (reason) => (asked.push(reason), asked.length < 3 ? new Promise(() => {}) : "good");
  t.mock.method(Math, "random", () => 1);
  const { hark, sockets, changes, pass } = await start(t, { token, connectTimeoutMs: 2000 });
  await pass(1900);
  assert.equal(hark.state, "connecting");
  await pass(200);
  assert.equal(changes.at(-1).error.code, "no_token");
  assert.match(changes.at(-1).error.message, /2000 ms/);
  await pass(3000);
  assert.equal(asked.length, 3);
  sockets[0].accept();
  assert.equal(sockets[0].said("auth")[0].token, "good");
});

test("nor does one that never answers stop a connection that stands", async (t) => {
  const asked = [];
  const token = (reason) => (asked.push(reason), reason === "expiring" ? new Promise(() => {}) : "good");
  const { hark, sockets, pass } = await start(t, { token });
  sockets[0].answers = true;
  sockets[0].accept();
  sockets[0].say({ type: "authenticated", id: 0, identity: "ana" });
  sockets[0].say({ type: "error", code: "expiring", message: "soon" });
  await pass(60_000);
  assert.equal(hark.state, "open");
  sockets[0].say({ type: "error", code: "expiring", message: "soon" });
  await pass(0);
  assert.deepEqual(asked, ["connect", "expiring", "expiring"]);
  sockets[0].end(4401);
  // Not before the one that hangs is given up.
  await pass(7000);
  assert.deepEqual(asked.slice(3), ["refused"]);
  assert.equal(sockets.length, 2);
});

test("a token that was good and has run out is followed by a fresh one, as often as that happens", async (t) => {
  const asked = [];
  const { hark, sockets, pass } = await start(t, { token: (reason) => (asked.push(reason), `t${asked.length}`) });
  for (let times = 0; times < 4; times++) {
    const socket = sockets.at(-1);
    socket.answers = true;
    socket.accept();
    socket.say({ type: "authenticated", id: 0, identity: "ana" });
    await pass(60_000);
    socket.end(4401, "run out");
    await pass(300);
  }
  assert.deepEqual(asked, ["connect", "refused", "refused", "refused", "refused"]);
  assert.equal(hark.state, "connecting");
});

test("what Hark asked for is waited for, whoever wakes", async (t) => {
  const page = browser(t);
  const { hark, sockets, pass } = await start(t);
  sockets[0].accept();
  sockets[0].say({ type: "goodbye", reason: "restart", retry_after_ms: 2000 });
  sockets[0].end(1012);
  await settled();
  page.happens("online");
  await pass(1900);
  assert.equal(sockets.length, 1);
  await pass(100);
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

test("`reconnect` waits for nothing, and sets no timer to a date", async (t) => {
  t.mock.method(Math, "random", () => 1);
  const { hark, sockets, pass, clock } = await start(t);
  for (let times = 0; times < 8; times++) {
    sockets.at(-1).end();
    await settled();
    await pass(times % 2 ? 0 : 5000);
  }
  assert.equal(hark.state, "waiting");
  const tries = sockets.length;
  hark.reconnect();
  await pass(1);
  assert.equal(sockets.length, tries + 1);
  hark.close();
  assert.ok(
    clock.lengths.every((ms) => ms >= 0 && ms < 2 ** 31),
    `${clock.lengths}`,
  );
});

test("a closed client listens to nothing and says nothing", async (t) => {
  const page = browser(t);
  const { hark, sockets, changes } = await start(t);
  sockets[0].accept();
  const said = sockets[0].sent.length;
  hark.close();
  hark.close();
  page.happens("online");
  sockets[0].say({ type: "goodbye", reason: "restart", retry_after_ms: 1 });
  hark.reconnect();
  await settled();
  assert.deepEqual([sockets.length, sockets[0].sent.length, sockets[0].closedWith], [1, said, 1000]);
  assert.deepEqual(
    changes.map(({ state }) => state),
    ["connecting", "open", "closed"],
  );
});

test("a send that throws fails no publish: it is sent by the next connection, once", async (t) => {
  const { hark, sockets, pass } = await start(t);
  sockets[0].accept();
  await pass(1);
  sockets[0].send = () => {
    throw new DOMException("the socket is closing", "InvalidStateError");
  };
  const receipt = hark.publish("a", 1);
  hark.subscribe("b");
  sockets[0].end();
  await pass(1000);
  sockets[1].accept();
  await pass(1);
  assert.deepEqual(sockets[1].said("publish").map(({ seq }) => seq), [1]);
  sockets[1].receipts();
  assert.equal((await receipt).cursor, "e:1");
});

test("a line that throws while it is made is passed over", async (t) => {
  class Forbidden {
    set onopen(_) {
      throw new TypeError("not here");
    }
    close() {}
  }
  const { fetch } = harkFetch();
  const { hark, pass } = await start(t, { WebSocket: Forbidden, fetch, transports: ["websocket", "sse"] });
  await pass(1000);
  assert.deepEqual([hark.state, hark.transport], ["open", "sse"]);
});

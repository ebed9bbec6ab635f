// What a page tells its client: the network comes and goes, it is looked at again, put away, and taken out again.

import assert from "node:assert/strict";
import test from "node:test";
import { browser, harkFetch, settled, start } from "./support/client.js";

const pings = (socket) => socket.said("ping").length;
const hideFor = async (page, pass, ms) => {
  page.shows("hidden");
  await pass(ms);
  page.shows("visible");
};

for (const [what, wake] of Object.entries({
  online: (page) => page.happens("online"),
  offline: (page) => page.happens("offline"),
  "a page that is looked at again after longer than a heartbeat": (page, pass) => hideFor(page, pass, 26_000),
})) {
  test(`${what}: asks whether the connection holds`, async (t) => {
    const page = browser(t);
    const { hark, sockets, pass } = await start(t);
    sockets[0].answers = true;
    sockets[0].accept();
    await pass(12_000);
    const before = pings(sockets[0]);
    await wake(page, pass);
    assert.ok(pings(sockets[0]) > before);
    await pass(3100);
    assert.equal(hark.state, "open", "it was answered");
    await pass(1000);
    const waking = wake(page, pass);
    await pass(0);
    await waking;
    sockets[0].answers = false;
    await pass(100);
    page.happens("offline");
    await pass(3100);
    assert.notEqual(hark.state, "open", "it was not");
  });
}

for (const [what, wake] of Object.entries({
  online: (page) => page.happens("online"),
  "a page that is looked at again": (page) => page.shows("visible"),
})) {
  test(`${what}: does not wait any longer`, async (t) => {
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

test("offline: trying would be in vain", async (t) => {
  t.mock.method(Math, "random", () => 1);
  const page = browser(t);
  const { hark, sockets, pass } = await start(t);
  sockets[0].end();
  await settled();
  page.happens("offline");
  await pass(1);
  assert.deepEqual([hark.state, sockets.length], ["waiting", 1]);
});

test("online: what was begun while the network was away is begun anew", async (t) => {
  const page = browser(t);
  const { hark, sockets, changes, pass } = await start(t);
  await pass(3000);
  page.happens("online");
  await pass(1);
  assert.equal(sockets.length, 2);
  assert.equal(sockets[0].closedWith, 1000);
  sockets[1].accept();
  assert.equal(hark.state, "open");
  await settled();
  assert.deepEqual(
    changes.map(({ state }) => state),
    ["connecting", "open"],
  );
});

test("a look at a page costs no request, nor does another after a short while", async (t) => {
  const page = browser(t);
  const { fetch, requests } = harkFetch();
  const { hark, pass } = await start(t, { fetch, transports: ["longpoll"] });
  await pass(100);
  assert.equal(hark.state, "open");
  const before = requests.length;
  page.shows("visible");
  for (let times = 0; times < 5; times++) await hideFor(page, pass, 1000);
  await pass(100);
  assert.equal(requests.length, before);
});

test("a look at a page after a short while does not ask over a WebSocket either", async (t) => {
  const page = browser(t);
  const { sockets, pass } = await start(t);
  sockets[0].answers = true;
  sockets[0].accept();
  await pass(12_000);
  const before = pings(sockets[0]);
  for (let times = 0; times < 5; times++) await hideFor(page, pass, 1000);
  assert.equal(pings(sockets[0]), before);
});

test("a page that is put away lets its connection go, and has it again when it is back", async (t) => {
  const page = browser(t);
  const { hark, sockets, changes, pass } = await start(t);
  const events = hark.subscribe("a");
  sockets[0].accept();
  sockets[0].subscribed();
  sockets[0].say({ type: "message", topic: "a", offset: 1, time: 1, data: 1 });
  page.happens("pagehide");
  assert.equal(sockets[0].closedWith, 1000);
  await settled();
  assert.deepEqual([hark.state, changes.at(-1).retryInMs, changes.at(-1).error], ["waiting", undefined, undefined]);
  const receipt = hark.publish("a", 2);
  page.happens("offline");
  page.happens("online");
  page.shows("hidden");
  await pass(120_000);
  assert.equal(sockets.length, 1, "nothing is tried while it is away");
  assert.equal(changes.filter(({ state }) => state === "waiting").length, 1);
  page.happens("pageshow");
  await pass(1);
  assert.equal(sockets.length, 2, "at once");
  sockets[1].accept();
  assert.deepEqual(sockets[1].said("subscribe")[0].from, { after: "e:1" });
  sockets[1].receipts();
  assert.equal((await receipt).cursor, "e:1");
  assert.equal((await events.next()).value.data, 1);
});

test("`pageshow` of a page that was never put away means nothing", async (t) => {
  const page = browser(t);
  const { sockets, pass } = await start(t);
  sockets[0].accept();
  const before = pings(sockets[0]);
  page.happens("pageshow");
  await pass(100);
  assert.deepEqual([pings(sockets[0]), sockets.length], [before, 1]);
});

test("a page that is put away while it waits, or while it connects, is back as well", async (t) => {
  t.mock.method(Math, "random", () => 1);
  const page = browser(t);
  const { hark, sockets, pass } = await start(t);
  page.happens("pagehide");
  await pass(1000);
  page.happens("pageshow");
  await pass(1);
  assert.equal(sockets.length, 2);
  sockets[1].end();
  await settled();
  assert.equal(hark.state, "waiting");
  page.happens("pagehide");
  await pass(60_000);
  assert.equal(sockets.length, 2);
  page.happens("pageshow");
  await pass(1);
  assert.equal(sockets.length, 3);
});

test("a page that is seen is there, whatever it was told before", async (t) => {
  const page = browser(t);
  const { sockets, pass } = await start(t);
  page.happens("pagehide");
  await settled();
  page.shows("visible");
  await pass(1);
  assert.equal(sockets.length, 2);
});

test("a client that is closed while its page is away stays closed", async (t) => {
  const page = browser(t);
  const { hark, sockets, pass, clock } = await start(t);
  sockets[0].accept();
  page.happens("pagehide");
  await settled();
  hark.close();
  page.happens("pageshow");
  await pass(1000);
  assert.deepEqual([hark.state, sockets.length, clock.waiting], ["closed", 1, 0]);
});

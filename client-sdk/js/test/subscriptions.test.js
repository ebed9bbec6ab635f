// Subscriptions and publishes on the wire, where it must be provoked: holes, epochs, refusals, lost connections. With sockets whose
// other end is the test.

import assert from "node:assert/strict";
import test from "node:test";
import { connect } from "../src/index.js";
import { scriptedWebSocket } from "./support/socket.js";
import { uncaught } from "./support/uncaught.js";
import { take, until } from "./support/until.js";

const start = async (t, options) => {
  const { WebSocket, sockets } = scriptedWebSocket();
  const hark = connect({ url: "http://hark.test", WebSocket, transports: ["websocket"], ...options });
  t.after(() => hark.close());
  await until("the client connects", () => sockets.length);
  sockets[0].accept();
  return { hark, sockets, socket: sockets[0] };
};
/** Answers the last `subscribe` that is not answered. */
const answer = (socket, cursor, resumed = false) => {
  const { id, topic } = socket.said("subscribe").at(-1);
  socket.say({ type: "subscribed", id, topic, cursor, head: 99, resumed });
};
const message = (offset, more) => ({ type: "message", topic: "a", offset, time: 1, data: offset, ...more });
const words = (events) => events.map(({ type, offset, reason, cursor }) => `${reason ?? offset ?? type} ${cursor}`);
const reconnected = async (sockets) => {
  const before = sockets.length;
  sockets.at(-1).end();
  await until("it connects again", () => sockets.length > before);
  sockets.at(-1).accept();
  return sockets.at(-1);
};

test("what was delivered is dropped, a hole is asked about, and at last said", async (t) => {
  const { hark, socket } = await start(t);
  const events = hark.subscribe("a", { from: "earliest" });
  answer(socket, "e:0");
  for (const offset of [1, 2, 2, 1]) socket.say(message(offset));
  for (let attempt = 1; attempt <= 3; attempt++) {
    socket.say(message(5));
    const { id } = socket.said("unsubscribe")[attempt - 1];
    // What still comes is of the earlier round.
    socket.say(message(6));
    socket.say({ type: "unsubscribed", id, topic: "a" });
    assert.deepEqual(socket.said("subscribe").at(-1).from, { after: "e:2" });
    answer(socket, "e:2", true);
  }
  socket.say(message(5));
  socket.say(message(8, { prev: 5 }));
  const taken = await take(events, ({ offset }) => offset === 8);
  assert.deepEqual(words(taken), ["1 e:1", "2 e:2", "lost e:4", "5 e:5", "8 e:8"]);
  assert.deepEqual([taken[2].from, taken[2].to], [3, 4]);
});

test("after a reconnect it goes on after its position, also under another epoch", async (t) => {
  const { hark, sockets, socket } = await start(t);
  const events = hark.subscribe("a", { from: "earliest" });
  answer(socket, "e:0");
  socket.say(message(1));
  const second = await reconnected(sockets);
  assert.deepEqual(second.said("subscribe")[0].from, { after: "e:1" });
  // The topic goes on under a new name; nothing is missing.
  answer(second, "f:1", true);
  second.say(message(2));
  const third = await reconnected(sockets);
  assert.deepEqual(third.said("subscribe")[0].from, { after: "f:2" });
  // Another sequence, and Hark does not say so by a gap: the client does.
  answer(third, "g:0");
  third.say(message(1));
  assert.deepEqual(words(await take(events, ({ cursor }) => cursor === "g:1")), [
    "1 e:1",
    "2 f:2",
    "other_epoch g:0",
    "1 g:1",
  ]);
});

test("a subscription that Hark has ended asks again, and hears why", async (t) => {
  const { hark, socket } = await start(t);
  const events = hark.subscribe("a");
  answer(socket, "e:0");
  socket.say(message(1));
  socket.say({ type: "unsubscribed", topic: "a" });
  const { id, from } = socket.said("subscribe").at(-1);
  assert.deepEqual(from, { after: "e:1" });
  socket.say({ type: "error", id, code: "forbidden", message: "no longer" });
  assert.equal((await events.next()).value.offset, 1, "what was there is given first");
  await assert.rejects(events.next(), { code: "forbidden", message: "no longer" });
  assert.deepEqual(await events.next(), { done: true, value: undefined });
});

test("a topic's own token is asked for each time, and again when it has run out or there is none yet", async (t) => {
  const { hark, socket } = await start(t);
  let asked = 0;
  const token = async (reason) => {
    asked++;
    assert.equal(reason, "subscribe");
    if (asked === 1) throw new Error("away");
    return `token ${asked}`;
  };
  const events = hark.subscribe("a", { from: "earliest", token });
  await until("the first is asked for", () => socket.said("subscribe").length === 1);
  assert.equal(socket.said("subscribe")[0].token, "token 2");
  answer(socket, "e:0");
  socket.say(message(1));
  socket.say({ type: "unsubscribed", topic: "a" });
  await until("it subscribes again", () => socket.said("subscribe").length === 2);
  const { from, token: shown } = socket.said("subscribe")[1];
  assert.deepEqual([from, shown], [{ after: "e:1" }, "token 3"]);
  answer(socket, "e:1", true);
  socket.say(message(2));
  assert.deepEqual(words(await take(events, ({ offset }) => offset === 2)), ["1 e:1", "2 e:2"]);
  // One that was left meanwhile asks for nothing more.
  events.close();
  assert.equal(asked, 3);
});

test("a topic's own token that came when the connection was gone is not shown to the next one", async (t) => {
  const { hark, sockets, socket } = await start(t);
  const answers = [];
  hark.subscribe("a", { token: () => new Promise((answer) => answers.push(answer)) }).ready.catch(() => {});
  await until("the first is asked for", () => answers.length === 1);
  socket.end();
  await until("it connects again", () => sockets.length === 2);
  answers[0]("old");
  await new Promise(setImmediate);
  sockets[1].accept();
  await until("another is asked for", () => answers.length === 2);
  answers[1]("new");
  await until("it subscribes", () => sockets[1].said("subscribe").length);
  assert.deepEqual(sockets[1].said("subscribe").map(({ token }) => token), ["new"]);
});

test("a topic's own token that is refused is asked for once more, and then it is over", async (t) => {
  const { hark, socket } = await start(t);
  const reasons = [];
  const token = async (reason) => `token ${reasons.push(reason)}`;
  const events = hark.subscribe("a", { token });
  const refuse = async (count) => {
    await until(`it subscribes for the ${count}.`, () => socket.said("subscribe").length === count);
    const { id, token: shown } = socket.said("subscribe").at(-1);
    assert.equal(shown, `token ${count}`);
    socket.say({ type: "error", id, code: "unauthenticated", message: "it has run out" });
  };
  await refuse(1);
  await until("it subscribes again", () => socket.said("subscribe").length === 2);
  answer(socket, "e:0");
  // One that was taken makes up for the last.
  socket.say({ type: "unsubscribed", topic: "a" });
  await refuse(3);
  await refuse(4);
  await assert.rejects(events.next(), { code: "unauthenticated" });
  assert.deepEqual(reasons, ["subscribe", "refused", "subscribe", "refused"]);
  // One that does not change is over at once.
  const fixed = hark.subscribe("b", { token: "fixed" });
  socket.say({ type: "error", id: socket.said("subscribe").at(-1).id, code: "unauthenticated", message: "no" });
  await assert.rejects(fixed.next(), { code: "unauthenticated" });
});

test("a subscription that is refused for now is asked for again", async (t) => {
  const { hark, socket } = await start(t);
  const events = hark.subscribe("a");
  socket.say({ type: "error", id: socket.said("subscribe")[0].id, code: "busy", message: "later", retry_after_ms: 1 });
  await until("it asks again", () => socket.said("subscribe").length === 2);
  answer(socket, "e:7");
  assert.equal(await events.ready, "e:7");
});

test("an answer to an earlier subscription does not count for the next one", async (t) => {
  const { hark, socket } = await start(t);
  const first = hark.subscribe("a");
  const asked = socket.said("subscribe")[0].id;
  first.close();
  const second = hark.subscribe("a", { from: "earliest" });
  socket.say({ type: "subscribed", id: asked, topic: "a", cursor: "e:50", head: 50, resumed: false });
  socket.say(message(51));
  socket.say({ type: "unsubscribed", id: socket.said("unsubscribe")[0].id, topic: "a" });
  assert.equal(socket.said("subscribe")[1].from, "earliest");
  answer(socket, "e:0");
  socket.say(message(1));
  assert.deepEqual(words(await take(second, () => true)), ["1 e:1"]);
});

test("a full queue parks the subscription, half of it taken brings it back", async (t) => {
  const { hark, socket } = await start(t, { queue: { messages: 4 } });
  const events = hark.subscribe("a", { from: "earliest" });
  answer(socket, "e:0");
  for (const offset of [1, 2, 3, 4, 5, 6]) socket.say(message(offset));
  const { id } = socket.said("unsubscribe")[0];
  socket.say({ type: "unsubscribed", id, topic: "a" });
  await events.next();
  assert.equal(socket.said("subscribe").length, 1, "not yet");
  await events.next();
  assert.deepEqual(socket.said("subscribe")[1].from, { after: "e:4" });
  answer(socket, "e:4", true);
  socket.say(message(5));
  assert.deepEqual(words(await take(events, ({ offset }) => offset === 5)), ["3 e:3", "4 e:4", "5 e:5"]);
});

test("a callback that fails is reported, and the next message comes", async (t) => {
  const { hark, socket } = await start(t);
  const subscription = hark.subscribe("a");
  const failures = uncaught(t);
  const seen = [];
  subscription.on("message", ({ offset }) => {
    seen.push(offset);
    if (offset === 1) throw new Error("one");
    if (offset === 2) return Promise.reject(new Error("two"));
  });
  answer(socket, "e:0");
  for (const offset of [1, 2, 3]) socket.say(message(offset));
  await until("both are reported", () => failures.length === 2);
  assert.deepEqual(
    [failures, seen],
    [
      ["one", "two"],
      [1, 2, 3],
    ],
  );
  assert.equal(subscription.cursor, "e:3");
});

test("a forgotten producer: the rest is counted anew under a fresh name, behind what went before", async (t) => {
  const { hark, socket } = await start(t);
  const receipts = [1, 2, 3].map((n) => hark.publish("a", n));
  await until("they are sent", () => socket.said("publish").length === 3);
  const [one, two] = socket.said("publish");
  socket.say({ type: "published", id: one.id, topic: "a", cursor: "e:1", duplicate: false });
  // The topic was deleted, say: it expects the first number, which has been answered.
  socket.say({ type: "error", id: two.id, code: "out_of_sequence", message: "expected 1", expected_seq: 1 });
  await until("they are sent again", () => socket.said("publish").length === 5);
  const again = socket.said("publish").slice(3);
  assert.notEqual(again[0].producer, one.producer);
  assert.equal(again[0].producer, again[1].producer);
  assert.deepEqual(
    again.map(({ seq, data }) => [seq, data]),
    [
      [1, 2],
      [2, 3],
    ],
  );
  for (const { id } of again) socket.say({ type: "published", id, topic: "a", cursor: "f:1", duplicate: false });
  await Promise.all(receipts);
});

test("what is in flight is bounded by what Hark allows", async (t) => {
  const { WebSocket, sockets } = scriptedWebSocket();
  const hark = connect({ url: "http://hark.test", WebSocket, transports: ["websocket"] });
  t.after(() => hark.close());
  await until("the client connects", () => sockets.length);
  const [socket] = sockets;
  socket.accept({ max_inflight: 2 });
  for (let n = 0; n < 5; n++) hark.publish("a", n).catch(() => {});
  await until("two are sent", () => socket.said("publish").length === 2);
  const [first] = socket.said("publish");
  socket.say({ type: "published", id: first.id, topic: "a", cursor: "e:1", duplicate: false });
  assert.equal(socket.said("publish").length, 3);
});

test("a busy topic goes back; others do not wait for it", async (t) => {
  const { hark, socket } = await start(t);
  const receipts = [hark.publish("a", 1), hark.publish("a", 2), hark.publish("b", 3)];
  await until("they are sent", () => socket.said("publish").length === 3);
  const [one, two, other] = socket.said("publish");
  socket.say({ type: "error", id: one.id, code: "log_unavailable", message: "later", retry_after_ms: 5 });
  socket.say({ type: "error", id: two.id, code: "out_of_sequence", message: "expected 1", expected_seq: 1 });
  socket.say({ type: "published", id: other.id, topic: "b", cursor: "e:1", duplicate: false });
  await receipts[2];
  await until("both are sent again", () => socket.said("publish").length === 5);
  const again = socket.said("publish").slice(3);
  assert.deepEqual(
    again.map(({ producer, seq }) => [producer, seq]),
    [
      [one.producer, 1],
      [one.producer, 2],
    ],
  );
  for (const { id } of again) socket.say({ type: "published", id, topic: "a", cursor: `e:1`, duplicate: true });
  assert.deepEqual(
    (await Promise.all(receipts)).map(({ duplicate }) => duplicate),
    [true, true, false],
  );
});

test("what was sent over a lost connection and then refused may have been kept", async (t) => {
  const { hark, sockets, socket } = await start(t);
  const receipt = hark.publish("a", 1);
  await until("it is sent", () => socket.said("publish").length);
  const second = await reconnected(sockets);
  await until("it is sent again", () => second.said("publish").length);
  assert.deepEqual(second.said("publish")[0].seq, 1);
  second.say({ type: "error", id: second.said("publish")[0].id, code: "forbidden", message: "no longer" });
  await assert.rejects(receipt, { code: "forbidden", maybeKept: true });
});

test("nothing goes out under a fresh name before what has the old one is answered", async (t) => {
  const { hark, socket } = await start(t);
  const receipts = [1, 2, 3].map((n) => hark.publish("a", n));
  await until("they are sent", () => socket.said("publish").length === 3);
  const [one, two, three] = socket.said("publish");
  // The second fails for good, so its number never comes, and the third must have another name: it could overtake the first.
  socket.say({ type: "error", id: two.id, code: "forbidden", message: "no" });
  socket.say({ type: "error", id: three.id, code: "out_of_sequence", message: "expected 2", expected_seq: 2 });
  await assert.rejects(receipts[1], { code: "forbidden" });
  const other = hark.publish("b", 4);
  await until("another topic does not wait", () => socket.said("publish").length === 4);
  // A timer of the lane, if there were one, has had its turn.
  await new Promise((resolve) => setTimeout(resolve, 1));
  assert.equal(socket.said("publish").filter(({ topic }) => topic === "a").length, 3);
  socket.say({ type: "published", id: one.id, topic: "a", cursor: "e:1", duplicate: false });
  const again = await until("the third is sent again", () => socket.said("publish")[4]);
  assert.deepEqual([again.data, again.seq], [3, 1]);
  assert.notEqual(again.producer, one.producer);
  for (const { id, topic } of [again, socket.said("publish")[3]]) {
    socket.say({ type: "published", id, topic, cursor: "e:2", duplicate: false });
  }
  await Promise.all([receipts[0], receipts[2], other]);
});

test("cursors are stored one at a time, whatever the store's saves take: the newest is the last", async (t) => {
  const { hark, socket } = await start(t);
  const stored = [];
  const saves = [];
  const save = (cursor) =>
    new Promise((resolve, reject) =>
      saves.push({ cursor, reject, done: () => (stored.push(cursor), resolve()) }),
    );
  const subscription = hark.subscribe("a", { cursor: { load: () => "e:0", save } });
  subscription.on("message", () => {});
  answer(socket, "e:0", true);
  for (const offset of [1, 2, 3, 4]) socket.say(message(offset));
  await until("all are taken", () => subscription.cursor === "e:4");
  // A store that writes for as long as it likes: what it is given later is done first.
  for (const { done } of [...saves].reverse()) done();
  await until("the newest is saved", () => saves.at(-1).cursor === "e:4");
  assert.deepEqual(
    saves.map(({ cursor }) => cursor),
    ["e:0", "e:4"],
    "those between were overtaken",
  );
  saves[1].done();
  socket.say(message(5));
  await until("it goes on", () => saves.length === 3);
  saves[2].done();
  assert.deepEqual(stored, ["e:0", "e:4", "e:5"]);
});

test("a save that fails is reported, and the next one is made", async (t) => {
  const { hark, socket } = await start(t);
  const failures = uncaught(t);
  const saved = [];
  const save = async (cursor) => {
    saved.push(cursor);
    if (cursor === "e:1") throw new Error("the disk is full");
  };
  const subscription = hark.subscribe("a", { cursor: { load: () => "e:1", save } });
  subscription.on("message", () => {});
  answer(socket, "e:1", true);
  socket.say(message(2));
  await until("both", () => saved.length === 2 && failures.length);
  assert.deepEqual([saved, failures], [["e:1", "e:2"], ["the disk is full"]]);
});

for (const [what, keep] of Object.entries({
  "the cursor": (map, cursor) => (map.set("at", cursor), cursor),
  "a map": (map, cursor) => map.set("at", cursor),
})) {
  test(`a store whose save gives ${what} is as good as one that gives nothing`, async (t) => {
    const { hark, socket } = await start(t);
    const failures = uncaught(t);
    const map = new Map([["at", "e:0"]]);
    const cursor = { load: () => map.get("at"), save: (cursor) => keep(map, cursor) };
    hark.subscribe("a", { cursor }).on("message", () => {});
    answer(socket, "e:0", true);
    for (const offset of [1, 2]) socket.say(message(offset));
    await until("it is stored", () => map.get("at") === "e:2");
    assert.deepEqual(failures, []);
  });
}

const receipt = (socket, { id }, cursor = "e:1") =>
  socket.say({ type: "published", id, topic: "a", cursor, duplicate: false });

test("a message with a key keeps its place: it goes alone, also when it is sent again", async (t) => {
  const { hark, socket } = await start(t);
  const key = { messageId: "k" };
  const receipts = [hark.publish("a", 1), hark.publish("a", 2, key), hark.publish("a", 3), hark.publish("a", 4)];
  const said = () => socket.said("publish").map(({ data }) => data);
  await until("the first is sent", () => said().length);
  const other = hark.publish("b", 5);
  await until("another topic does not wait", () => said().length === 2);
  assert.deepEqual(said(), [1, 5], "the one before is not answered");
  receipt(socket, socket.said("publish")[0]);
  assert.deepEqual(said(), [1, 5, 2]);
  const { id, message_id, seq } = socket.said("publish")[2];
  assert.deepEqual([message_id, seq], ["k", undefined]);
  socket.say({ type: "error", id, code: "busy", message: "later", retry_after_ms: 1 });
  await until("it is sent again", () => said().length === 4);
  assert.deepEqual(said(), [1, 5, 2, 2], "and nothing has overtaken it");
  receipt(socket, socket.said("publish")[3]);
  assert.deepEqual(said(), [1, 5, 2, 2, 3, 4]);
  const [, five, , , three, four] = socket.said("publish");
  assert.deepEqual([three.seq, four.seq], [2, 3], "the numbers have no hole");
  for (const frame of [five, three, four]) receipt(socket, frame);
  await Promise.all([...receipts, other]);
});

for (const [what, { monotonicMs, wallMs, isKept }] of Object.entries({
  "90 s": { monotonicMs: 90_000, wallMs: 90_000, isKept: true },
  "121 s": { monotonicMs: 121_000, wallMs: 121_000, isKept: false },
  "121 s, in which somebody set the wall clock back": { monotonicMs: 121_000, wallMs: -3_600_000, isKept: false },
  "121 s, in which the machine slept and its monotonic clock stood": { monotonicMs: 0, wallMs: 121_000, isKept: false },
  "a moment, in which somebody set the wall clock back": { monotonicMs: 0, wallMs: -3_600_000, isKept: true },
})) {
  test(`a message with a key, after an outage of ${what}`, { timeout: 20_000 }, async (t) => {
    const { hark, sockets, socket } = await start(t);
    const ahead = { monotonicMs: 0, wallMs: 0 };
    const [monotonic, wall] = [performance.now.bind(performance), Date.now];
    t.mock.method(performance, "now", () => monotonic() + ahead.monotonicMs);
    t.mock.method(Date, "now", () => wall() + ahead.wallMs);
    const keyed = hark.publish("a", 1, { messageId: "k" });
    const numbered = hark.publish("a", 2);
    const neverSent = hark.publish("a", 3, { messageId: "never sent" });
    await until("it is sent", () => socket.said("publish").length === 1);
    Object.assign(ahead, { monotonicMs, wallMs });
    const second = await reconnected(sockets);
    if (isKept) {
      await until("it is sent again", () => second.said("publish").length === 1);
      assert.equal(second.said("publish")[0].message_id, "k");
      receipt(second, second.said("publish")[0]);
      await keyed;
    } else {
      // Hark may have kept it and forgotten the key.
      await assert.rejects(keyed, { name: "PublishError", code: "lost", maybeKept: true, topic: "a" });
    }
    const rest = () => second.said("publish").slice(isKept ? 1 : 0);
    await until("the next goes on", () => rest().length === 1);
    receipt(second, rest()[0]);
    await until("the next goes on", () => rest().length === 2);
    assert.deepEqual(
      rest().map(({ data }) => data),
      [2, 3],
      "those that were never sent are sent however late",
    );
    receipt(second, rest()[1]);
    await Promise.all([numbered, neverSent]);
  });
}

const loseUnproven = async (sockets, times, answered) => {
  for (let time = 0; time < times; time++) {
    answered?.(sockets.at(-1));
    await reconnected(sockets);
  }
};

test("a topic behind whose cursor nothing comes: the client says that it is stuck, also by the listener", async (t) => {
  t.mock.method(Math, "random", () => 0);
  const { hark, sockets } = await start(t);
  const told = [];
  const subscription = hark.subscribe("a", { from: { after: "e:7" } });
  subscription.on("message", ({ offset }) => told.push(offset));
  subscription.on("stuck", (event) => told.push(event));
  await loseUnproven(sockets, 5, (socket) => answer(socket, "e:7", true));
  await until("it is told", () => told.length);
  assert.deepEqual(told, [{ type: "stuck", topic: "a", cursor: "e:7", tries: 5 }]);
  assert.deepEqual(sockets.at(-1).said("subscribe"), [], "it is not asked for at once");
  assert.equal(hark.state, "open");
});

test("a message over which each connection is lost fails, and those behind it go on", async (t) => {
  t.mock.method(Math, "random", () => 0);
  const { hark, sockets } = await start(t);
  const poison = assert.rejects(hark.publish("a", "too much for a gateway"), { code: "lost", maybeKept: true, topic: "a" });
  const next = hark.publish("a", "small");
  await until("it is sent", () => sockets[0].said("publish").length);
  await loseUnproven(sockets, 5);
  await poison;
  const socket = sockets.at(-1);
  const [{ id, seq, data }] = await until("the next is sent", () => socket.said("publish").length && socket.said("publish"));
  assert.deepEqual([seq, data], [2, "small"]);
  socket.say({ type: "error", id, code: "out_of_sequence", message: "expected 1", expected_seq: 1 });
  const anew = await until("it is counted anew", () => socket.said("publish")[1]);
  assert.equal(anew.seq, 1);
  receipt(socket, anew);
  await next;
});

test("a message over which each connection is lost takes no other topic's with it", async (t) => {
  t.mock.method(Math, "random", () => 0);
  const { hark, sockets } = await start(t);
  const topics = ["a", "b", "c"];
  const results = topics.map((topic) => hark.publish(topic, topic).catch(({ code }) => code));
  const all = hark.publishAll(topics, "all");
  // A gateway that ends the connection over "b" at once, and so also before any receipt of what went with it.
  let lost = 0;
  let isOver = false;
  Promise.all(results).then(() => (isOver = true));
  while (!isOver) {
    const socket = sockets.at(-1);
    const said = await until("something is sent", () => isOver || (socket.said("publish").length && socket.said("publish")));
    if (isOver) break;
    const isPoisoned = said.some(({ data }) => data === "b");
    for (const { id } of isPoisoned ? [] : said) socket.say({ type: "published", id, cursor: "e:1", duplicate: false });
    if (!isPoisoned) {
      await until("it goes on", () => isOver || socket.said("publish").length > said.length);
      if (!socket.said("publish").some(({ data }) => data === "b")) continue;
    }
    assert.ok(++lost < 15, "it ends");
    await reconnected(sockets);
  }
  assert.deepEqual(await Promise.all(results), [
    { cursor: "e:1", duplicate: false },
    "lost",
    { cursor: "e:1", duplicate: false },
  ]);
  // Without the poison all goes at once again.
  const socket = sockets.at(-1);
  await until("the rest is kept", async () => {
    for (const { id, topics = [] } of socket.said("publish").slice(-3)) {
      const receipts = topics.map((topic) => ({ topic, cursor: "e:2", duplicate: false }));
      socket.say(topics.length ? { type: "published_all", id, receipts } : { type: "published", id, cursor: "e:2", duplicate: false });
    }
    return Promise.race([all, new Promise((resolve) => setImmediate(resolve))]);
  });
  assert.deepEqual((await all).map(({ error }) => error), [undefined, undefined, undefined]);
});

test("events that nobody takes are bounded, whatever they are", async (t) => {
  const { hark, socket, sockets } = await start(t, { queue: { messages: 3 } });
  hark.subscribe("a", { from: { after: "e:1" } });
  answer(socket, "e:1", true);
  for (let times = 0; times < 5; times++) {
    sockets.at(-1).say({ type: "gap", topic: "a", reason: "expired", cursor: "e:9" });
  }
  assert.equal(socket.said("unsubscribe").length, 1, "a full queue parks it");
  const again = await reconnected(sockets);
  assert.deepEqual(again.said("subscribe"), []);
});

// The golden frames of protocol/golden: every frame that Hark says is understood, and every frame that the client says is one of them.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import test from "node:test";
import { connect } from "../src/index.js";
import { scriptedWebSocket } from "./support/socket.js";
import { take, until } from "./support/until.js";

const folder = new URL("../../../protocol/golden/", import.meta.url);
const golden = Object.fromEntries(
  readdirSync(folder).map((file) => {
    const { name, says, json } = JSON.parse(readFileSync(new URL(file, folder), "utf8"));
    return [name, { says, text: json, frame: JSON.parse(json) }];
  }),
);
const names = (says) => Object.keys(golden).filter((name) => golden[name].says === says);

/** What is the client's own choice. */
const without = (frame, ...fields) =>
  Object.fromEntries(Object.entries(frame).filter(([name]) => !fields.includes(name)));

const open = async (t, options) => {
  const { WebSocket, sockets } = scriptedWebSocket();
  const hark = connect({ url: "http://hark.test", WebSocket, transports: ["websocket"], ...options });
  t.after(() => hark.close());
  const [socket] = await until("the client connects", () => sockets.length && sockets);
  return { hark, socket };
};

// The frames of a client and what makes the client say them. Those of a publish have no number in golden where they need none
// there; the client always gives one, or a key.
const publishes = {
  publish_json: (hark, { topic, data }) => hark.publish(topic, data),
  publish_headers: (hark, { topic, data, headers }) => hark.publish(topic, data, { headers }),
  publish_bytes: (hark, { topic }) => hark.publish(topic, Uint8Array.of(0, 1, 254, 255), { contentType: "image/png" }),
  publish_text: (hark, { topic, text, content_type }) => hark.publish(topic, text, { contentType: content_type }),
  publish_message_id: (hark, { topic, data, message_id }) => hark.publish(topic, data, { messageId: message_id }),
  publish_producer_seq: (hark, { topic, data }) => hark.publish(topic, data),
  publish_without_id: (hark, { topic, data }) => hark.publish(topic, data),
  publish_topics: (hark, { topics, data }) => hark.publishAll(topics, data),
  publish_topics_message_id: (hark, { topics, data, message_id }) =>
    hark.publishAll(topics, data, { messageId: message_id }),
  publish_topics_producer_seqs: (hark, { topics, headers }) =>
    hark.publishAll(topics, Uint8Array.of(0, 1, 254, 255), { contentType: "image/png", headers }),
};
const subscribes = names("client").filter((name) => name.startsWith("subscribe_"));
const others = ["auth", "ping", "ping_largest_id", "unsubscribe"];

test("every golden frame of a client is asked for here", () => {
  assert.deepEqual([...Object.keys(publishes), ...subscribes, ...others].sort(), names("client").sort());
});

for (const [name, publish] of Object.entries(publishes)) {
  test(`says ${name}`, async (t) => {
    const { hark, socket } = await open(t);
    const { frame, text } = golden[name];
    publish(hark, frame).catch(() => {});
    socket.accept({ version: golden.welcome.frame.version });
    const said = await until("a publish", () => socket.sent.find((sent) => sent.includes('"publish"')));
    const own = ["id", "producer", "seq", "seqs"];
    assert.deepEqual(without(JSON.parse(said), ...own), without(frame, ...own));
    // Not only the same fields: the same text.
    const unnumbered = (sent) => sent.replace(/"id":\d+,/, "").replace(/,"producer":"\w+","seqs?":[\d[\],]+/, "");
    assert.equal(unnumbered(said), unnumbered(text));
    if (!frame.message_id) assert.match(JSON.parse(said).producer, /^p[0-9a-f]{32}$/);
  });
}

for (const name of subscribes) {
  test(`says ${name}`, async (t) => {
    const { hark, socket } = await open(t);
    const { frame } = golden[name];
    hark.subscribe(frame.topic, { from: frame.from, token: frame.token });
    socket.accept();
    assert.deepEqual(without(socket.said("subscribe")[0], "id"), without(frame, "id"));
  });
}

test("says a time of the language as RFC 3339", async (t) => {
  const { hark, socket } = await open(t);
  hark.subscribe("orders.eu", { from: { since: new Date("2026-01-31T12:00:00Z") } });
  socket.accept();
  assert.deepEqual(socket.said("subscribe")[0].from, { since: "2026-01-31T12:00:00.000Z" });
});

test("says auth first, ping, and unsubscribe", async (t) => {
  const { hark, socket } = await open(t, { token: golden.auth.frame.token });
  const subscription = hark.subscribe(golden.unsubscribe.frame.topic);
  socket.accept();
  assert.deepEqual(without(JSON.parse(socket.sent[0]), "id"), without(golden.auth.frame, "id"));
  // With nothing else to say.
  const idle = await open(t);
  idle.socket.accept();
  assert.deepEqual(without(idle.socket.said("ping")[0], "id"), without(golden.ping.frame, "id"));
  subscription.close();
  socket.say({ ...golden.subscribed.frame, id: socket.said("subscribe")[0].id });
  assert.deepEqual(without(socket.said("unsubscribe")[0], "id"), without(golden.unsubscribe.frame, "id"));
});

/** A subscription that stands at `cursor`. */
const subscribed = async (t, cursor) => {
  const opened = await open(t);
  const events = opened.hark.subscribe("orders.eu", { from: { after: cursor } });
  opened.socket.accept(golden.welcome.frame);
  const { id } = opened.socket.said("subscribe")[0];
  opened.socket.say({ ...golden.subscribed.frame, id, cursor });
  return { ...opened, events };
};

const heard = {
  message_json: {
    at: "k3f9a1:1042",
    expect: { offset: 1043, data: { any: "json" }, headers: {}, cursor: "k3f9a1:1043" },
  },
  message_identity: {
    at: "k3f9a1:1042",
    expect: {
      offset: 1043,
      data: { say: "hello" },
      identity: { issuer: "https://login.example", subject: "ana" },
      headers: {},
      cursor: "k3f9a1:1043",
    },
  },
  message_prev: { at: "k3f9a1:1040", expect: { offset: 1043, data: true, headers: {}, cursor: "k3f9a1:1043" } },
  message_bytes: {
    at: "k3f9a1:1042",
    expect: {
      offset: 1043,
      data: Uint8Array.of(0, 1, 254, 255),
      contentType: "image/png",
      headers: { trace: "00-4bf9", wer: 'Jürgen "J"\n' },
      cursor: "k3f9a1:1043",
    },
  },
  message_text: {
    at: "k3f9a1:1042",
    expect: {
      offset: 1043,
      data: 'Grüße, "Ana"\n',
      contentType: "text/html",
      headers: {},
      cursor: "k3f9a1:1043",
    },
  },
  message_text_of_control_characters: {
    at: "k3f9a1:1042",
    expect: {
      offset: 1043,
      data: "\x1b[1mred\0\x01\x02",
      contentType: "text/plain",
      headers: {},
      cursor: "k3f9a1:1043",
    },
  },
  message_text_latin1: {
    at: "k3f9a1:1042",
    expect: {
      offset: 1043,
      data: Uint8Array.of(0x47, 0x72, 0xfc, 0xdf, 0x65),
      contentType: "text/plain; charset=iso-8859-1",
      headers: {},
      cursor: "k3f9a1:1043",
    },
  },
  message_bytes_untyped: {
    at: "k3f9a1:1042",
    expect: { offset: 1043, data: new Uint8Array(), headers: {}, cursor: "k3f9a1:1043" },
  },
};
for (const [name, { at, expect }] of Object.entries(heard)) {
  test(`understands ${name}`, async (t) => {
    const { socket, events } = await subscribed(t, at);
    socket.say(golden[name].text);
    const [event] = await take(events, () => true);
    assert.deepEqual(event, { type: "message", topic: "orders.eu", time: 1764230400123, ...expect });
    await Promise.race([events.next(), undefined]);
    assert.equal(events.cursor, expect.cursor, "taken when the next one is asked for");
  });
}

const gaps = names("hark").filter((name) => name.startsWith("gap_"));
for (const name of gaps) {
  test(`understands ${name}, and goes on behind it`, async (t) => {
    const { socket, events } = await subscribed(t, "k3f9a1:1042");
    const { text, frame } = golden[name];
    socket.say(text);
    const [, offset] = frame.cursor.split(":").map(Number);
    socket.say({ type: "message", topic: "orders.eu", offset: offset + 1, time: 1, data: "next" });
    const [gap, message] = await take(events, ({ type }) => type === "message");
    assert.deepEqual(gap, { from: undefined, to: undefined, ...frame });
    assert.equal(message.cursor, `${frame.cursor.split(":")[0]}:${offset + 1}`);
  });
}

test("understands caught_up", async (t) => {
  const { socket, events } = await subscribed(t, "k3f9a1:1050");
  socket.say(golden.caught_up.text);
  assert.deepEqual(await take(events, () => true), [golden.caught_up.frame]);
});

for (const name of ["lagging", "lagging_uncounted"]) {
  test(`understands ${name}`, async (t) => {
    const { socket, events } = await subscribed(t, "k3f9a1:1050");
    socket.say(golden[name].text);
    const { behind } = golden[name].frame;
    assert.deepEqual(await take(events, () => true), [{ ...golden[name].frame, behind }]);
    await Promise.race([events.next(), undefined]);
    assert.equal(events.cursor, "k3f9a1:1050", "it moves nothing");
  });
}

test("tells a listener that it lags, and passes over what is about nothing that stands", async (t) => {
  const { socket, events } = await subscribed(t, "k3f9a1:1050");
  const heard = [];
  events.on("lagging", ({ behind }) => heard.push(behind));
  events.on("message", ({ offset }) => heard.push(offset));
  socket.say({ ...golden.lagging.frame, topic: "another" });
  socket.say(golden.lagging.text);
  socket.say({ type: "message", topic: "orders.eu", offset: 1051, time: 1, data: "next" });
  await until("both are heard", () => heard.length === 2);
  assert.deepEqual(heard, [3400, 1051]);
});

test("understands subscribed, also of a topic that nobody has published to", async (t) => {
  const { hark, socket } = await open(t);
  const subscription = hark.subscribe("orders.eu");
  socket.accept();
  socket.say({ ...golden.subscribed_empty.frame, id: socket.said("subscribe")[0].id });
  assert.equal(await subscription.ready, "k3f9a1:0");
});

for (const name of ["published", "published_duplicate"]) {
  test(`understands ${name}`, async (t) => {
    const { hark, socket } = await open(t);
    const receipt = hark.publish("orders.eu", 1);
    socket.accept();
    const { id } = await until("a publish", () => socket.said("publish")[0]);
    socket.say({ ...golden[name].frame, id });
    assert.deepEqual(await receipt, { cursor: "k3f9a1:1051", duplicate: name.endsWith("duplicate") });
  });
}

test("understands published_all", async (t) => {
  const { hark, socket } = await open(t);
  const results = hark.publishAll(["orders.eu", "orders.us"], 1);
  socket.accept(golden.welcome.frame);
  const { id } = await until("a publish", () => socket.said("publish")[0]);
  socket.say({ ...golden.published_all.frame, id });
  assert.deepEqual(await results, golden.published_all.frame.receipts);
});

test("understands published_all_in_part: what failed, failed in that topic alone", async (t) => {
  const { hark, socket } = await open(t);
  const results = hark.publishAll(["orders.eu", "orders..us", "orders.us"], 1);
  socket.accept(golden.welcome.frame);
  const { id, topics } = await until("a publish", () => socket.said("publish")[0]);
  assert.deepEqual(topics, ["orders.eu", "orders.us"], "what Hark cannot read is not sent");
  socket.say({ ...golden.published_all_in_part.frame, id });
  const [eu, none, us] = await results;
  assert.deepEqual(eu, golden.published_all_in_part.frame.receipts[0]);
  assert.deepEqual([none.error.code, none.error.topic], ["bad_topic", "orders..us"]);
  assert.deepEqual([us.topic, us.error.name, us.error.code], ["orders.us", "PublishError", "out_of_sequence"]);
});

test("understands error, and that it is about that message alone", async (t) => {
  const { hark, socket } = await open(t);
  const receipt = hark.publish("orders.eu", 1);
  socket.accept();
  const { id } = await until("a publish", () => socket.said("publish")[0]);
  socket.say({ ...golden.error.frame, id });
  await assert.rejects(receipt, { name: "PublishError", code: "forbidden", maybeKept: false, topic: "orders.eu" });
  assert.equal(hark.state, "open");
});

test("understands error_retry_after: sends the same number again", async (t) => {
  const { hark, socket } = await open(t);
  const receipt = hark.publish("orders.eu", 1);
  socket.accept();
  const first = await until("a publish", () => socket.said("publish")[0]);
  socket.say({ ...golden.error_retry_after.frame, id: first.id, retry_after_ms: 1 });
  const second = await until("it is sent again", () => socket.said("publish")[1]);
  assert.deepEqual([second.producer, second.seq], [first.producer, first.seq]);
  assert.notEqual(second.id, first.id);
  socket.say({ ...golden.published.frame, id: second.id });
  assert.equal((await receipt).duplicate, false);
});

test("understands goodbye: waits as long as it is told", async (t) => {
  const { hark, socket } = await open(t);
  socket.accept();
  const changes = [];
  hark.on("state", (change) => changes.push(change));
  socket.say(golden.goodbye.text);
  socket.end(1012, "restart");
  const { retryInMs } = await until("it waits", () => changes.find(({ state }) => state === "waiting"));
  assert.ok(retryInMs >= 1730 && retryInMs <= 1730 + 250, `${retryInMs} ms`);
});

// What needs no more than not to disturb.
const passed = [
  "welcome",
  "authenticated",
  "authenticated_for_good",
  "pong",
  "pong_without_id",
  "error_without_id",
  "unsubscribed",
];
test("passes over what is about nothing that was asked", async (t) => {
  const { hark, socket, events } = await subscribed(t, "k3f9a1:1042");
  for (const name of passed.filter((name) => name !== "unsubscribed")) socket.say(golden[name].text);
  // An answer to an unsubscribe that nobody sent, and a frame of a newer Hark.
  socket.say(golden.unsubscribed.text);
  socket.say('{"type":"weather","topic":"orders.eu"}');
  socket.say("no JSON");
  socket.say(golden.message_json.text);
  assert.equal((await take(events, () => true))[0].offset, 1043);
  assert.equal(hark.state, "open");
});

test("every golden frame of Hark is heard here", () => {
  const all = [
    ...Object.keys(heard),
    ...gaps,
    ...passed,
    ...["caught_up", "lagging", "lagging_uncounted", "subscribed", "subscribed_empty", "published", "published_duplicate"],
    ...["published_all", "published_all_in_part"],
    ...["error", "error_retry_after", "error_out_of_sequence", "goodbye"],
  ];
  assert.deepEqual(all.sort(), names("hark").sort());
});

test("understands error_out_of_sequence: goes back to the number expected", async (t) => {
  const { hark, socket } = await open(t);
  const receipts = [1, 2].map((n) => hark.publish("orders.eu", n));
  socket.accept();
  await until("both are sent", () => socket.said("publish").length === 2);
  const [first, second] = socket.said("publish");
  socket.say({ ...golden.error_out_of_sequence.frame, id: second.id, expected_seq: 1 });
  await until("both are sent again", () => socket.said("publish").length === 4);
  const again = socket.said("publish").slice(2);
  assert.deepEqual(
    again.map(({ producer, seq, data }) => [producer, seq, data]),
    [
      [first.producer, 1, 1],
      [first.producer, 2, 2],
    ],
  );
  // The answer to the sending before comes late, and counts no more.
  socket.say({ type: "published", id: first.id, topic: "orders.eu", cursor: "e:9", duplicate: false });
  again.forEach(({ id }, at) =>
    socket.say({ type: "published", id, topic: "orders.eu", cursor: `e:${at + 1}`, duplicate: false }),
  );
  assert.deepEqual(
    (await Promise.all(receipts)).map(({ cursor }) => cursor),
    ["e:1", "e:2"],
  );
});

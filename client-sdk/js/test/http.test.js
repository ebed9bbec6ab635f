// What answers mean over HTTP, where it must be provoked: refusals, restarts, proxies' pages, streams that fall silent. With a
// `fetch` that is the test.

import assert from "node:assert/strict";
import test from "node:test";
import { connect } from "../src/index.js";
import { eventStream, json, nothing, receipts, refusal, scriptedFetch, welcome } from "./support/http.js";
import { take, until } from "./support/until.js";

/** A client whose requests `answer` answers; of those that publish nothing it is told only if it has `ask`. */
const start = (t, transport, answer, options) => {
  const isAsk = ({ method, body }) => method === "POST" && !body;
  const { fetch, requests } = scriptedFetch({
    get: (request) => answer.get?.(request),
    post: (request) => (isAsk(request) ? (answer.ask?.(request) ?? nothing()) : answer.post?.(request)),
  });
  const hark = connect({ url: "http://hark.test/prefix", fetch, transports: [transport], ...options });
  const changes = [];
  hark.on("state", (change) => changes.push(change));
  t.after(() => hark.close());
  return { hark, requests, changes };
};
const waited = (changes, least = 1) =>
  until("it waits", () => changes.filter(({ state }) => state === "waiting").length >= least);

test("the token goes with every request, and none where there is none", async (t) => {
  const { hark, requests } = start(t, "sse", {}, { token: async () => "secret" });
  hark.subscribe("a:b@c", { from: { last: 5 } });
  const stream = await until("the stream is asked for", () => requests.find(({ method }) => method === "GET"));
  assert.equal(stream.pathname, "/prefix/v1/events");
  assert.deepEqual(
    [...stream.query],
    [
      ["topic", "a:b@c"],
      ["from", "last:5"],
    ],
  );
  assert.ok(requests.every(({ headers }) => headers.authorization === "Bearer secret"));
  const without = start(t, "sse", {});
  await until("it asks", () => without.requests.length);
  assert.equal(without.requests[0].headers.authorization, undefined);
});

test("401 asks for another token once, then ends", async (t) => {
  const asked = [];
  const answer = { ask: () => refusal(401, "unauthenticated") };
  const { hark, changes } = start(t, "sse", answer, { token: (reason) => (asked.push(reason), "old") });
  await until("it ends", () => hark.state === "closed");
  assert.deepEqual(asked, ["connect", "refused"]);
  assert.equal(changes.at(-1).error.code, "unauthenticated");
});

for (const transport of ["sse", "longpoll"]) {
  test(`${transport}: a publish whose token has run out is sent with a fresh one, and lost by nobody`, async (t) => {
    const shown = [];
    const post = (request) => {
      shown.push(request.headers.authorization);
      return shown.at(-1) === "Bearer new" ? receipts(request) : refusal(401, "unauthenticated");
    };
    const token = (reason) => (reason === "refused" ? "new" : "old");
    const { hark } = start(t, transport, { post, ask: post }, { token });
    const { cursor } = await hark.publish("a", 1);
    assert.equal(cursor, "e:1");
    assert.ok(shown.includes("Bearer old") && shown.at(-1) === "Bearer new", `${shown}`);
  });
}

test("a token that runs out on an event stream is followed by a fresh one, and the stream by one that shows it", async (t) => {
  const stream = eventStream();
  const get = ({ headers }) => (headers.authorization === "Bearer connect" ? stream.response : undefined);
  const { hark, requests } = start(t, "sse", { get }, { token: (reason) => reason });
  const events = hark.subscribe("a");
  stream.begin("a");
  await events.ready;
  for (let times = 0; times < 3; times++) stream.say({ type: "error", code: "expiring", message: "soon" });
  const shows = () => requests.filter(({ method }) => method === "GET").map(({ headers }) => headers.authorization);
  await until("the stream is asked for again", () => shows().length > 1);
  assert.deepEqual(shows(), ["Bearer connect", "Bearer expiring"]);
});

test("a topic's own token is not asked for where it is not shown", async (t) => {
  const stream = eventStream();
  const { hark } = start(t, "sse", { get: () => stream.response });
  let asked = 0;
  const events = hark.subscribe("a", { token: () => `token ${asked++}` });
  stream.begin("a");
  await events.ready;
  assert.equal(asked, 0);
});

test("503 waits as long as Retry-After says", async (t) => {
  const { changes } = start(t, "longpoll", { ask: () => refusal(503, "busy", { "retry-after": "7" }) });
  await waited(changes);
  const { retryInMs, error } = changes.at(-1);
  assert.ok(retryInMs >= 7000 && retryInMs <= 7250, `${retryInMs} ms`);
  assert.equal(error.code, "busy");
});

test("a stream that ends at once with `retry:` is waited for as long as it says", async (t) => {
  const get = () => new Response("retry: 4321\n\n", { headers: { "content-type": "text/event-stream" } });
  const { hark, changes } = start(t, "sse", { get });
  hark.subscribe("a");
  await waited(changes);
  const { retryInMs } = changes.at(-1);
  assert.ok(retryInMs >= 4321 && retryInMs <= 4321 + 250, `${retryInMs} ms`);
});

test("goodbye on a stream, and its end, are waited for as long as it says; the `retry:` of the start is for others", async (t) => {
  for (const [goodbye, least, most] of [
    [true, 1730, 1980],
    [false, 0, 250],
  ]) {
    const stream = eventStream();
    const { hark, changes } = start(t, "sse", { get: () => stream.response });
    hark.subscribe("a");
    stream.write("retry: 2000\n");
    stream.say(welcome, "welcome");
    stream.say({ type: "subscribed", topic: "a", cursor: "e:0", head: 0, resumed: false }, "subscribed");
    if (goodbye) stream.say({ type: "goodbye", reason: "restart", retry_after_ms: 1730 }, "goodbye");
    stream.end();
    await waited(changes);
    const { retryInMs } = changes.at(-1);
    assert.ok(retryInMs >= least && retryInMs <= most, `${retryInMs} ms`);
    hark.close();
  }
});

test("events in pieces, with comments and CRLF, are whole events", async (t) => {
  const stream = eventStream();
  const { hark } = start(t, "sse", { get: () => stream.response });
  const events = hark.subscribe("a");
  const text = [
    "retry: 2000",
    `event: welcome\r\ndata: ${JSON.stringify(welcome)}\r\n\r`,
    'event: subscribed\nid: e:0\ndata: {"type":"subscribed","topic":"a","cursor":"e:0","head":0,"resumed":false}\n',
    ":",
    'id: e:1\ndata: {"type":"message","topic":"a","offset":1,"time":1,"data":"grün ✓"}\n\n',
  ].join("\n");
  for (const byte of new TextEncoder().encode(text)) stream.controller.enqueue(Uint8Array.of(byte));
  assert.equal((await take(events, () => true))[0].data, "grün ✓");
});

test("an error on a stream takes out the topic that it is about, and the others go on", async (t) => {
  const streams = [];
  let isForbidden = false;
  const get = ({ pathname, query }) => {
    if (isForbidden && query.getAll("topic").includes("bad")) return refusal(403, "forbidden");
    if (pathname.endsWith("/events")) return (streams.push(eventStream()), streams.at(-1).response);
    return json({ pages: [] });
  };
  const { hark, requests } = start(t, "sse", { get });
  const [good, bad] = ["good", "bad"].map((topic) => hark.subscribe(topic));
  await until("the stream", () => streams.length);
  streams[0].say(welcome);
  for (const topic of ["good", "bad"])
    streams[0].say({ type: "subscribed", topic, cursor: "e:4", head: 4, resumed: false });
  await Promise.all([good.ready, bad.ready]);
  isForbidden = true;
  streams[0].say({ type: "error", code: "forbidden", message: "one of them" }, "error");
  await until("the stream is started again", () => streams.length > 1);
  const again = requests.filter(({ pathname }) => pathname.endsWith("/events"))[1];
  assert.deepEqual(again.query.getAll("from").slice(0, 1), ["e:4"], "after its cursor");
  streams.at(-1).say(welcome);
  for (const stream of streams.slice(1)) stream.say({ type: "message", topic: "good", offset: 5, time: 1, data: 5 });
  assert.equal((await take(good, () => true))[0].offset, 5);
  await assert.rejects(bad.next(), { code: "forbidden" });
});

test("what is no Hark is waited for, not taken for one", async (t) => {
  for (const transport of ["sse", "longpoll"]) {
    const { hark, changes } = start(t, transport, {
      ask: () => new Response("<h1>Welcome to nginx</h1>", { status: 404 }),
    });
    await waited(changes);
    assert.equal(hark.state, "waiting");
    assert.match(changes.at(-1).error.message, /no Hark/);
    hark.close();
  }
});

test("messages that are not all answered are sent again with their numbers", async (t) => {
  const bodies = [];
  const post = ({ body }) => {
    const frames = body.split("\n").map((line) => JSON.parse(line));
    bodies.push(frames);
    // The first time the connection breaks behind the first answer.
    const answered = bodies.length === 1 ? frames.slice(0, 1) : frames;
    return new Response(
      answered
        .map(({ id, topic, seq }) => `${JSON.stringify({ id, topic, cursor: `e:${seq}`, duplicate: false })}\n`)
        .join(""),
    );
  };
  const { hark } = start(t, "longpoll", { post });
  const receipts = await Promise.all([1, 2, 3].map((n) => hark.publish("a", n)));
  assert.deepEqual(
    receipts.map(({ cursor }) => cursor),
    ["e:1", "e:2", "e:3"],
  );
  const numbers = (frames) => frames.map(({ seq, data }) => [seq, data]);
  assert.deepEqual(
    numbers(bodies[0]),
    [
      [1, 1],
      [2, 2],
      [3, 3],
    ],
    "one request for what was published in one turn",
  );
  assert.deepEqual(numbers(bodies[1]), [
    [2, 2],
    [3, 3],
  ]);
  assert.equal(bodies[0][0].producer, bodies[1][0].producer);
});

test("a batch that is refused fails its messages, and the client goes on", async (t) => {
  let calls = 0;
  const post = ({ body }) => {
    if (++calls === 1) return refusal(403, "forbidden");
    const { id, topic } = JSON.parse(body);
    return new Response(JSON.stringify({ id, topic, cursor: "e:1", duplicate: false }));
  };
  const { hark } = start(t, "sse", { post });
  await assert.rejects(hark.publish("a", 1), { name: "PublishError", code: "forbidden" });
  assert.equal((await hark.publish("b", 2)).cursor, "e:1");
});

test("long-poll: pages in one request, gaps before messages, and what was never asked is no position", async (t) => {
  const pages = [
    [
      {
        topic: "a",
        messages: [{ type: "message", topic: "a", offset: 4, time: 1, data: 4 }],
        cursor: "e:4",
        caught_up: true,
      },
      { topic: "b", messages: [], cursor: "f:9", caught_up: true },
    ],
    [
      { topic: "a", messages: [], cursor: "e:4", caught_up: true },
      {
        topic: "b",
        messages: [{ type: "message", topic: "b", offset: 3, time: 1, data: 3 }],
        cursor: "g:3",
        caught_up: true,
        gap: { type: "gap", topic: "b", reason: "deleted", cursor: "g:2" },
      },
    ],
  ];
  const { hark, requests } = start(t, "longpoll", {
    get: () => (pages.length && json({ pages: pages.shift(), cursor: "c" })) || undefined,
  });
  const [a, b] = [hark.subscribe("a", { from: { last: 1 } }), hark.subscribe("b")];
  const taken = await take(b, ({ type }) => type === "message");
  assert.deepEqual(
    taken.map(({ type, reason, cursor }) => [reason ?? type, cursor]),
    [
      ["caught_up", "f:9"],
      ["deleted", "g:2"],
      ["message", "g:3"],
    ],
  );
  assert.equal(await a.ready, "e:3");
  assert.deepEqual(
    (await take(a, ({ type }) => type === "caught_up")).map(({ cursor }) => cursor),
    ["e:4", "e:4"],
  );
  const asked = await until("the third request", () => {
    const asked = requests.filter(({ method }) => method === "GET");
    return asked.length === 3 && asked;
  });
  assert.deepEqual(
    asked.map(({ query }) => [query.getAll("from"), query.get("wait")]),
    [
      [["last:1", "now"], null],
      [["e:4", "f:9"], "25"],
      [["e:4", "g:3"], "25"],
    ],
  );
});

test("long-poll: an empty answer that comes at once does not make it spin", async (t) => {
  let polls = 0;
  const get = () => {
    polls++;
    return json({ pages: [{ topic: "a", messages: [], cursor: "e:0", caught_up: true }], cursor: "c" });
  };
  const { hark } = start(t, "longpoll", { get });
  const began = Date.now();
  await hark.subscribe("a").ready;
  await until("three polls", () => polls === 3);
  assert.ok(Date.now() - began >= 900, "the second pauses");
});

test("what a stream still says after it was started again does not count", async (t) => {
  const streams = [];
  const { hark } = start(t, "sse", { get: () => (streams.push(eventStream()), streams.at(-1).response) });
  const a = hark.subscribe("a");
  await until("the stream", () => streams.length === 1);
  streams[0].say(welcome);
  streams[0].say({ type: "subscribed", topic: "a", cursor: "e:1", head: 1, resumed: false });
  await a.ready;
  const other = hark.subscribe("b");
  await until("the stream is started again", () => streams.length === 2);
  streams[0].say({ type: "gap", topic: "a", reason: "deleted", cursor: "f:0" });
  streams[0].say({ type: "message", topic: "a", offset: 1, time: 1, data: "of the first stream" });
  streams[1].say(welcome);
  streams[1].say({ type: "subscribed", topic: "a", cursor: "e:1", head: 1, resumed: true });
  streams[1].say({ type: "subscribed", topic: "b", cursor: "g:0", head: 0, resumed: false });
  await other.ready;
  streams[1].say({ type: "gap", topic: "a", reason: "deleted", cursor: "f:0" });
  streams[1].say({ type: "message", topic: "a", offset: 1, time: 1, data: "of the second" });
  const taken = await take(a, ({ type }) => type === "message");
  assert.deepEqual(
    taken.map(({ reason, data }) => reason ?? data),
    ["deleted", "of the second"],
  );
});

/** What a subscription is told of a topic that is found again under another epoch, and what is stored. */
const overAnotherEpoch = async (t, transport, get) => {
  const { hark, requests } = start(t, transport, { get });
  const saved = [];
  const events = hark.subscribe("a", { cursor: { load: () => "old:4", save: (cursor) => saved.push(cursor) } });
  return { hark, events, saved, asked: () => requests.filter(({ method }) => method === "GET") };
};
const found = (cursor, resumed) => ({ type: "subscribed", topic: "a", cursor, head: 99, resumed });
const message = (offset) => ({ type: "message", topic: "a", offset, time: 1, data: offset });
const words = (events) => events.map(({ type, reason, cursor }) => `${reason ?? type} ${cursor}`);

for (const [what, resumed, expected] of [
  ["the epoch is taken over", true, ["message old:5", "message new:6"]],
  ["without a word of what that means: a gap", false, ["message old:5", "other_epoch new:5", "message new:6"]],
]) {
  test(`sse: a stream that was started again finds another epoch: ${what}`, async (t) => {
    const streams = [];
    const get = () => (streams.push(eventStream()), streams.at(-1).response);
    const { hark, events, saved, asked } = await overAnotherEpoch(t, "sse", get);
    const again = async (count) => {
      hark.subscribe(`other${count}`);
      await until("a stream is started", () => streams.length === count);
      streams.at(-1).say(welcome);
    };
    await until("a stream is started", () => streams.length === 1);
    streams[0].say(welcome);
    streams[0].say(found("old:4", true));
    streams[0].say(message(5));
    await until("it is there", () => events.cursor);
    await again(2);
    streams[1].say(found("new:5", resumed));
    streams[1].say(message(6));
    const taken = await take(events, ({ cursor }) => cursor === "new:6");
    assert.deepEqual(words(taken), expected);
    await Promise.race([events.next(), undefined]);
    assert.deepEqual(saved.at(-1), "new:6");
    await again(3);
    assert.equal(asked()[2].query.get("from"), "new:6");
  });
}

test("long-poll: a page of another epoch, with messages and without", async (t) => {
  const page = (cursor, ...messages) =>
    json({ pages: [{ topic: "a", messages, cursor, caught_up: true }], cursor: "c" });
  const pages = [
    page("old:5", message(5)),
    page("new:6", message(6)),
    page("new:7", message(7)),
    // Nothing new, but a name: the next message has it.
    page("newer:7"),
    page("newer:8", message(8)),
  ];
  const { events, saved, asked } = await overAnotherEpoch(t, "longpoll", () => pages.shift());
  const taken = await take(events, ({ cursor }) => cursor === "newer:8");
  assert.deepEqual(
    words(taken).filter((word) => !word.startsWith("caught_up")),
    ["message old:5", "message new:6", "message new:7", "message newer:8"],
  );
  await Promise.race([events.next(), undefined]);
  assert.equal(saved.at(-1), "newer:8");
  await until("it goes on", () => asked().length === 6);
  assert.equal(asked()[5].query.get("from"), "newer:8");
});

for (const transport of ["sse", "longpoll"]) {
  test(`${transport}: a place that is none ends that subscription alone`, { timeout: 20_000 }, async (t) => {
    const goodStream = () => {
      const stream = eventStream();
      stream.begin("good");
      return stream.response;
    };
    const { hark, changes } = start(t, transport, {
      get: () =>
        transport === "sse"
          ? goodStream()
          : json({ pages: [{ topic: "good", messages: [], cursor: "e:3", caught_up: true }], cursor: "c" }),
    });
    const good = hark.subscribe("good");
    for (const from of [{}, null, 5, "soon", { after: "rubbish" }, { last: -1 }, { last: 1.5 }, { since: 5 }]) {
      await assert.rejects(hark.subscribe("bad", { from }).next(), { name: "SubscribeError", code: "bad_cursor" });
      await assert.rejects(hark.subscribe("bad", { from: { since: new Date(NaN) } }).ready, { code: "bad_cursor" });
    }
    await until("it is open", () => hark.state === "open");
    if (transport === "longpoll") assert.equal(await good.ready, "e:3");
    assert.deepEqual(
      changes.map(({ state }) => state),
      ["connecting", "open"],
    );
  });
}

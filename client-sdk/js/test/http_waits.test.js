// Over HTTP every wait has an end, and progress is bytes: as long as they move, nothing is given up; when they stop, it is. Time
// is the test's.

import assert from "node:assert/strict";
import test from "node:test";
import { openLongPoll } from "../src/longpoll.js";
import { openSse } from "../src/sse.js";
import { fakeClock } from "./support/clock.js";
import {
  eventStream,
  html,
  json,
  nothing,
  openLine,
  page,
  pages,
  receipts,
  refusal,
  scriptedFetch,
  streamed,
  subscribe,
  welcome,
} from "./support/http.js";

const publish = (id) => (line) =>
  line.publish(id, JSON.stringify({ id, topic: "a", data: id, producer: "p", seq: id }));
const subscribed = { type: "subscribed", topic: "a", cursor: "e:0", head: 9, resumed: true };
const large = "x".repeat(900_000);
/** Writes a text as a line of 12 KB/s would let it through. */
const trickle = async (clock, stream, text) => {
  for (let at = 0; at < text.length; at += 12_000) {
    stream.write(text.slice(at, at + 12_000));
    await clock.pass(1000);
  }
};

test("sse: a message of 900 KB on 12 KB/s arrives, and the line is the same", async (t) => {
  const clock = fakeClock(t);
  const stream = eventStream();
  const { heard, told, requests } = openLine(t, openSse, { get: () => stream.response }, (line) =>
    line.say(subscribe("a")),
  );
  await clock.pass(10);
  stream.begin("a");
  await trickle(
    clock,
    stream,
    `data: ${JSON.stringify({ type: "message", topic: "a", offset: 1, time: 1, data: large })}\n\n`,
  );
  assert.equal(heard.at(-1).data, large);
  assert.deepEqual([told.lost, requests.length], [[], 1]);
});

test("longpoll: a message of 900 KB on 12 KB/s arrives, also as the first thing that comes", async (t) => {
  const clock = fakeClock(t);
  const stream = streamed("application/json");
  const answers = [stream.response];
  const { heard, told } = openLine(t, openLongPoll, { get: () => answers.shift() }, (line) =>
    line.say(subscribe("a", "earliest")),
  );
  await clock.pass(10);
  await trickle(clock, stream, JSON.stringify({ pages: [page("a", large)], cursor: "c" }));
  stream.end();
  await clock.pass(10);
  assert.equal(heard.find(({ type }) => type === "message").data, large);
  assert.deepEqual(told.lost, []);
});

test("a publish of 900 KB whose upload takes 75 s is answered; one whose flow died is given up", async (t) => {
  const clock = fakeClock(t);
  const waiting = [];
  const post = (request) =>
    request.body ? new Promise((resolve) => waiting.push(() => resolve(receipts(request)))) : nothing();
  const { line, heard, told } = openLine(t, openSse, { post });
  await clock.pass(10);
  line.publish(1, JSON.stringify({ id: 1, topic: "a", data: large }));
  await clock.pass(75_000);
  waiting[0]();
  await clock.pass(10);
  assert.deepEqual(
    heard.map(({ id }) => id),
    [1],
  );
  line.publish(2, '{"id":2,"topic":"a","data":2}');
  await clock.pass(59_000);
  assert.deepEqual(told.lost, []);
  await clock.pass(2000);
  assert.equal(told.lost.length, 1);
});

test("answers of a publish that come slowly are waited for, and those that stop are not", async (t) => {
  const clock = fakeClock(t);
  const stream = streamed("application/x-ndjson");
  const { line, heard, told, requests } = openLine(t, openSse, {
    post: ({ body }) => (body ? stream.response : nothing()),
  });
  await clock.pass(10);
  for (const id of [1, 2, 3]) publish(id)(line);
  for (const id of [1, 2]) {
    await clock.pass(50_000);
    stream.write(`{"id":${id},"topic":"a","cursor":"e:${id}","duplicate":false}\n`);
  }
  await clock.pass(10);
  assert.deepEqual([heard.map(({ id }) => id), told.lost], [[1, 2], []]);
  await clock.pass(70_000);
  assert.equal(told.lost.length, 1);
  assert.ok(requests.at(-1).signal.aborted);
});

for (const [what, refused] of Object.entries({
  "a refusal without an id": '{"code":"bad_frame","message":"not one JSON value"}\n',
  "a refusal of somebody else's": '{"id":77,"code":"bad_frame","message":"who?"}\n',
  nothing: "\n\n",
}))
  test(`${what} answers no message: what has no answer is sent again`, async (t) => {
    const clock = fakeClock(t);
    const post = ({ body }) =>
      body === "" ? nothing() : new Response(`{"id":1,"topic":"a","cursor":"e:1","duplicate":false}\n${refused}`);
    const { line, heard, told } = openLine(t, openLongPoll, { post });
    await clock.pass(10);
    publish(1)(line);
    publish(2)(line);
    await clock.pass(10);
    assert.deepEqual(
      heard.map(({ type, id }) => [type, id]),
      [["published", 1]],
    );
    assert.deepEqual(
      told.lost.map(({ unusable, final }) => [!!unusable, !!final]),
      [[false, false]],
    );
  });

test("longpoll: a page whose body dies is given up, and so is a wait without an answer", async (t) => {
  for (const [dead, waitedMs] of [
    [() => streamed("application/json").response, 15_000],
    [() => undefined, 40_000],
  ]) {
    const clock = fakeClock(t);
    let asked = 0;
    const get = () => (asked++ ? dead() : pages(page("a")));
    const { told } = openLine(t, openLongPoll, { get }, (line) => line.say(subscribe("a")));
    await clock.pass(10);
    await clock.pass(waitedMs - 100);
    assert.deepEqual([told.opened.length, told.lost.length], [1, 0]);
    await clock.pass(waitedMs);
    assert.equal(told.lost.length, 1);
    t.mock.restoreAll();
  }
});

test("sse: a stream that falls silent without a byte behind its start is given up for the next transport", async (t) => {
  const clock = fakeClock(t);
  const stream = eventStream();
  const { line, told, requests } = openLine(t, openSse, { get: () => stream.response, post: receipts }, (line) =>
    line.say(subscribe("a")),
  );
  await clock.pass(10);
  stream.begin("a");
  stream.say({ type: "message", topic: "a", offset: 1, time: 1, data: 1 });
  // Receipts say nothing of the stream.
  for (const id of [1, 2]) {
    await clock.pass(13_900);
    publish(id)(line);
  }
  await clock.pass(100);
  assert.deepEqual(told.lost, []);
  await clock.pass(200);
  assert.deepEqual(
    told.lost.map(({ unusable }) => unusable),
    [true],
  );
  assert.ok(requests.every(({ signal }) => signal.aborted));
});

test("sse: one that had more falls silent: it is started again behind its cursor, once", async (t) => {
  const clock = fakeClock(t);
  const streams = [];
  const get = () => (streams.push(eventStream()), streams.at(-1).response);
  const { told, requests } = openLine(t, openSse, { get }, (line) => line.say(subscribe("a")));
  await clock.pass(10);
  streams[0].begin("a");
  await clock.pass(11_000);
  streams[0].say({ type: "message", topic: "a", offset: 1, time: 1, data: 1 });
  await clock.pass(27_900);
  assert.equal(streams.length, 1);
  await clock.pass(200);
  assert.deepEqual([streams.length, requests[1].query.get("from"), requests[0].signal.aborted], [2, "e:1", true]);
  streams[1].begin("a");
  await clock.pass(27_900);
  assert.deepEqual(told.lost, []);
  await clock.pass(200);
  assert.deepEqual(
    told.lost.map(({ unusable }) => unusable),
    [true],
  );
});

test("sse: a comment is a sign of life, and a stream that had them may fall silent again", async (t) => {
  const clock = fakeClock(t);
  const streams = [];
  const get = () => (streams.push(eventStream()), streams.at(-1).response);
  const { told } = openLine(t, openSse, { get }, (line) => line.say(subscribe("a")));
  await clock.pass(10);
  for (const round of [1, 2, 3]) {
    streams.at(-1).begin("a");
    for (const beat of [1, 2]) {
      await clock.pass(25_000);
      assert.equal(streams.length, round, `beat ${beat}`);
      streams.at(-1).write(":\n");
    }
    await clock.pass(28_100);
    assert.equal(streams.length, round + 1);
  }
  assert.deepEqual(told.lost, []);
});

test("a stream that is judged late, because the machine slept, is waited for a little longer", async (t) => {
  const clock = fakeClock(t);
  const streams = [];
  const get = () => (streams.push(eventStream()), streams.at(-1).response);
  const { line, told } = openLine(t, openSse, { get }, (line) => line.say(subscribe("a")));
  await clock.pass(10);
  streams[0].begin("a");
  await clock.pass(1000);
  clock.sleep(3_600_000, true);
  await clock.pass(100);
  streams[0].write(":\n");
  await clock.pass(20_000);
  assert.deepEqual([streams.length, told.lost], [1, []], "what had come meanwhile was read first");
  // Without a sign of life, whoever looks after the line finds out.
  clock.sleep(3_600_000);
  line.check(false);
  await clock.pass(10);
  assert.equal(streams.length, 2);
  line.check(false);
  await clock.pass(10);
  assert.equal(streams.length, 2, "one that has just been asked for is not asked for again");
});

test("when the network comes back, streams and what is being published go anew at once", async (t) => {
  const clock = fakeClock(t);
  const posts = [];
  const post = (request) =>
    request.body ? (posts.push(request), posts.length > 1 ? receipts(request) : undefined) : nothing();
  const { line, heard, requests, told } = openLine(t, openSse, { post, get: () => undefined });
  await clock.pass(10);
  line.say(subscribe("a"));
  publish(1)(line);
  await clock.pass(10);
  publish(2)(line);
  line.check(true);
  await clock.pass(10);
  assert.deepEqual(
    posts.map(({ body }) => body.split("\n").map((text) => JSON.parse(text).seq)),
    [[1], [1, 2]],
  );
  assert.deepEqual(
    heard.filter(({ type }) => type === "published").map(({ id }) => id),
    [1, 2],
  );
  assert.equal(requests.filter(({ method }) => method === "GET").length, 2);
  assert.deepEqual(told.lost, []);
});

test("after close nothing goes on: no request, no timer, no word", async (t) => {
  for (const open of [openSse, openLongPoll]) {
    const clock = fakeClock(t);
    const get = () => (open === openSse ? eventStream().response : pages(page("a")));
    const { line, requests, told, heard } = openLine(t, open, { get, post: () => undefined }, (line) => {
      line.say(subscribe("a"));
      publish(1)(line);
    });
    await clock.pass(10);
    const [asked, said] = [requests.length, heard.length];
    publish(2)(line);
    line.say(subscribe("b", "now", 2));
    line.say({ type: "unsubscribe", id: 3, topic: "a" });
    line.close();
    await clock.pass(1_000_000);
    assert.deepEqual([requests.length, heard.length, told.lost], [asked, said, []]);
    assert.ok(requests.every(({ signal }) => signal.aborted));
    assert.equal(clock.waiting, 0);
    t.mock.restoreAll();
  }
});

test("a request that has ended leaves no timer behind", async (t) => {
  const clock = fakeClock(t);
  const { line, heard } = openLine(t, openSse, { post: receipts });
  await clock.pass(10);
  for (const id of [1, 2, 3]) {
    publish(id)(line);
    await clock.pass(10);
  }
  assert.deepEqual([heard.length, clock.waiting], [3, 0]);
});

for (const [header, expected, more] of [
  ["7", 7000],
  ["0", undefined],
  ["3600", 300_000],
  ["99999999999999999999", 300_000],
  ["-5", undefined],
  ["1.5", undefined],
  ["soon", undefined],
  ["", undefined],
  // Both dates are of one clock, whatever the client's says.
  ["Wed, 21 Oct 2015 07:28:30 GMT", 30_000, { date: "Wed, 21 Oct 2015 07:28:00 GMT" }],
  ["Wed, 21 Oct 2015 07:28:30 GMT", undefined, { date: "Wed, 21 Oct 2015 07:29:00 GMT" }],
  ["Wed, 21 Oct 2037 07:28:30 GMT", 300_000],
  ["Wed, 21 Oct 2015 07:28:30 GMT", undefined],
])
  for (const code of ["busy", "a page of a proxy"])
    test(`Retry-After: ${header} with ${code} is ${expected} ms`, async (t) => {
      const clock = fakeClock(t);
      const headers = { ...(header && { "retry-after": header }), ...more };
      const post = () => (code === "busy" ? refusal(503, code, headers) : html(503, headers));
      const { told } = openLine(t, openLongPoll, { post });
      await clock.pass(10);
      assert.deepEqual(
        told.lost.map(({ retryAfterMs, unusable }) => [retryAfterMs, !!unusable]),
        [[expected, false]],
      );
    });

test("what is refused for good is no loss, though its status may look like one", async (t) => {
  for (const [status, code] of [
    [429, "too_many_topics"],
    [501, "unsupported"],
    [413, "too_large"],
  ]) {
    const clock = fakeClock(t);
    const { told, heard } = openLine(t, openSse, { get: () => refusal(status, code), post: receipts }, (line) =>
      line.say(subscribe("a")),
    );
    await clock.pass(10);
    assert.deepEqual(
      heard.map(({ type, id, code }) => [type, id, code]),
      [["error", 1, code]],
    );
    assert.deepEqual(told.lost, []);
    t.mock.restoreAll();
  }
});

test("a request that came too slowly is a loss, and says nothing about what is in it", async (t) => {
  const clock = fakeClock(t);
  let slow = true;
  const post = (request) => (slow && request.body ? refusal(408, "bad_frame") : receipts(request));
  const { line, told, heard } = openLine(t, openSse, { post });
  await clock.pass(10);
  publish(1)(line);
  await clock.pass(10);
  slow = false;
  assert.deepEqual([heard, told.lost.length], [[], 1]);
  assert.ok(!told.lost[0].final && !told.lost[0].unusable);
});

test("a batch that a proxy finds too large goes in halves", async (t) => {
  const clock = fakeClock(t);
  const sizes = [];
  const post = (request) => {
    sizes.push(request.body.length);
    return request.body.length > 100_000 ? html(413) : receipts(request);
  };
  const { line, heard } = openLine(t, openSse, { post });
  await clock.pass(10);
  for (let id = 1; id <= 10; id++) line.publish(id, JSON.stringify({ id, topic: "a", data: "x".repeat(30_000) }));
  await clock.pass(10);
  assert.deepEqual(
    heard.map(({ id }) => id),
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
  );
  assert.equal(sizes.filter((size) => size > 100_000).length, 2);
});

test("a line that breaks before a large request is through gets smaller ones, until they take a while", async (t) => {
  const clock = fakeClock(t);
  // 12 KB a second, and it breaks after 30 s.
  const sizes = [];
  const post = (request) => {
    if (!request.body) return nothing();
    sizes.push(request.body.length);
    const ms = request.body.length / 12;
    return new Promise((resolve, reject) =>
      setTimeout(
        () => (ms > 30_000 ? reject(new TypeError("fetch failed")) : resolve(receipts(request))),
        Math.min(ms, 30_000),
      ),
    );
  };
  const { fetch } = scriptedFetch({ post });
  let waiting = Array.from({ length: 1000 }, (_, at) => ({
    id: at + 1,
    text: JSON.stringify({ id: at + 1, topic: "a", data: "x".repeat(960) }),
  }));
  for (let lines = 0; waiting.length; lines++) {
    assert.ok(lines < 5, "it comes through");
    const { line, heard, told } = openLine(t, openSse, {}, () => {}, { fetch });
    await clock.pass(10);
    for (const { id, text } of waiting) line.publish(id, text);
    for (let s = 0; s < 200 && !told.lost.length; s++) await clock.pass(1000);
    const answered = new Set(heard.map(({ id }) => id));
    waiting = waiting.filter(({ id }) => !answered.has(id));
    line.close();
  }
  assert.ok(
    sizes.slice(3).every((size) => size < 300_000),
    `${sizes}`,
  );
});

test("all that waits goes in the next request, up to 1 MiB of bytes", async (t) => {
  const clock = fakeClock(t);
  const posts = [];
  const waiting = [];
  const post = (request) => {
    if (request.body) posts.push(request.body);
    return request.body ? new Promise((resolve) => waiting.push(() => resolve(receipts(request)))) : nothing();
  };
  const { line } = openLine(t, openSse, { post });
  await clock.pass(10);
  publish(1)(line);
  await clock.pass(10);
  // Three bytes each in UTF-8, and one that has more than a request may.
  const size = 100_000;
  for (let id = 2; id <= 11; id++) line.publish(id, JSON.stringify({ id, topic: "a", data: "✓".repeat(size / 3) }));
  line.publish(12, JSON.stringify({ id: 12, topic: "a", data: "x".repeat((1 << 20) + 1) }));
  for (let id = 13; id <= 1000; id++) publish(id)(line);
  for (let at = 0; at < 4; at++) {
    waiting[at]?.();
    await clock.pass(10);
  }
  assert.deepEqual(
    posts.map((body) => body.split("\n").length),
    [1, 10, 1, 988],
  );
  assert.ok(posts.every((body, at) => at === 2 || new TextEncoder().encode(body).length <= 1 << 20));
});

// --- where `fetch` lacks something ---

/** As React Native's, and as most that imitate it: no body, but its text. */
const withoutBodies = (response) =>
  response && { ok: response.ok, status: response.status, headers: response.headers, text: () => response.text() };

test("without body streams receipts and pages are read as text, and event streams cannot be had", async (t) => {
  const clock = fakeClock(t);
  const answers = [pages(page("a", 1, 2))];
  const answer = {
    post: (request) => withoutBodies(receipts(request)),
    get: () => withoutBodies(answers.shift()),
  };
  const wanted = (line) => {
    line.say(subscribe("a", "earliest"));
    publish(1)(line);
    publish(2)(line);
  };
  const { heard, told, requests } = openLine(t, openLongPoll, answer, wanted);
  await clock.pass(10);
  const words = heard.map(({ type, id, offset }) => `${type} ${offset ?? id}`).sort();
  assert.deepEqual(words, ["caught_up 0", "message 1", "message 2", "published 1", "published 2", "subscribed 1"]);
  assert.equal(requests.filter(({ method }) => method === "POST").length, 1);
  assert.deepEqual(told.lost, []);

  const sse = openLine(t, openSse, { get: () => withoutBodies(eventStream().response) }, (line) =>
    line.say(subscribe("a")),
  );
  await clock.pass(10);
  assert.deepEqual(
    sse.told.lost.map(({ unusable }) => unusable),
    [true],
  );
});

test("without body streams a page of 900 KB on 12 KB/s has its time, though nothing is seen of it", async (t) => {
  const clock = fakeClock(t);
  let asked = 0;
  const waiting = [];
  const get = () =>
    ++asked === 2
      ? new Promise((resolve) => waiting.push(() => resolve(withoutBodies(pages(page("a", large))))))
      : asked === 1
        ? withoutBodies(pages(page("a")))
        : undefined;
  const { heard, told } = openLine(t, openLongPoll, { get }, (line) => line.say(subscribe("a")));
  await clock.pass(75_000);
  waiting[0]();
  await clock.pass(10);
  assert.equal(heard.find(({ type }) => type === "message").data, large);
  assert.deepEqual(told.lost, []);
});

test("a fetch that throws at `cache` is asked without it", async (t) => {
  const clock = fakeClock(t);
  const { fetch: inner, requests } = scriptedFetch({ post: receipts });
  const fetch = (url, init) => {
    if ("cache" in init) throw new Error("The 'cache' field on 'RequestInitializerDict' is not implemented.");
    return inner(url, init);
  };
  const { line, heard, told } = openLine(t, openSse, {}, publish(1), { fetch });
  await clock.pass(10);
  publish(2)(line);
  await clock.pass(10);
  assert.deepEqual([heard.map(({ id }) => id), told.lost, requests.length], [[1, 2], [], 2]);
});

test("a fetch that does not heed its signal is not waited for", async (t) => {
  const clock = fakeClock(t);
  const fetch = () => new Promise(() => {});
  const { told } = openLine(t, openSse, {}, publish(1), { fetch });
  await clock.pass(6100);
  assert.equal(told.lost.length, 1);
});

for (const [name, open] of Object.entries({ sse: openSse, longpoll: openLongPoll }))
  test(`${name}: a clock that always runs late keeps no dead request`, async (t) => {
    const clock = fakeClock(t);
    let asked = 0;
    const get = () => {
      if (asked++) return undefined;
      if (name === "longpoll") return pages(page("a"));
      const stream = eventStream();
      stream.begin("a");
      return stream.response;
    };
    const { told } = openLine(t, open, { get }, (line) => line.say(subscribe("a")));
    await clock.pass(10);
    // The timers of a page that nobody looks at run once a minute.
    for (let minute = 0; minute < 6; minute++) {
      clock.sleep(60_000, true);
      await clock.pass(1);
    }
    assert.equal(told.lost.length, 1);
  });

test("longpoll: an answer without the topic that was asked for is no Hark's, and is not asked for again at once", async (t) => {
  const clock = fakeClock(t);
  const { told, requests } = openLine(t, openLongPoll, { get: () => pages(page("another")) }, (line) => line.say(subscribe("a")));
  await clock.pass(10);
  assert.deepEqual([requests.length, told.lost.length], [1, 1]);
});

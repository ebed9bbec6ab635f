// How a line over HTTP opens: by the answer to what it has to ask anyhow; and what of all that may answer is Hark.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { openLongPoll } from "../src/longpoll.js";
import { CODES } from "../src/refusal.js";
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
  streamed,
  subscribe,
} from "./support/http.js";
import { until } from "./support/until.js";

const OPEN = { sse: openSse, longpoll: openLongPoll };
const lossOf = async ({ told }) => (await until("it is lost", () => told.lost.length), told.lost[0]);

test("an event stream is the first request, and its welcome opens the line", async (t) => {
  const stream = eventStream();
  const { requests, heard, told } = openLine(t, openSse, { get: () => stream.response }, (line) =>
    line.say(subscribe("a", "earliest")),
  );
  await until("it asks", () => requests.length);
  assert.deepEqual(told.opened, [], "not before an answer");
  stream.begin("a");
  stream.say({ type: "message", topic: "a", offset: 1, time: 1, data: 1 });
  await until("the message", () => heard.length === 3);
  assert.deepEqual(told.opened, ["1.2.3"]);
  assert.deepEqual(
    heard.map(({ type, id }) => [type, id]),
    [
      ["welcome", undefined],
      ["subscribed", 1],
      ["message", 0],
    ],
  );
  assert.deepEqual(
    requests.map(({ method, pathname }) => `${method} ${pathname}`),
    ["GET /v1/events"],
  );
});

test("a page is the first request, has as many messages as Hark gives, and opens the line", async (t) => {
  const answers = [pages(page("a", 1, 2))];
  const { requests, heard, told } = openLine(t, openLongPoll, { get: () => answers.shift() }, (line) =>
    line.say(subscribe("a", { after: "e:0" })),
  );
  await until("the messages", () => heard.filter(({ type }) => type === "message").length === 2);
  assert.equal(told.opened.length, 1);
  assert.deepEqual(requests[0].query.get("limit"), "1000");
  assert.equal(requests[0].query.get("wait"), null, "`subscribed` does not wait for a message");
  await until("the second", () => requests.length === 2);
  assert.equal(requests[1].query.get("wait"), "25");
  assert.ok(requests.every(({ method }) => method === "GET"));
});

test("a page that takes long opens the line with its head, which only Hark writes", async (t) => {
  const stream = streamed("application/json");
  stream.response.headers.set("hark-cursor", "e:0");
  const { told } = openLine(t, openLongPoll, { get: () => stream.response }, (line) => line.say(subscribe("a")));
  await until("it is open", () => told.opened.length);
});

test("a publish is the first request, and its receipt opens the line", async (t) => {
  const { requests, heard, told } = openLine(t, openSse, { post: receipts }, (line) =>
    line.publish(7, '{"id":7,"topic":"a","data":1}'),
  );
  await until("the receipt", () => heard.length);
  assert.deepEqual([heard[0].type, heard[0].id, told.opened.length, requests.length], ["published", 7, 1, 1]);
});

for (const [transport, open] of Object.entries(OPEN)) {
  test(`${transport}: what has nothing to ask with asks for that, and answers a ping by it`, async (t) => {
    const { requests, heard, told } = openLine(t, open, { post: receipts }, (line) =>
      line.say({ type: "ping", id: 3 }),
    );
    await until("the pong", () => heard.length);
    assert.deepEqual([heard, told.opened.length], [[{ type: "pong", id: 3 }], 1]);
    assert.deepEqual(
      requests.map(({ method, body }) => [method, body]),
      [["POST", ""]],
    );
  });

  test(`${transport}: who leaves the only topic before the first request is not forgotten`, async (t) => {
    const { heard, told } = openLine(t, open, { post: receipts }, (line) => {
      line.say(subscribe("a"));
      line.say({ type: "unsubscribe", id: 2, topic: "a" });
    });
    await until("it answers", () => heard.length);
    assert.deepEqual([heard, told.opened.length], [[{ type: "unsubscribed", id: 2, topic: "a" }], 1]);
  });

  // Whatever is asked with, and whoever answers in Hark's place: a loss, and another transport may do better. Never the end.
  for (const [who, answer] of Object.entries({
    "a page of a proxy, with 200": () => html(),
    "a proxy that wants a password": () => html(401),
    "a proxy that forbids": () => html(403),
    "another server's 404": () => json({ code: "not_found", message: "no such route" }, 404),
    "another server's 401": () => json({ code: "invalid_token", message: "sign in" }, 401),
    "another server's numbers": () => json({ code: 403, message: "no" }, 403),
    "no object": () => json("ok"),
    "an empty page": () => new Response("", { headers: { "content-type": "text/plain" } }),
  }))
    for (const [what, wanted] of Object.entries({
      subscription: (line) => line.say(subscribe("a")),
      publish: (line) => line.publish(1, '{"id":1,"topic":"a","data":1}'),
      "nothing to ask with": () => {},
    }))
      test(`${transport}, ${what}: ${who} is no Hark`, async (t) => {
        const opened = openLine(t, open, { get: answer, post: answer }, wanted);
        const { error, unusable, final, refused } = await lossOf(opened);
        assert.deepEqual([unusable, !!final, !!refused], [true, false, false]);
        assert.equal(opened.told.opened.length, 0);
        assert.deepEqual(opened.heard, []);
        assert.ok(error.message);
      });

  test(`${transport}: a network that is away says nothing about the transport, but one that breaks off streams alone does`, async (t) => {
    const fails = () => Promise.reject(new TypeError("fetch failed"));
    const broken = async (post) => lossOf(openLine(t, open, { get: fails, post }, (line) => line.say(subscribe("a"))));
    assert.deepEqual([(await broken(fails)).unusable, (await broken(receipts)).unusable], [undefined, true]);
  });

  test(`${transport}: only Hark's own codes ask for a token, or end it`, async (t) => {
    const ask = (status, code) => lossOf(openLine(t, open, { post: () => refusal(status, code) }));
    assert.equal((await ask(401, "unauthenticated")).refused, true);
    assert.equal((await ask(403, "forbidden")).final, true);
  });

  // The head is there, and then nothing, or nothing at all.
  for (const [what, answer] of Object.entries({
    "no answer": () => undefined,
    "a head without a body": () => streamed("text/event-stream").response,
  }))
    for (const [how, wanted] of Object.entries({
      subscription: (line) => line.say(subscribe("a")),
      publish: (line) => line.publish(1, '{"id":1,"topic":"a","data":1}'),
      "nothing to ask with": () => {},
    }))
      test(`${transport}, ${how}: ${what} is not waited for longer than connectTimeoutMs`, async (t) => {
        const clock = fakeClock(t);
        const { told, requests } = openLine(t, open, { get: answer, post: answer }, wanted, { patienceMs: 700 });
        await clock.pass(690);
        assert.deepEqual(told.lost, []);
        await clock.pass(20);
        assert.deepEqual(
          told.lost.map(({ unusable }) => unusable),
          [true],
        );
        assert.ok(requests.every(({ signal }) => signal.aborted));
      });
}

test("a large publish is given its time while a short question finds out whether Hark is there", async (t) => {
  const clock = fakeClock(t);
  const large = JSON.stringify({ id: 1, topic: "a", data: "x".repeat(900_000) });
  let receipt;
  const post = (request) =>
    request.body === "" ? nothing() : new Promise((resolve) => (receipt = () => resolve(receipts(request))));
  const { told, heard } = openLine(t, openSse, { post }, (line) => line.publish(1, large));
  await clock.pass(75_000);
  assert.deepEqual([told.opened.length, told.lost.length], [1, 0]);
  receipt();
  await clock.pass(10);
  assert.deepEqual(
    heard.map(({ type }) => type),
    ["published"],
  );
});

test("the codes that count as Hark's are those of the protocol", () => {
  const readme = readFileSync(new URL("../../../protocol/README.md", import.meta.url), "utf8");
  const [errors] = readme.split("\n## Errors\n")[1].split("\n## ");
  assert.deepEqual(
    [...errors.matchAll(/^\| `(\w+)` \|/gm)].map(([, code]) => code),
    CODES,
  );
});

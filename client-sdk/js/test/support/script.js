// Plays the scripts of ../../script: what the application and Hark do, line by line, and what must come of it. Owns the format; two
// stages play it: one around an outbox and an inbox, with a clock that only the script moves, and one of the whole client and a real
// socket.

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { WebSocket, WebSocketServer } from "ws";
import { writeBody } from "../../src/body.js";
import { handOn } from "../../src/heard.js";
import { connect } from "../../src/index.js";
import { Inbox } from "../../src/inbox.js";
import { Outbox } from "../../src/outbox.js";
import { Subscription } from "../../src/subscription.js";
import { until } from "./until.js";

const FOLDER = new URL("../../../script/", import.meta.url);

// What may stand in a step: anything else is a mistake in the script.
const STEPS = {
  publish: ["as", "topic", "topics", "data", "message_id"],
  subscribe: ["as", "topic", "from"],
  unsubscribe: ["as"],
  lost: ["proven"],
};
const WELCOME = {
  session: "s1",
  version: "0.2.0",
  heartbeat_ms: 25_000,
  max_message_bytes: 1 << 20,
  max_inflight: 1024,
};

/** All scripts: their name, their head, and their steps with the numbers of their lines. */
export const scripts = () =>
  readdirSync(FOLDER)
    .filter((file) => file.endsWith(".jsonl"))
    .map((file) => {
      const lines = readFileSync(new URL(file, FOLDER), "utf8").split("\n");
      const all = lines.map((text, at) => ({ text, line: at + 1 })).filter(({ text }) => text.trim());
      const [head, ...steps] = all.map(({ text, line }) => ({ line, ...parse(text, file, line) }));
      return { file, head: head.value, steps };
    });

const parse = (text, file, line) => {
  try {
    return { value: JSON.parse(text) };
  } catch (error) {
    throw new Error(`${file}:${line}: ${error.message}`);
  }
};

/** @param {BareStage | SocketStage} stage */
export const play = async ({ file, steps }, stage) => {
  for (const { line, value } of steps) {
    try {
      const [[name, argument], ...more] = Object.entries(value);
      assert.deepEqual(more, [], "one step a line");
      const unknown = Object.keys(argument).filter((field) => STEPS[name] && !STEPS[name].includes(field));
      assert.deepEqual(unknown, [], `fields of ${name}`);
      if (name === "expect") await stage.expect(argument);
      else if (name === "hear") await stage.hear(stage.happened.named(argument));
      else if (name !== "note") {
        assert.ok(["advance", ...Object.keys(STEPS)].includes(name), `there is no step ${name}`);
        await stage[name](argument);
      }
    } catch (error) {
      error.message = `${file}:${line}: ${JSON.stringify(value)}\n${error.message}`;
      throw error;
    }
  }
};

/** What has happened and no step has expected yet. */
class Happened {
  says = [];
  /** @type {{ as: string, topic?: string, cursor?: string, duplicate?: boolean, code?: string, maybe_kept?: boolean }[]} */
  results = [];
  /** @type {Map<string, object[]>} */
  events = new Map();
  /** @type {Map<string, string>} */
  ended = new Map();
  #ids = new Map();
  #producers;

  /** @param {boolean} learnsProducers they have other names than the script gives them */
  constructor(learnsProducers) {
    this.#producers = learnsProducers ? new Map() : undefined;
  }

  say(frame) {
    if (frame.producer && this.#producers) {
      const { producer } = frame;
      if (!this.#producers.has(producer)) this.#producers.set(producer, `p${this.#producers.size + 1}`);
      frame.producer = this.#producers.get(producer);
    }
    if (frame.type !== "ping") this.says.push(frame);
  }

  async published(as, promise, topic) {
    try {
      const { cursor, duplicate } = await promise;
      this.results.push({ as, topic, cursor, duplicate });
    } catch ({ code, maybeKept }) {
      this.results.push({ as, topic, code, maybe_kept: maybeKept });
    }
  }

  /** Takes all that comes. */
  async subscribed(as, subscription) {
    const events = [];
    this.events.set(as, events);
    try {
      for await (const event of subscription) events.push(onWire(event));
    } catch ({ code }) {
      this.ended.set(as, code);
    }
  }

  /** With ids in place of the names that were learned. */
  named(frame) {
    if (typeof frame.id !== "string") return frame;
    assert.ok(this.#ids.has(frame.id), `${frame.id} is not known`);
    return { ...frame, id: this.#ids.get(frame.id) };
  }

  /** Throws if it has not happened; else it is over and done with. */
  expect(expected) {
    const [[kind, wanted], ...more] = Object.entries(expected);
    assert.deepEqual(more, [], "one kind a line");
    const { as, topic, ...fields } = wanted;
    switch (kind) {
      case "nothing":
        return this.#expectNothing();
      case "say":
        return this.#expectSay(wanted);
      case "receipt":
      case "failed": {
        const isIt = (result) => result.as === as && (topic === undefined || result.topic === topic);
        const at = this.results.findIndex((result) => isIt(result) && !!result.code === (kind === "failed"));
        assert.ok(at >= 0, `none of ${JSON.stringify(this.results)}`);
        this.#compare(this.results[at], fields);
        return this.results.splice(at, 1);
      }
      case "event": {
        const events = this.events.get(as) ?? [];
        // Where these stand among the others is a client's own affair.
        const isNotice = ({ type }) => type === "lagging" || type === "stuck";
        const at = events.findIndex((event) => isNotice(event) === isNotice(wanted));
        assert.ok(at >= 0, `none of ${JSON.stringify(events)}`);
        this.#compare(events[at], { topic, ...fields });
        return events.splice(at, 1);
      }
      case "ended":
        assert.ok(this.ended.has(as), "it has not ended");
        this.#compare({ code: this.ended.get(as) }, fields);
        return this.ended.delete(as);
    }
    assert.fail(`nothing of the kind ${kind} can be expected`);
  }

  #expectNothing() {
    const events = [...this.events].filter(([, events]) => events.length);
    assert.deepEqual([this.says, this.results, events, [...this.ended]], [[], [], [], []]);
  }

  #expectSay(wanted) {
    const topic = wanted.topic ?? wanted.topics?.[0];
    const isPublish = ({ type }) => type === "publish";
    const isIt = (frame) => isPublish(frame) === isPublish(wanted) && [frame.topic, ...(frame.topics ?? [])].includes(topic);
    const at = this.says.findIndex(isIt);
    assert.ok(at >= 0, `none of ${JSON.stringify(this.says)}`);
    const { id, ...frame } = wanted;
    this.#compare(pairs(this.says[at]), pairs(frame));
    if (id !== undefined) this.#learn(id, this.says[at].id);
    this.says.splice(at, 1);
  }

  #learn(name, id) {
    if (this.#ids.has(name)) return assert.equal(this.#ids.get(name), id, `another id than ${name}`);
    assert.ok(![...this.#ids.values()].includes(id), `the id ${id} was said before`);
    this.#ids.set(name, id);
  }

  #compare(found, wanted) {
    for (const [name, value] of Object.entries(wanted)) {
      if (value === undefined) continue;
      assert.deepEqual(found[name], value ?? undefined, `${name} of ${JSON.stringify(found)}`);
    }
  }
}

/** The topics of a publish and their numbers, in an order of their own. */
const pairs = ({ topics, seqs, ...frame }) => {
  if (!topics) return frame;
  const sorted = topics.map((topic, at) => [topic, seqs?.[at]]).sort();
  return { ...frame, topics: sorted.map(([topic]) => topic), seqs: seqs && sorted.map(([, seq]) => seq) };
};

/** An event of this client as the wire has it. */
const onWire = ({ contentType, data, ...event }) => ({
  ...event,
  ...(contentType !== undefined && { content_type: contentType }),
  ...(data instanceof Uint8Array
    ? { data_base64: Buffer.from(data).toString("base64") }
    : contentType !== undefined
      ? { text: data }
      : data !== undefined && { data }),
});

/** Lets everything run that waits for nothing. */
const settle = async () => {
  for (let turn = 0; turn < 3; turn++) await new Promise(setImmediate);
};

/** An outbox and an inbox, and around them as little of a client as can be. */
export class BareStage {
  happened = new Happened(false);
  #monotonicMs = 0;
  #wallMs = 1_764_230_400_000;
  #timers = new Set();
  #producers = 0;
  #ids = 0;
  /** @type {{ frameBytes: number, inFlight: number, several: boolean } | undefined} while there is a connection */
  #limits;
  #outbox;
  #inbox;
  #subscriptions = new Map();

  constructor({ random = 1 }) {
    const world = {
      mark: () => ({ monotonicMs: this.#monotonicMs, wallMs: this.#wallMs }),
      elapsedSince: ({ monotonicMs, wallMs }) => Math.max(0, this.#monotonicMs - monotonicMs, this.#wallMs - wallMs),
      later: (ms, run) => {
        const timer = { at: this.#monotonicMs + ms, run };
        this.#timers.add(timer);
        return timer;
      },
      stop: (timer) => this.#timers.delete(timer),
      random: () => random,
      newProducer: () => `p${++this.#producers}`,
    };
    this.#outbox = new Outbox({ messages: 10_000, bytes: 1 << 24 }, () => this.#pump(), world);
    this.#inbox = new Inbox((frame) => this.happened.say({ ...frame }), () => ++this.#ids, world);
  }

  async publish({ as, topic, topics = [topic], data, message_id: messageId }) {
    const body = writeBody(data, { messageId });
    const receipts = this.#outbox.publish(topics, body, messageId !== undefined);
    topics.forEach((name, at) => this.happened.published(as, receipts[at], topic === undefined ? name : undefined));
    await settle();
  }

  async subscribe({ as, topic, from = "now" }) {
    const subscription = new Subscription(topic, undefined, { messages: 1024, bytes: 1 << 20 }, {
      drained: () => this.#inbox.drained(subscription),
      left: () => this.#inbox.unsubscribe(subscription),
    });
    this.#subscriptions.set(as, subscription);
    this.happened.subscribed(as, subscription);
    this.#inbox.subscribe(subscription, from);
    await settle();
  }

  async unsubscribe({ as }) {
    this.#subscriptions.get(as).close();
    await settle();
  }

  async hear(frame) {
    if (frame.type === "welcome") {
      const { version, max_message_bytes: frameBytes, max_inflight: inFlight } = { ...WELCOME, ...frame };
      this.#limits = { frameBytes, inFlight, several: !/^0\.[01]\./.test(version) };
      this.#inbox.connected();
    } else {
      assert.ok(this.#limits, "there is no connection");
      handOn(frame, JSON.stringify(frame).length, this.#inbox, this.#outbox);
    }
    this.#pump();
    await settle();
  }

  #pump() {
    while (this.#limits) {
      const next = this.#outbox.next(() => ++this.#ids, this.#limits);
      if (!next) return;
      this.happened.say(JSON.parse(next.text));
    }
  }

  async lost({ proven = false }) {
    this.#limits = undefined;
    const loss = { proven, transport: "websocket", transports: ["websocket"] };
    this.#outbox.lost(loss);
    this.#inbox.lost(loss);
    await settle();
  }

  async advance(time) {
    const { monotonic = 0, wall = 0 } = typeof time === "number" ? { monotonic: time, wall: time } : time;
    const end = this.#monotonicMs + monotonic;
    // What the wall clock goes beyond the other, it jumps.
    this.#wallMs += wall - monotonic;
    const goTo = (ms) => {
      this.#wallMs += ms - this.#monotonicMs;
      this.#monotonicMs = ms;
    };
    for (;;) {
      const [next] = [...this.#timers].filter(({ at }) => at <= end).sort((a, b) => a.at - b.at);
      if (!next) break;
      goTo(Math.max(next.at, this.#monotonicMs));
      this.#timers.delete(next);
      next.run();
      await settle();
    }
    goTo(end);
  }

  expect(expected) {
    this.happened.expect(expected);
  }

  async close() {
    for (const subscription of this.#subscriptions.values()) subscription.close();
  }
}

/** The whole client, and a server that says what the script says. Time passes by itself. */
export class SocketStage {
  happened = new Happened(true);
  #server;
  /** Connections that had no welcome yet. */
  #waiting = [];
  #socket;
  #hark;
  #subscriptions = new Map();

  static async start() {
    const stage = new SocketStage();
    stage.#server = new WebSocketServer({ port: 0, host: "127.0.0.1" });
    await new Promise((resolve) => stage.#server.once("listening", resolve));
    stage.#server.on("connection", (socket) => {
      stage.#waiting.push(socket);
      socket.on("error", () => {});
      socket.on("message", (text) => {
        const frame = JSON.parse(text);
        if (frame.type === "ping") socket.send(JSON.stringify({ type: "pong", id: frame.id }));
        stage.happened.say(frame);
      });
    });
    const url = `ws://127.0.0.1:${stage.#server.address().port}/ws`;
    stage.#hark = connect({ url, WebSocket, transports: ["websocket"] });
    return stage;
  }

  publish({ as, topic, topics, data, message_id: messageId }) {
    if (topic !== undefined) {
      this.happened.published(as, this.#hark.publish(topic, data, { messageId }));
    } else {
      const results = this.#hark.publishAll(topics, data, { messageId });
      topics.forEach(async (name, at) => {
        const { error, ...receipt } = (await results)[at];
        this.happened.published(as, error ? Promise.reject(error) : receipt, name);
      });
    }
  }

  subscribe({ as, topic, from = "now" }) {
    const subscription = this.#hark.subscribe(topic, { from });
    this.#subscriptions.set(as, subscription);
    this.happened.subscribed(as, subscription);
  }

  unsubscribe({ as }) {
    this.#subscriptions.get(as).close();
  }

  async hear(frame) {
    if (frame.type === "welcome") {
      this.#socket = await until("the client connects", () => this.#waiting.shift());
      this.#socket.send(JSON.stringify({ ...WELCOME, ...frame }));
    } else {
      this.#socket.send(JSON.stringify(frame));
    }
    await this.#roundTrip();
  }

  /** What was said is heard, and what the client has said to that is here. */
  async #roundTrip() {
    const pong = new Promise((resolve) => this.#socket.once("pong", resolve));
    this.#socket.ping();
    await pong;
  }

  lost({ proven }) {
    assert.ok(!proven, "no real connection proves itself within a script");
    this.#socket.terminate();
  }

  advance() {
    assert.fail("nobody moves the clock of a real socket");
  }

  async expect(expected) {
    if (expected.nothing) {
      await this.#roundTrip();
      return this.happened.expect(expected);
    }
    let failure;
    const tries = () => {
      try {
        this.happened.expect(expected);
        return true;
      } catch (error) {
        failure = error;
      }
    };
    await until("what is expected", tries).catch(() => {
      throw failure;
    });
  }

  async close() {
    this.#hark.close();
    for (const socket of this.#server.clients) socket.terminate();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

// @ts-check
// A line over HTTP, for where a WebSocket cannot be had: it reads by streams of at most 32 topics (`sse.js` or `longpoll.js`), and
// publishes over `POST /v1/messages`. Owns which topic is read by which stream, from where, and what an HTTP status means.
//
// To the rest it looks like a WebSocket: a `subscribe` is answered with `subscribed` when a stream that holds the topic says where it
// starts. A stream whose topics change is started again, after the cursors of what came last, so nothing is missed or twice.

import { formatCursor, parseCursor } from "./cursor.js";
import { ConnectionError, mayPass } from "./errors.js";
import { CHECK_MS, HEARTBEAT_MS, SILENT_HEARTBEATS, startBeat } from "./line.js";

const STREAM_TOPICS = 32;
// Proxies take request lines of 8 KB.
const STREAM_QUERY_CHARS = 6000;
// A batch of messages, though always one.
const BATCH_CHARS = 1 << 18;
// A slow uplink needs long for a batch.
const PUBLISH_PATIENCE_MS = 60_000;
// Larger than any line that Hark sends: a message of 1 MiB in base64, and what is around it.
const LINE_CHARS = 1 << 22;

/**
 * @typedef {object} Topic
 * @property {number} ask the id of the `subscribe` that is not answered yet, or 0
 * @property {string} from where to go on, as in a query
 * @property {boolean} placed `from` is a cursor: its text alone does not tell it from `last:2`
 * @property {number} size of its part of the query, at most
 * @property {boolean} live `caught_up` was said
 */

/** @typedef {Map<string, Topic>} Topics */
/** @typedef {{ topics: Topics, run?: Run }} Stream */

/**
 * One reading of a stream, until it is stopped. What it still hears after that does not count.
 *
 * @typedef {object} Run
 * @property {Topics} topics
 * @property {AbortController} stop
 * @property {number} heard
 */

/** @typedef {(line: HttpLine, run: Run) => Promise<void>} Read */

/**
 * `from` as in a query.
 *
 * @param {any} from
 * @returns {string}
 */
const inQuery = (from) => {
  if (typeof from === "string") return from;
  const [[word, value]] = Object.entries(from);
  return word === "after" ? value : `${word}:${value}`;
};

const queryOf = (/** @type {string} */ topic, /** @type {string} */ from) =>
  `topic=${encodeURIComponent(topic)}&from=${encodeURIComponent(from)}`;

/** The end of a line, as an exception. */
class Lost extends Error {
  /** @param {import("./line.js").Loss} loss */
  constructor(loss) {
    super();
    this.loss = loss;
  }
}

/**
 * @param {string} code
 * @param {string} message
 * @param {Partial<import("./line.js").Loss>} [more]
 */
export const lost = (code, message, more) => new Lost({ error: new ConnectionError(code, message), ...more });

/**
 * The lines of a body as they come.
 *
 * @param {Response} response
 */
export async function* linesOf({ body }) {
  if (!body) throw lost("unreachable", "this fetch cannot stream", { unusable: true });
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    rest += decoder.decode(value, { stream: !done });
    const lines = rest.split(/\r?\n/);
    rest = lines.pop() ?? "";
    if (rest.length > LINE_CHARS) throw lost("lost", "a line without an end");
    yield* lines;
    if (done) {
      if (rest) yield rest;
      return;
    }
  }
}

/** @typedef {import("./line.js").Line} Line */

/** @implements {Line} */
export class HttpLine {
  #dial;
  #listener;
  #read;
  #token;
  #over = false;
  /** @type {Set<Stream>} */
  #streams = new Set();
  /** Topics that no stream reads yet. @type {Map<string, Topic>} */
  #added = new Map();
  /** @type {Set<Stream>} */
  #changed = new Set();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #regrouping;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #pulse;
  #stop = new AbortController();
  /** @type {{ id: number, text: string }[]} */
  #outgoing = [];
  #publishing = false;
  #heartbeatMs = HEARTBEAT_MS;
  /** Something came by a stream: from then on silence says nothing against the transport. */
  heard = false;

  /**
   * @param {import("./line.js").Dial} dial
   * @param {import("./line.js").Listener} listener
   * @param {Read} read
   */
  constructor(dial, listener, read) {
    this.#dial = dial;
    this.#listener = listener;
    this.#read = read;
    this.#token = dial.token;
    this.#guard(async () => {
      await this.#ask(dial.patienceMs);
      this.#pulse = startBeat(
        (jumped) => (jumped ? this.check(false) : this.#restartSilent(SILENT_HEARTBEATS)),
        CHECK_MS,
      );
      listener.open();
    });
  }

  get patienceMs() {
    return this.#dial.patienceMs;
  }

  /** @param {any} frame */
  say({ type, id, topic, from, token }) {
    if (type === "auth") this.#token = token;
    if (type === "ping") this.#answer({ type: "pong", id });
    if (type === "subscribe") {
      const size = encodeURIComponent(topic).length + 80;
      this.#added.set(topic, { ask: id, from: inQuery(from), placed: !!from.after, size, live: false });
    }
    if (type === "unsubscribe") {
      this.#remove(topic);
      this.#answer({ type: "unsubscribed", id, topic });
    }
    this.#regrouping ??= setTimeout(() => this.#regroup(), 0);
  }

  /**
   * @param {number} id
   * @param {string} text
   */
  publish(id, text) {
    this.#outgoing.push({ id, text });
    if (this.#publishing) return;
    this.#publishing = true;
    this.#guard(async () => {
      // What is published in the same turn goes in the same request.
      await undefined;
      while (this.#outgoing.length) await this.#publishBatch();
      this.#publishing = false;
    });
  }

  /** @param {boolean} online the network was away, and with it the streams */
  check(online) {
    this.#restartSilent(online ? 0 : 1);
    this.#guard(() => this.#ask(CHECK_MS));
  }

  close() {
    if (this.#over) return;
    this.#over = true;
    clearTimeout(this.#regrouping);
    clearInterval(this.#pulse);
    this.#stop.abort();
    for (const { run } of this.#streams) run?.stop.abort();
  }

  // --- what follows is for the readers of streams ---

  /**
   * `topic=…&from=…` for each topic.
   *
   * @param {Run} run
   */
  queryOf({ topics }) {
    return [...topics].map(([topic, { from }]) => queryOf(topic, from)).join("&");
  }

  /**
   * An answer to a stream's request, or nothing when a topic had to be taken out and the stream is started again.
   *
   * @param {Run} run
   * @param {string} path
   * @param {number} patienceMs
   */
  async get(run, path, patienceMs) {
    const response = await this.#request(path, {}, patienceMs, run.stop.signal, !this.heard);
    if (response.ok) return response;
    const { code, message } = await this.#refusalOf(response);
    await this.findRefused(run, code, message);
  }

  /**
   * @param {Run} run
   * @param {any} frame
   * @param {number} size
   */
  hear(run, frame, size) {
    run.heard = Date.now();
    const { type, topic: name, offset, cursor } = frame;
    const topic = run.topics.get(name);
    if (run.stop.signal.aborted || this.#over) return;
    this.heard = true;
    if (type === "welcome") {
      this.#heartbeatMs = frame.heartbeat_ms;
      this.#listener.hear(frame, 0);
    }
    if (!topic) return;
    const id = topic.ask;
    topic.from = type === "message" ? formatCursor({ ...parseCursor(topic.from), offset }) : cursor;
    if (type === "subscribed") topic.ask = 0;
    topic.placed = true;
    // A second `subscribed` was not asked for, and goes without an id: the stream was started again.
    this.#listener.hear({ ...frame, id }, size);
  }

  /**
   * Hark refused a stream, and not for a while. Finds out for which topics, and goes on without them.
   *
   * @param {Run} run
   * @param {string} code
   * @param {string} message
   */
  async findRefused({ topics }, code, message) {
    let found = 0;
    const isOne = topics.size < 2;
    for (const [name, { ask, from }] of [...topics]) {
      let refusal = { code, message };
      if (!isOne) {
        const path = `/v1/messages?limit=1&${queryOf(name, from)}`;
        const response = await this.#request(path, {}, this.patienceMs);
        if (response.ok) continue;
        refusal = await this.#refusalOf(response);
      }
      found++;
      this.#remove(name);
      // Of one that stood: the client asks again, and gets the reason then.
      this.#answer(ask ? { type: "error", id: ask, ...refusal } : { type: "unsubscribed", topic: name });
    }
    if (!found) throw lost(code, message);
    this.#regrouping ??= setTimeout(() => this.#regroup(), 0);
  }

  // --- inner ---

  /** Publishes nothing: says whether there is a Hark that takes this token, and not a cache, a proxy or another server. */
  async #ask(/** @type {number} */ patienceMs) {
    const response = await this.#post("", patienceMs);
    if (!response.ok) await this.#refusalOf(response);
    else await response.text();
  }

  /**
   * Hark's code and sentence. Of what is worth trying again, or asks for another token, it makes the line's end.
   *
   * @param {Response} response
   * @returns {Promise<{ code: string, message: string }>}
   */
  async #refusalOf(response) {
    const { status, headers } = response;
    const text = await response.text();
    /** @type {{ code?: string, message?: string }} */
    let body = {};
    try {
      body = JSON.parse(text);
    } catch {
      // A proxy's page.
    }
    const { code = "", message = `status ${status}: ${text.slice(0, 200)}` } = body;
    if (status === 401) throw lost("unauthenticated", message, { refused: true });
    // No authentication is configured there: a token will not be looked at the next time either.
    if (status === 501 && code === "unsupported" && this.#token) throw lost(code, message, { final: true });
    if (status === 429 || status >= 500 || mayPass(code)) {
      // Of a date, or none: nothing.
      throw lost(code || "unreachable", message, { retryAfterMs: Number(headers.get("retry-after")) * 1000 || undefined });
    }
    if (!code) throw lost("unreachable", `${this.#dial.base} is no Hark: ${message}`, { unusable: true });
    return { code, message };
  }

  /** @param {any} frame */
  #answer(frame) {
    queueMicrotask(() => this.#over || this.#listener.hear(frame, 0));
  }

  /** @param {import("./line.js").Loss} loss */
  lose(loss) {
    if (this.#over) return;
    this.close();
    this.#listener.lost(loss);
  }

  /**
   * Any failure is the line's end: what is to be tried again is tried with a new one.
   *
   * @param {() => Promise<unknown>} work
   */
  async #guard(work) {
    try {
      await work();
    } catch (error) {
      this.lose(
        error instanceof Lost
          ? error.loss
          : { error: new ConnectionError("unreachable", `${this.#dial.base}: ${error}`) },
      );
    }
  }

  /**
   * @param {string} path
   * @param {RequestInit} init
   * @param {number} patienceMs until the answer begins
   * @param {AbortSignal} [signal]
   * @param {boolean} [unusable] what it says of the transport if none comes
   * @returns {Promise<Response>}
   */
  async #request(path, init, patienceMs, signal = this.#stop.signal, unusable = !this.#pulse) {
    const { base, fetch } = this.#dial;
    const token = this.#token;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    const late = new Promise((_, reject) => {
      const error = lost("unreachable", `no answer from ${base} in time`, { unusable });
      timer = setTimeout(() => reject(error), patienceMs);
    });
    const headers = { ...init.headers, ...(token && { authorization: `Bearer ${token}` }) };
    try {
      return await Promise.race([fetch(base + path, { ...init, headers, cache: "no-store", signal }), late]);
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * @param {string} body
   * @param {number} patienceMs
   */
  #post(body, patienceMs) {
    return this.#request(
      "/v1/messages",
      { method: "POST", body, headers: { "content-type": "application/x-ndjson" } },
      patienceMs,
    );
  }

  async #publishBatch() {
    let count = 0;
    for (let chars = 0; count < this.#outgoing.length; count++) {
      chars += this.#outgoing[count].text.length;
      if (count && chars > BATCH_CHARS) break;
    }
    const batch = this.#outgoing.splice(0, count);
    const response = await this.#post(batch.map(({ text }) => text).join("\n"), PUBLISH_PATIENCE_MS);
    if (!response.ok) {
      const refusal = await this.#refusalOf(response);
      for (const { id } of batch) this.#hearAnswer({ ...refusal, id });
      return;
    }
    let answered = 0;
    for await (const line of linesOf(response)) {
      if (!line) continue;
      answered++;
      this.#hearAnswer(JSON.parse(line));
    }
    if (answered < batch.length) throw lost("lost", "not every message was answered");
  }

  /** @param {any} answer */
  #hearAnswer(answer) {
    if (!this.#over) this.#listener.hear({ type: answer.code ? "error" : "published", ...answer }, 0);
  }

  /** @param {string} topic */
  #remove(topic) {
    this.#added.delete(topic);
    for (const stream of this.#streams) if (stream.topics.delete(topic)) this.#changed.add(stream);
  }

  /** Gives new topics to streams, and starts those again whose topics have changed. */
  #regroup() {
    this.#regrouping = undefined;
    for (const [name, topic] of this.#added) {
      const hasRoom = (/** @type {Stream} */ { topics }) => {
        const chars = [...topics.values()].reduce((sum, { size }) => sum + size, topic.size);
        return topics.size < STREAM_TOPICS && chars <= STREAM_QUERY_CHARS;
      };
      const stream = [...this.#streams].find(hasRoom) ?? { topics: new Map() };
      stream.topics.set(name, topic);
      this.#streams.add(stream);
      this.#changed.add(stream);
    }
    this.#added.clear();
    for (const stream of this.#changed) this.#start(stream);
    this.#changed.clear();
  }

  /** @param {Stream} stream */
  #start(stream) {
    stream.run?.stop.abort();
    if (!stream.topics.size) {
      this.#streams.delete(stream);
      return;
    }
    const run = (stream.run = { topics: stream.topics, stop: new AbortController(), heard: Date.now() });
    this.#guard(async () => {
      try {
        await this.#read(this, run);
      } catch (error) {
        if (!run.stop.signal.aborted) throw error;
      }
    });
  }

  /** @param {number} heartbeats without a sound */
  #restartSilent(heartbeats) {
    for (const stream of this.#streams) {
      const silentMs = Date.now() - (stream.run?.heard ?? 0);
      if (silentMs >= heartbeats * (this.#heartbeatMs + CHECK_MS)) this.#start(stream);
    }
  }
}

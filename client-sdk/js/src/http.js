// @ts-check
// A line over HTTP, for where a WebSocket cannot be had: it reads by streams of at most 32 topics (`sse.js` or `pages.js`), and
// publishes by `publisher.js`. Owns which topic is read by which stream, from where, and when the line is open; leaves to
// `exchange.js` how a request ends, and to `sharing.js` which stream may hold a connection.
//
// To the rest it looks like a WebSocket: a `subscribe` is answered with `subscribed` when a stream that holds the topic says
// where it starts. A stream whose topics change is started again, after the cursors of what came last, so nothing is missed or
// twice.
//
// The line is open when Hark has answered anything: the first stream or publish says so by the way. Only a line that has nothing
// to ask with asks for that alone.

import { elapsedSince, mark, now } from "./clock.js";
import { formatCursor, parseCursor } from "./cursor.js";
import { ConnectionError } from "./errors.js";
import { Lost, exchange, lost, unseenMs } from "./exchange.js";
import { ANSWER_WITHIN_MS, PROOF_MS } from "./figures.js";
import { readPages } from "./pages.js";
import { Publisher } from "./publisher.js";
import { refusalOf } from "./refusal.js";
import { Place, Sharing } from "./sharing.js";
import { later } from "./timer.js";

const STREAM_TOPICS = 32;
// Proxies take request lines of 8 KB.
const STREAM_QUERY_CHARS = 6000;
// Besides what the bytes need on their way, which nobody sees: so long does Hark wait for one that stalls, and most proxies for
// Hark.
const PUBLISH_PATIENCE_MS = 60_000;
// What one round trip takes along, even on a bad line.
const SHORT_BYTES = 8192;

/**
 * @typedef {object} Topic
 * @property {number} ask the id of the `subscribe` that is not answered yet, or 0
 * @property {string} from where to go on, as in a query
 * @property {boolean} placed `from` is a cursor: its text alone does not tell it from `last:2`
 * @property {number} size of its part of the query, at most
 * @property {boolean} live `caught_up` was said
 */

/** @typedef {Map<string, Topic>} Topics */

/**
 * @typedef {object} Stream
 * @property {Topics} topics
 * @property {Place} [place] whether it may hold a connection
 * @property {Run} [run]
 * @property {boolean} isProven something came well behind its start, since it fell silent last
 */

/**
 * One reading of a stream, until it is stopped. What it still hears after that does not count.
 *
 * @typedef {object} Run
 * @property {Stream} stream
 * @property {Topics} topics
 * @property {AbortController} stop
 * @property {boolean} isBrief it may not hold a connection
 * @property {import("./clock.js").Mark} heard when something came last
 * @property {number} quietMs how long nothing may come, just now
 * @property {number} [began] when the first `subscribed` came
 */

/** @typedef {{ code: string, message: string }} Refusal */
/** @typedef {import("./exchange.js").Answer} Answer */
/** @typedef {(line: HttpLine, run: Run) => Promise<void>} Read */
/** @typedef {import("./line.js").Line} Line */

/** A stream has fallen silent. */
export class Silent extends Error {}

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

/** @implements {Line} */
export class HttpLine {
  /** Hark has answered. */
  isOpen = false;
  /** A stream of this transport has brought something: from then on what fails says nothing against the transport. */
  heard = false;
  sharing;

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
  #stop = new AbortController();
  #publisher;
  #isAsking = false;
  /** Answers of its own that wait until the line is open. @type {any[]} */
  #answers = [];

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
    this.#publisher = new Publisher(this);
    this.sharing = new Sharing(dial.base, () => this.#startAll(true));
    queueMicrotask(() => {
      if (this.#over) return;
      listener.ready();
      this.#regroupSoon();
    });
  }

  /** @param {any} frame */
  say({ type, id, topic, from, token }) {
    if (type === "auth") {
      this.#token = token;
      // Each request shows its token once.
      this.#startAll();
    }
    // Over HTTP nothing is asked: that the line is open is the answer.
    if (type === "ping" && id) this.#answer({ type: "pong", id });
    if (type === "subscribe") {
      const size = encodeURIComponent(topic).length + 80;
      this.#added.set(topic, { ask: id, from: inQuery(from), placed: !!from.after, size, live: false });
      this.#regroupSoon();
    }
    if (type === "unsubscribe") {
      this.#remove(topic);
      this.#answer({ type: "unsubscribed", id, topic });
    }
  }

  /**
   * @param {number} id
   * @param {string} text
   */
  publish(id, text) {
    this.#publisher.publish({ id, text });
  }

  /** @param {boolean} online the network was away, and with it all connections */
  check(online) {
    if (online) this.#publisher.again();
    for (const stream of this.#streams) {
      const { run } = stream;
      if (online || (run && elapsedSince(run.heard) >= run.quietMs)) this.#start(stream);
    }
  }

  close() {
    if (this.#over) return;
    this.#over = true;
    clearTimeout(this.#regrouping);
    this.#stop.abort();
    this.#publisher.close();
    for (const { run, place } of this.#streams) {
      run?.stop.abort();
      place?.leave();
    }
    this.sharing.close();
  }

  // --- what follows is for the readers of streams, and for the publisher ---

  get patienceMs() {
    return this.#dial.patienceMs;
  }

  /**
   * `topic=…&from=…` for each topic.
   *
   * @param {Run} run
   */
  queryOf({ topics }) {
    return [...topics].map(([topic, { from }]) => queryOf(topic, from)).join("&");
  }

  /**
   * Asks for a stream, or a part of it. Whether the run goes on: not when a topic was refused, and the stream is started again
   * without it.
   *
   * @param {Run} run
   * @param {string} path
   * @param {number} waitMs how long Hark may wait with its answer
   * @param {number} pieceMs the time that each piece of the body gives it anew
   * @param {(answer: Answer) => Promise<Refusal | void>} use
   * @param {() => Error} [late]
   */
  async get(run, path, waitMs, pieceMs, use, late = () => this.#late({ unusable: !this.heard })) {
    if (!this.isOpen) pieceMs = Math.min(pieceMs, this.patienceMs);
    const patienceMs = waitMs + Math.max(pieceMs, this.patienceMs);
    run.quietMs = waitMs + ANSWER_WITHIN_MS;
    const moved = () => this.#moved(run);
    const request = { path, signal: run.stop.signal, patienceMs, pieceMs, waitMs, moved, late };
    const refusal = await this.#exchange(request, (answer) => {
      if (!answer.ok) return refusalOf(answer, this.#dial.base, { unusable: !this.heard });
      // Only Hark says so, and the page behind it may take long.
      if (answer.header("hark-cursor")) this.#open();
      return use(answer);
    });
    if (!refusal) return true;
    await this.#takeOut(run, refusal);
    return false;
  }

  /**
   * @param {Run} run
   * @param {any} frame
   * @param {number} size
   */
  hear(run, frame, size) {
    const { type, topic: name, offset, cursor } = frame;
    const topic = run.topics.get(name);
    if (run.stop.signal.aborted || this.#over) return;
    this.heard ||= !run.isBrief;
    if (type === "welcome") this.#open(frame.version);
    if (type === "welcome" || type === "error") this.tell(frame);
    if (!topic) return;
    const id = topic.ask;
    topic.from = type === "message" ? formatCursor({ ...parseCursor(topic.from), offset }) : (cursor ?? topic.from);
    if (type === "subscribed") {
      topic.ask = 0;
      run.began ??= now();
    }
    topic.placed = true;
    // A second `subscribed` was not asked for, and goes without an id: the stream was started again.
    this.tell({ ...frame, id }, size);
  }

  get fetch() {
    return this.#dial.fetch;
  }

  /**
   * @param {string} body
   * @param {number} bytes that it has
   * @param {AbortSignal} signal
   * @param {(answer: Answer) => Promise<T>} use
   * @template T
   */
  async post(body, bytes, signal, use) {
    const waitMs = unseenMs(bytes);
    let pieceMs = PUBLISH_PATIENCE_MS + waitMs;
    const isAlone = !this.isOpen && !this.#streams.size && !this.#added.size;
    // Nobody sees the bytes of an upload: whether Hark is there is asked beside one that may take long, and said by one that is
    // short.
    if (isAlone && bytes > SHORT_BYTES) this.#askOnce();
    else if (isAlone) pieceMs = this.patienceMs;
    const init = { method: "POST", body, headers: { "content-type": "application/x-ndjson" } };
    const late = () => this.#late({ unusable: !this.isOpen });
    return this.#exchange({ path: "/v1/messages", init, signal, patienceMs: pieceMs, pieceMs, waitMs, late }, use);
  }

  /**
   * What a request was refused for, if it was Hark that refused it, and for good.
   *
   * @param {Answer} answer
   */
  refusalOf(answer) {
    return refusalOf(answer, this.#dial.base, { unusable: !this.isOpen });
  }

  /**
   * What Hark has written, or somebody else.
   *
   * @param {string} text
   */
  parse(text) {
    try {
      const value = JSON.parse(text);
      if (value && typeof value === "object") return value;
    } catch {
      // Said below.
    }
    throw this.foreign(text);
  }

  /** @param {string} text */
  foreign(text) {
    return lost("unreachable", `${this.#dial.base} is no Hark: ${text.slice(0, 200)}`, { unusable: !this.isOpen });
  }

  /**
   * @param {any} frame
   * @param {number} [size]
   */
  tell(frame, size = 0) {
    if (this.#over) return;
    this.#open();
    this.#listener.hear(frame, size);
  }

  /**
   * Any failure is the line's end: what is to be tried again is tried with a new one.
   *
   * @param {() => Promise<unknown>} work
   */
  async guard(work) {
    try {
      await work();
    } catch (error) {
      this.#lose(error);
    }
  }

  // --- inner ---

  /**
   * @template T
   * @param {Pick<import("./exchange.js").Request, "signal" | "patienceMs" | "pieceMs" | "late">
   *   & { path: string, init?: RequestInit, waitMs: number, moved?: () => void }} request
   * @param {(answer: Answer) => Promise<T>} use
   * @returns {Promise<T>}
   */
  async #exchange({ path, init, waitMs, moved, ...request }, use) {
    const { base, fetch } = this.#dial;
    const authorization = this.#token && { authorization: `Bearer ${this.#token}` };
    const headers = { ...init?.headers, ...authorization };
    const answered = this.sharing.request(waitMs);
    try {
      return await exchange(
        {
          ...request,
          url: base + path,
          fetch,
          init: { ...init, headers },
          moved: () => {
            moved?.();
            if (!this.#over) this.#listener.alive();
          },
        },
        (answer) => {
          answered();
          return use(answer);
        },
      );
    } finally {
      answered();
    }
  }

  #askOnce() {
    if (!this.#isAsking) this.guard(async () => (await this.#ask(), this.#open()));
    this.#isAsking = true;
  }

  /** Publishes nothing: says whether there is a Hark that takes this token, and not a cache, a proxy or another server. */
  async #ask() {
    await this.post("", 0, this.#stop.signal, async (answer) => {
      const refusal = !answer.ok && (await this.refusalOf(answer));
      if (refusal && answer.status === 403) throw lost(refusal.code, refusal.message, { final: true });
      const text = refusal ? "" : await answer.text();
      const isHark = refusal || (!text && /ndjson/.test(answer.header("content-type")));
      if (!isHark) throw this.foreign(text);
    });
  }

  /** @param {string} [version] */
  #open(version) {
    if (this.isOpen || this.#over) return;
    this.isOpen = true;
    this.#listener.open(version);
    for (const frame of this.#answers.splice(0)) this.#answer(frame);
  }

  /** @param {any} frame */
  #answer(frame) {
    if (!this.isOpen) this.#answers.push(frame);
    else queueMicrotask(() => this.tell(frame));
  }

  /** @param {Partial<import("./line.js").Loss>} loss */
  #late(loss) {
    return lost("unreachable", `no answer from ${this.#dial.base} in time`, loss);
  }

  /** @param {unknown} error */
  #lose(error) {
    if (this.#over) return;
    this.close();
    const { base } = this.#dial;
    // What `fetch` says of a network that is away: nothing about the transport.
    const unknown = { error: new ConnectionError("unreachable", `${base}: ${error}`) };
    this.#listener.lost(error instanceof Lost ? error.loss : unknown);
  }

  /**
   * Hark refused a stream, and not for a while. Finds out for which topics, and goes on without them.
   *
   * @param {Run} run
   * @param {Refusal} refusal
   */
  async #takeOut({ topics, stop: { signal } }, { code, message }) {
    let found = 0;
    const isOne = topics.size < 2;
    for (const [name, { ask, from }] of [...topics]) {
      /** @type {Refusal | undefined} */
      let refusal = { code, message };
      if (!isOne) {
        const path = `/v1/messages?limit=1&${queryOf(name, from)}`;
        const late = () => this.#late({});
        const request = { path, signal, patienceMs: this.patienceMs, pieceMs: this.patienceMs, waitMs: 0, late };
        refusal = await this.#exchange(request, async (answer) =>
          answer.ok ? void (await answer.text()) : await this.refusalOf(answer),
        );
      }
      if (!refusal) continue;
      found++;
      this.#remove(name);
      this.#open();
      // Of one that stood: the client asks again, and gets the reason then.
      this.#answer(ask ? { type: "error", id: ask, ...refusal } : { type: "unsubscribed", topic: name });
    }
    if (!found) throw lost(code, message);
  }

  /** @param {string} topic */
  #remove(topic) {
    this.#added.delete(topic);
    for (const stream of this.#streams) if (stream.topics.delete(topic)) this.#changed.add(stream);
    this.#regroupSoon();
  }

  /** What is said in one turn changes the streams once. */
  #regroupSoon() {
    this.#regrouping ??= later(0, () => this.#regroup());
  }

  /** Gives new topics to streams, and starts those again whose topics have changed. */
  #regroup() {
    this.#regrouping = undefined;
    for (const [name, topic] of this.#added) {
      const hasRoom = (/** @type {Stream} */ { topics }) => {
        const chars = [...topics.values()].reduce((sum, { size }) => sum + size, topic.size);
        return topics.size < STREAM_TOPICS && chars <= STREAM_QUERY_CHARS;
      };
      const stream = [...this.#streams].find(hasRoom) ?? { topics: new Map(), isProven: false };
      stream.topics.set(name, topic);
      this.#streams.add(stream);
      this.#changed.add(stream);
    }
    this.#added.clear();
    for (const stream of this.#changed) this.#start(stream);
    this.#changed.clear();
    if (!this.isOpen && !this.#streams.size && this.#publisher.isIdle) this.#askOnce();
  }

  /** @param {boolean} [isCrowded] and none of them has its place any more */
  #startAll(isCrowded = false) {
    for (const stream of this.#streams) {
      if (isCrowded) {
        stream.place?.leave();
        stream.place = undefined;
      }
      this.#start(stream);
    }
  }

  /** @param {Stream} stream */
  #start(stream) {
    const { topics } = stream;
    stream.run?.stop.abort();
    if (!topics.size) {
      stream.place?.leave();
      this.#streams.delete(stream);
      return;
    }
    const stop = new AbortController();
    const run = { stream, topics, stop, isBrief: false, heard: mark(), quietMs: this.patienceMs };
    stream.run = run;
    this.guard(async () => {
      try {
        await this.#follow(run);
      } catch (error) {
        if (stop.signal.aborted) return;
        if (error instanceof Silent) return this.#restartSilent(stream);
        if (error instanceof Lost || this.heard || run.isBrief) throw error;
        // Perhaps something in between breaks off streams, and nothing else.
        await this.#ask();
        throw lost("unreachable", `a stream from ${this.#dial.base} breaks off: ${error}`, { unusable: true });
      }
    });
  }

  /** @param {Run} run */
  async #follow(run) {
    const { stream, stop } = run;
    const place = (stream.place ??= new Place(this.sharing, () => this.#start(stream)));
    await place.known;
    if (stop.signal.aborted) return;
    run.isBrief = !place.isHeld;
    await (run.isBrief ? readPages : this.#read)(this, run);
  }

  /** @param {Run} run */
  #moved(run) {
    run.heard = mark();
    if (run.began !== undefined && now() - run.began >= PROOF_MS) run.stream.isProven = true;
  }

  /**
   * Its connection is gone, or something lets through only what comes first. If nothing speaks against the second, another
   * transport is the better guess: this one is tried again in the background.
   *
   * @param {Stream} stream
   */
  #restartSilent(stream) {
    if (!stream.isProven) return this.#lose(lost("unreachable", "the event stream fell silent", { unusable: true }));
    stream.isProven = false;
    this.#start(stream);
  }
}

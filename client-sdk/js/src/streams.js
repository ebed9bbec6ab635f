// @ts-check
// The streams of a line over HTTP, each of at most 32 topics. Owns which topic is read by which stream and from where, and when a
// stream is started again; leaves to `sse.js` and `pages.js` how it is read, and to `sharing.js` which one may hold a connection.
//
// A `subscribe` is answered with `subscribed` when a stream that holds the topic says where it starts. A stream whose topics
// change is started again, after the cursors of what came last, so nothing is missed or twice.

import { elapsedSince, mark, now } from "./clock.js";
import { formatCursor, parseCursor } from "./cursor.js";
import { Lost, lost } from "./exchange.js";
import { PROOF_MS } from "./figures.js";
import { readPages } from "./pages.js";
import { inQuery } from "./query.js";
import { Place } from "./sharing.js";
import { later } from "./timer.js";

const STREAM_TOPICS = 32;
// Proxies take request lines of 8 KB.
const STREAM_QUERY_CHARS = 6000;

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

/** @typedef {import("./http.js").HttpLine} HttpLine */
/** @typedef {(line: HttpLine, run: Run) => Promise<void>} Read */

/** A stream has fallen silent. */
export class Silent extends Error {}

export class Streams {
  #line;
  #read;
  #regrouped;
  /** @type {Set<Stream>} */
  #streams = new Set();
  /** Topics that no stream reads yet. @type {Map<string, Topic>} */
  #added = new Map();
  /** @type {Set<Stream>} */
  #changed = new Set();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #regrouping;

  /**
   * @param {HttpLine} line
   * @param {Read} read
   * @param {() => void} regrouped what was said is asked for now
   */
  constructor(line, read, regrouped) {
    this.#line = line;
    this.#read = read;
    this.#regrouped = regrouped;
  }

  get isEmpty() {
    return !this.#streams.size && !this.#added.size;
  }

  /**
   * @param {string} name
   * @param {number} ask
   * @param {any} from
   */
  add(name, ask, from) {
    const size = encodeURIComponent(name).length + 80;
    this.#added.set(name, { ask, from: inQuery(from), placed: !!from.after, size, live: false });
    this.regroupSoon();
  }

  /** @param {string} name */
  remove(name) {
    this.#added.delete(name);
    for (const stream of this.#streams) if (stream.topics.delete(name)) this.#changed.add(stream);
    this.regroupSoon();
  }

  /** What is said in one turn changes the streams once. */
  regroupSoon() {
    this.#regrouping ??= later(0, () => this.#regroup());
  }

  /** @param {boolean} online their connections are gone; else those that have been silent for too long are started again */
  check(online) {
    for (const stream of this.#streams) {
      const { run } = stream;
      if (online || (run && elapsedSince(run.heard) >= run.quietMs)) this.#start(stream);
    }
  }

  /** @param {boolean} [isCrowded] and none of them has its place any more */
  startAll(isCrowded = false) {
    for (const stream of this.#streams) {
      if (isCrowded) {
        stream.place?.leave();
        stream.place = undefined;
      }
      this.#start(stream);
    }
  }

  close() {
    clearTimeout(this.#regrouping);
    for (const { run, place } of this.#streams) {
      run?.stop.abort();
      place?.leave();
    }
  }

  /** @param {Run} run */
  moved(run) {
    run.heard = mark();
    if (run.began !== undefined && now() - run.began >= PROOF_MS) run.stream.isProven = true;
  }

  /**
   * @param {Run} run
   * @param {any} frame of a topic
   * @param {number} size
   */
  hear(run, frame, size) {
    const { type, topic: name, offset, cursor } = frame;
    const topic = run.topics.get(name);
    if (!topic) return;
    const id = topic.ask;
    topic.from = type === "message" ? formatCursor({ ...parseCursor(topic.from), offset }) : (cursor ?? topic.from);
    topic.placed = true;
    if (type === "subscribed") {
      topic.ask = 0;
      run.began ??= now();
    }
    // A second `subscribed` was not asked for, and goes without an id: the stream was started again.
    this.#line.tell({ ...frame, id }, size);
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
    this.#regrouped();
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
    const run = { stream, topics, stop, isBrief: false, heard: mark(), quietMs: this.#line.patienceMs };
    stream.run = run;
    this.#line.guard(async () => {
      try {
        await this.#follow(run);
      } catch (error) {
        if (stop.signal.aborted) return;
        if (error instanceof Silent) return this.#restartSilent(stream);
        if (error instanceof Lost || this.#line.heard || run.isBrief) throw error;
        // Perhaps something in between breaks off streams, and nothing else.
        await this.#line.ask();
        throw lost("unreachable", `event streams break off: ${error}`, { unusable: true });
      }
    });
  }

  /** @param {Run} run */
  async #follow(run) {
    const { stream, stop } = run;
    const place = (stream.place ??= new Place(this.#line.sharing, () => this.#start(stream)));
    await place.known;
    if (stop.signal.aborted) return;
    run.isBrief = !place.isHeld;
    await (run.isBrief ? readPages : this.#read)(this.#line, run);
  }

  /**
   * Its connection is gone, or something lets through only what comes first. If nothing speaks against the second, another
   * transport is the better guess: this one is tried again in the background.
   *
   * @param {Stream} stream
   */
  #restartSilent(stream) {
    if (!stream.isProven)
      return this.#line.lose(lost("unreachable", "the event stream fell silent", { unusable: true }));
    stream.isProven = false;
    this.#start(stream);
  }
}

// @ts-check
// A line over HTTP, for where a WebSocket cannot be had: to the rest it looks like one. Owns when it is open, what a failure says
// of it, and what frames the answers of requests are; leaves reading to `streams.js`, publishing to `publisher.js`, and to
// `exchange.js` how a request ends.
//
// The line is open when Hark has answered anything: the first stream or publish says so by the way. Only a line that has nothing
// to ask with asks for that alone.

import { ConnectionError } from "./errors.js";
import { Lost, exchange, lost, unseenMs } from "./exchange.js";
import { ANSWER_WITHIN_MS } from "./figures.js";
import { Publisher } from "./publisher.js";
import { queryOf } from "./query.js";
import { refusalOf } from "./refusal.js";
import { Sharing } from "./sharing.js";
import { Streams } from "./streams.js";
import { later } from "./timer.js";

// Besides what the bytes need on their way, which nobody sees: so long does Hark wait for one that stalls, and most proxies for
// Hark.
const PUBLISH_PATIENCE_MS = 60_000;
// What one round trip takes along, even on a bad line.
const SHORT_BYTES = 8192;

/** @typedef {{ code: string, message: string }} Refusal */
/** @typedef {import("./exchange.js").Answer} Answer */
/** @typedef {import("./streams.js").Run} Run */
/** @typedef {import("./line.js").Line} Line */

/** @implements {Line} */
export class HttpLine {
  /** Hark has answered. */
  isOpen = false;
  /** A stream of this transport has brought something: from then on what fails says nothing against the transport. */
  heard = false;
  sharing;

  #dial;
  #listener;
  #token;
  #over = false;
  #streams;
  #publisher;
  #stop = new AbortController();
  #isAsking = false;
  /** Answers of its own that wait until the line is open. @type {any[]} */
  #answers = [];

  /**
   * @param {import("./line.js").Dial} dial
   * @param {import("./line.js").Listener} listener
   * @param {import("./streams.js").Read} read
   */
  constructor(dial, listener, read) {
    this.#dial = dial;
    this.#listener = listener;
    this.#token = dial.token;
    this.sharing = new Sharing(dial.base, () => this.#streams.startAll(true));
    this.#publisher = new Publisher(this);
    this.#streams = new Streams(this, read, () => {
      if (!this.isOpen && this.#streams.isEmpty && this.#publisher.isIdle) this.#askOnce();
    });
    queueMicrotask(() => {
      if (this.#over) return;
      listener.ready();
      this.#streams.regroupSoon();
    });
  }

  /** @param {any} frame */
  say({ type, id, topic, from, token }) {
    if (type === "auth") {
      this.#token = token;
      // Each request shows its token once.
      this.#streams.startAll();
    }
    // Over HTTP nothing is asked: that the line is open is the answer.
    if (type === "ping" && id) this.#answer({ type: "pong", id });
    if (type === "subscribe") this.#streams.add(topic, id, from);
    if (type === "unsubscribe") {
      this.#streams.remove(topic);
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
    this.#streams.check(online);
  }

  close() {
    if (this.#over) return;
    this.#over = true;
    this.#stop.abort();
    this.#publisher.close();
    this.#streams.close();
    this.sharing.close();
  }

  // --- what follows is for streams and their readers, and for the publisher ---

  get patienceMs() {
    return this.#dial.patienceMs;
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
    const moved = () => this.#streams.moved(run);
    const request = { path, signal: run.stop.signal, patienceMs, pieceMs, waitMs, moved, late };
    const refusal = await this.#exchange(request, (answer) => {
      if (!answer.ok) return refusalOf(answer, this.#dial.base, { unusable: !this.heard }, !!this.#token);
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
    if (run.stop.signal.aborted || this.#over) return;
    this.heard ||= !run.isBrief;
    const { type } = frame;
    if (type === "welcome") this.#open(frame.version);
    if (type === "welcome" || type === "error") this.tell(frame);
    else this.#streams.hear(run, frame, size);
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
    const isAlone = !this.isOpen && this.#streams.isEmpty;
    // Nobody sees the bytes of an upload: whether Hark is there is asked beside one that may take long, and said by one that is
    // short, unless that alone does not come through.
    const isShort = bytes <= SHORT_BYTES;
    const asking = isAlone ? later(isShort ? this.patienceMs / 2 : 0, () => this.#askOnce()) : undefined;
    if (isAlone && isShort) pieceMs = this.patienceMs;
    const init = { method: "POST", body, headers: { "content-type": "application/x-ndjson" } };
    const late = () => this.#late({ unusable: !this.isOpen });
    try {
      return await this.#exchange({ path: "/v1/messages", init, signal, patienceMs: pieceMs, pieceMs, waitMs, late }, use);
    } finally {
      clearTimeout(asking);
    }
  }

  /**
   * What a request was refused for, if it was Hark that refused it, and for good.
   *
   * @param {Answer} answer
   */
  refusalOf(answer) {
    return refusalOf(answer, this.#dial.base, { unusable: !this.isOpen }, !!this.#token);
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
      this.lose(error);
    }
  }

  /** @param {unknown} error */
  lose(error) {
    if (this.#over) return;
    this.close();
    const { base } = this.#dial;
    // What `fetch` says of a network that is away: nothing about the transport.
    const unknown = { error: new ConnectionError("unreachable", `${base}: ${error}`) };
    this.#listener.lost(error instanceof Lost ? error.loss : unknown);
  }

  /** Finds out whether Hark is there, unless it has answered before. */
  async makeSure() {
    if (this.isOpen) return;
    await this.ask();
    this.#open();
  }

  /** Publishes nothing: fails if there is no Hark that takes this token, but a cache, a proxy or another server. */
  async ask() {
    await this.post("", 0, this.#stop.signal, async (answer) => {
      const refusal = !answer.ok && (await this.refusalOf(answer));
      if (refusal && answer.status === 403) throw lost(refusal.code, refusal.message, { final: true });
      const text = refusal ? "" : await answer.text();
      const isHark = refusal || (!text && /ndjson/.test(answer.header("content-type")));
      if (!isHark) throw this.foreign(text);
    });
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
    if (!this.#isAsking && !this.isOpen) this.guard(() => this.makeSure());
    this.#isAsking = true;
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
      this.#streams.remove(name);
      this.#open();
      // Of one that stood: the client asks again, and gets the reason then.
      this.#answer(ask ? { type: "error", id: ask, ...refusal } : { type: "unsubscribed", topic: name });
    }
    if (!found) throw lost(code, message);
  }
}

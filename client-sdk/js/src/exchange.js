// @ts-check
// One request over HTTP and its answer. Owns that each of its waits has an end, what a `fetch` may lack, and how an answer is
// read: by pieces, so that every byte is a sign of life, or as one text where `fetch` shows no pieces. Leaves to others what is
// asked, and what a refusal means.

import { Deadline } from "./deadline.js";
import { ConnectionError } from "./errors.js";

// Larger than any line that Hark sends (a message of 1 MiB in base64, and what is around it), and than any page.
const MOST_CHARS = 1 << 22;
// What a page has about, at most.
const PAGE_BYTES = 1 << 20;
// What is slower is ended by Hark, too, where it needs the room.
const SLOWEST_BYTES_PER_MS = 4.096;

/** How long so many bytes may be under way where nobody sees them move. */
export const unseenMs = (/** @type {number} */ bytes) => bytes / SLOWEST_BYTES_PER_MS;

/** The end of a line, as an exception. */
export class Lost extends Error {
  /** @param {import("./line.js").Loss} loss */
  constructor(loss) {
    super(loss.error?.message);
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
 * @typedef {object} Request
 * @property {string} url
 * @property {typeof globalThis.fetch} fetch
 * @property {RequestInit} init
 * @property {AbortSignal} signal ends it
 * @property {number} patienceMs until the answer begins
 * @property {number} pieceMs the time that each piece of the body gives it anew
 * @property {() => void} moved a piece has come
 * @property {() => Error} late why it is given up if nothing comes in time
 */

/**
 * Asks, and uses the answer. Behind `use` nothing of it goes on, whatever it has left unread.
 *
 * @template T
 * @param {Request} request
 * @param {(answer: Answer) => Promise<T>} use
 * @returns {Promise<T>}
 */
export const exchange = async ({ url, fetch, init, signal, patienceMs, pieceMs, moved, late }, use) => {
  const stop = new AbortController();
  /** @type {unknown} */
  let failure;
  /** Ends the wait that is under way. @type {(error: unknown) => void} */
  let giveUp = () => {};
  const end = (/** @type {unknown} */ error) => {
    failure = error;
    giveUp(error);
    // Not before: what a `fetch` says of being aborted is not the reason. And one that does not heed it is not waited for.
    stop.abort();
  };
  /** @type {Wait} */
  const wait = (promise) =>
    new Promise((resolve, reject) => {
      giveUp = reject;
      promise.then(resolve, reject);
      if (failure) reject(failure);
    });
  const stopped = () => end(new Error("stopped"));
  const deadline = new Deadline(patienceMs + (showsNothing(fetch) ? unseenMs(PAGE_BYTES) : 0), () => end(late()));
  signal.addEventListener("abort", stopped);
  if (signal.aborted) stopped();
  try {
    if (failure) throw failure;
    const response = await wait(send(fetch, url, { ...init, signal: stop.signal }));
    if (response.body === undefined) withoutStreams.add(fetch);
    const allow = (/** @type {number} */ ms) => deadline.set(ms);
    return await use(new Answer(response, { wait, allow, moved, pieceMs }));
  } finally {
    signal.removeEventListener("abort", stopped);
    deadline.clear();
    stop.abort();
  }
};

/** @typedef {<T>(promise: Promise<T>) => Promise<T>} Wait */

export class Answer {
  #pieceMs = 0;
  #response;
  #wait;
  #allow;
  #moved;

  /**
   * @param {Response} response
   * @param {{ wait: Wait, allow: (ms: number) => void, moved: () => void, pieceMs: number }} watch
   */
  constructor(response, { wait, allow, moved, pieceMs }) {
    this.#response = response;
    this.#wait = wait;
    this.#allow = allow;
    this.#moved = moved;
    this.allow(pieceMs);
  }

  get ok() {
    return this.#response.ok;
  }

  get status() {
    return this.#response.status;
  }

  /** @param {string} name */
  header(name) {
    return this.#response.headers.get(name) ?? "";
  }

  /** Whether the body is seen while it comes. */
  get streams() {
    // Without the standard's streams it is missing, or something else.
    return !!this.#response.body?.getReader && !!globalThis.TextDecoder;
  }

  /** From now on each piece gives so much time anew, and so does this one; 0: none does. */
  allow(/** @type {number} */ pieceMs) {
    this.#pieceMs = pieceMs;
    if (pieceMs) this.#allow(pieceMs);
  }

  /** The whole body. */
  async text() {
    let text = "";
    for await (const piece of this.#pieces()) {
      text += piece;
      if (text.length > MOST_CHARS * 2) throw lost("lost", "an answer without an end");
    }
    return text;
  }

  /** The lines of the body as they come. */
  async *lines() {
    let rest = "";
    for await (const piece of this.#pieces()) {
      const lines = piece.split("\n");
      lines[0] = rest + lines[0];
      rest = lines.pop() ?? "";
      if (rest.length > MOST_CHARS) throw lost("lost", "a line without an end");
      for (const line of lines) yield line.endsWith("\r") ? line.slice(0, -1) : line;
    }
    if (rest) yield rest;
  }

  async *#pieces() {
    const { body } = this.#response;
    if (!body || !this.streams) {
      this.#allow(this.#pieceMs + unseenMs(PAGE_BYTES));
      yield await this.#wait(this.#response.text());
      this.#moved();
      return;
    }
    const reader = body.getReader();
    const decoder = new TextDecoder();
    try {
      for (;;) {
        const { done, value } = await this.#wait(reader.read());
        this.allow(this.#pieceMs);
        this.#moved();
        yield decoder.decode(value, { stream: !done });
        if (done) return;
      }
    } finally {
      // It is read to its end, or nobody wants the rest. One that has failed says so once more.
      reader.cancel().catch(() => {});
    }
  }
}

/** Each `fetch` that answers when the whole body is there, and shows nothing of it before. @type {WeakSet<typeof fetch>} */
const withoutStreams = new WeakSet();

/** @param {typeof globalThis.fetch} fetch */
const showsNothing = (fetch) =>
  withoutStreams.has(fetch) || (fetch === globalThis.fetch && !("body" in globalThis.Response.prototype));

/** Each `fetch` that throws when it is told not to cache, as workerd's does. @type {WeakSet<typeof fetch>} */
const withoutCache = new WeakSet();

/**
 * @param {typeof globalThis.fetch} fetch
 * @param {string} url
 * @param {RequestInit} init
 * @returns {Promise<Response>}
 */
const send = async (fetch, url, init) => {
  if (!withoutCache.has(fetch)) {
    try {
      return await fetch(url, { ...init, cache: "no-store" });
    } catch (error) {
      if (!/\bcache\b/i.test(String(error)) || init.signal?.aborted) throw error;
      withoutCache.add(fetch);
    }
  }
  return fetch(url, init);
};

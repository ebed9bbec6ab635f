// @ts-check
// Publishes over `POST /v1/messages`, one request at a time, for the order. Owns what goes in a request, and which message an
// answer is for. How many messages may be unanswered is the outbox's business: all that it has given goes in the next request.

import { lengthOf } from "./bytes.js";
import { now } from "./clock.js";
import { Lost, lost } from "./exchange.js";

// Hark answers a batch of this size when it is there, and keeps the connection.
const MOST_BYTES = 1 << 20;
// A line that breaks before a large request is through takes small ones: found out by halves, down to this.
const LEAST_BYTES = 1 << 14;
// A request that took longer was large enough.
const SLOW_MS = 20_000;

/** How large a request may be, by what got through lately. @type {WeakMap<typeof fetch, number>} */
const mostBytes = new WeakMap();

/** @typedef {{ id: number, text: string }} Message */

export class Publisher {
  #line;
  /** As many as the outbox lets be unanswered, at most. @type {Message[]} */
  #waiting = [];
  /** A request is under way. @type {AbortController | undefined} */
  #stop;
  /** What something in between takes: a batch is never too large for Hark. */
  #foreignMost = MOST_BYTES;
  #isOver = false;

  /** @param {import("./http.js").HttpLine} line */
  constructor(line) {
    this.#line = line;
  }

  get isIdle() {
    return !this.#stop;
  }

  /** @param {Message} message */
  publish(message) {
    this.#waiting.push(message);
    if (!this.#stop) this.#line.guard(() => this.#publishAll());
  }

  /** What is under way is sent again: its connection went with the network. */
  again() {
    this.#stop?.abort();
  }

  close() {
    this.#isOver = true;
    this.#stop?.abort();
  }

  async #publishAll() {
    this.#stop = new AbortController();
    // What is published in the same turn goes in the same request.
    await undefined;
    while (this.#waiting.length && !this.#isOver) {
      this.#stop = new AbortController();
      const batch = this.#nextBatch();
      /** What has no answer yet. */
      const open = new Map(batch.map((message) => [message.id, message]));
      const isAgain = await this.#post(batch, open, this.#stop.signal);
      if (isAgain) this.#waiting.unshift(...open.values());
    }
    this.#stop = undefined;
  }

  /** As many as a request may hold, though always one. */
  #nextBatch() {
    let count = 0;
    for (let bytes = 0; count < this.#waiting.length; count++) {
      bytes += lengthOf(this.#waiting[count].text) + 1;
      if (count && bytes > this.#most) break;
    }
    return this.#waiting.splice(0, count);
  }

  get #most() {
    return Math.min(mostBytes.get(this.#line.fetch) ?? MOST_BYTES, this.#foreignMost);
  }

  set #most(bytes) {
    mostBytes.set(this.#line.fetch, Math.min(Math.max(bytes, LEAST_BYTES), MOST_BYTES));
  }

  /**
   * Whether what is open is to be sent again.
   *
   * @param {Message[]} batch
   * @param {Map<number, Message>} open
   * @param {AbortSignal} signal
   */
  async #post(batch, open, signal) {
    const body = batch.map(({ text }) => text).join("\n");
    const bytes = lengthOf(body);
    const began = now();
    let status = 0;
    const use = async (/** @type {import("./exchange.js").Answer} */ answer) => {
        status = answer.status;
        if (answer.status === 413 && batch.length > 1) {
          this.#foreignMost = bytes / 2;
          return true;
        }
        const refusal = !answer.ok && (await this.#line.refusalOf(answer));
        if (refusal) for (const { id } of batch) this.#line.tell({ ...refusal, type: "error", id });
        else await this.#hearAll(answer, open);
        // What is far from the bound says nothing about it.
        if (bytes > this.#most / 2) this.#most *= now() - began > SLOW_MS ? 1 / 2 : 2;
        return false;
    };
    try {
      return await this.#line.post(body, bytes, signal, use);
    } catch (error) {
      if (signal.aborted) return true;
      if (open.size === batch.length && bytes > LEAST_BYTES) this.#most = bytes / 2;
      // Hark, or what is before it, says that it could not be taken just now.
      if (status === 401 || status === 429 || status >= 500) throw error;
      const { loss } = error instanceof Lost ? error : lost("lost", `a publish broke off: ${error}`);
      // Perhaps it is this request alone that does not come through.
      if (!(error instanceof Lost)) await this.#line.makeSure();
      throw new Lost({ ...loss, unanswered: [...open.keys()] });
    }
  }

  /**
   * @param {import("./exchange.js").Answer} answer
   * @param {Map<number, Message>} open
   */
  async #hearAll(answer, open) {
    /** Of no message, so none is answered by it. @type {any} */
    let refusal;
    for await (const line of answer.lines()) {
      const frame = line && this.#line.parse(line);
      if (!frame) continue;
      const type = frame.code ? "error" : frame.receipts ? "published_all" : "published";
      if (open.delete(frame.id)) this.#line.tell({ ...frame, type });
      else if (frame.code) refusal = frame;
    }
    if (!open.size) return;
    const { code = "lost", message = "not every message was answered" } = refusal ?? {};
    throw lost(code, message, { refused: code === "unauthenticated", unusable: !this.#line.isOpen });
  }
}

// @ts-check
// Whether a WebSocket still holds. Owns when it is asked (a `ping`: a page cannot see WebSocket's own), how long the answer may take,
// and that a verdict which comes late is not spoken; leaves to websocket.js what is sent, and what a dead line means.
//
//   quiet ── a heartbeat of silence, a command unanswered for 5 s, a jump of the clock, somebody asks ──► asked
//     ▲                                                                                                     │
//     ├─────────────────────────────────── something is heard ◄─────────────────────────────────────────────┤
//     │                                                               3 s without a byte that moved: dead ◄─┘
//
// Longer where much was said: 4 KiB a second for what may still be in the kernel.

import { elapsedSince, mark, now } from "./clock.js";
import { unseenMs } from "./exchange.js";
import { ANSWER_WITHIN_MS, ASK_WHEN_UNANSWERED_FOR_MS } from "./figures.js";
import { HEARTBEAT_MS } from "./line.js";
import { later } from "./timer.js";

// What came while the machine slept, or the page was frozen, may be unread yet: silence says nothing then.
const LATE_MS = ANSWER_WITHIN_MS / 2;
// Nobody tells a page when the last byte has left it.
const LOOK_MS = 250;
// So long may what has left be on its way, at most.
const MOST_UNSEEN_MS = 60_000;

export class Pulse {
  heartbeatMs = HEARTBEAT_MS;
  #ask;
  #countLeft;
  #die;
  #heardAt = now();
  #askedAt = 0;
  #isAsked = false;
  /** Since it was asked: when a byte moved last, and how many had not left yet. */
  #movedAt = 0;
  #left = 0;
  /** Bytes that were said since something was heard last. Those that have left may still be in the kernel, which tells a page nothing. */
  #said = 0;
  /** A late verdict has become another question. Only once: a clock that always runs late would keep a dead line for ever. */
  #isDoubted = false;
  /** When each command was said that has no answer, the oldest first. @type {Map<number, number>} */
  #unanswered = new Map();
  #plan = { from: mark(), ms: 0 };
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /**
   * @param {() => void} ask
   * @param {() => number} countLeft bytes that were said and have not left yet
   * @param {(reason: string) => void} die
   */
  constructor(ask, countLeft, die) {
    this.#ask = ask;
    this.#countLeft = countLeft;
    this.#die = die;
  }

  start() {
    this.#heardAt = now();
    this.#lookLater();
  }

  stop() {
    clearTimeout(this.#timer);
  }

  /** @param {number} [id] of the command that it answers */
  heard(id) {
    this.#heardAt = now();
    this.#said = 0;
    this.#isAsked = this.#isDoubted = false;
    if (id !== undefined) this.#unanswered.delete(id);
  }

  /**
   * Says something, which moves no byte by being said.
   *
   * @param {() => void} send
   * @param {number} bytes
   * @param {number} [id] of a command: it is to be answered
   */
  say(send, bytes, id) {
    this.#watch();
    send();
    this.#said += bytes;
    this.#left = this.#countLeft();
    if (id !== undefined) this.#unanswered.set(id, now());
  }

  ask() {
    this.#isAsked = true;
    this.#ask();
    this.#askedAt = this.#movedAt = now();
    this.#lookLater();
  }

  #watch() {
    const left = this.#countLeft();
    if (left < this.#left) this.#movedAt = now();
    this.#left = left;
  }

  #look() {
    const isLate = elapsedSince(this.#plan.from) > this.#plan.ms + LATE_MS;
    this.#watch();
    if (!this.#isAsked) {
      if (isLate || now() >= this.#dueAt()) return this.ask();
    } else if (isLate && !this.#isDoubted) {
      this.#isDoubted = true;
      return this.ask();
    } else if (now() >= this.#dueAt()) {
      return this.#die(`nothing heard for ${Math.round(now() - this.#heardAt)} ms, nor any byte that moved`);
    }
    this.#lookLater();
  }

  /** Of a question: when it is too late for an answer. Else: when there is one to ask. */
  #dueAt() {
    // The answer's time begins when nothing is left; what does not leave at all has a heartbeat for that.
    const unseen = Math.min(unseenMs(this.#said), MOST_UNSEEN_MS);
    if (this.#isAsked) return this.#movedAt + (this.#left ? this.heartbeatMs : ANSWER_WITHIN_MS + unseen);
    const [oldest = Infinity] = this.#unanswered.values();
    return Math.min(this.#heardAt + this.heartbeatMs, Math.max(oldest, this.#askedAt) + ASK_WHEN_UNANSWERED_FOR_MS);
  }

  #lookLater() {
    clearTimeout(this.#timer);
    // No later than the first thing that may be due if a command is said meanwhile; so a sleep is noticed soon, too.
    const ms = Math.min(this.#dueAt() - now(), this.#isAsked && this.#left ? LOOK_MS : ASK_WHEN_UNANSWERED_FOR_MS);
    this.#plan = { from: mark(), ms };
    this.#timer = later(ms, () => this.#look());
  }
}

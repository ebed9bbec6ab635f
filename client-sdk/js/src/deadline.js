// @ts-check
// A deadline that every sign of life puts off. Owns that a verdict which comes late is not spoken (the machine slept, and what
// has come meanwhile is unread yet): it asks for a little more time first.

import { now } from "./clock.js";
import { ANSWER_WITHIN_MS } from "./figures.js";
import { later } from "./timer.js";

// So late does no timer run, but after a sleep or a freeze.
const LATE_MS = 2000;
export class Deadline {
  #expire;
  #at = 0;
  /** A late verdict was put off. Only once: timers that always run late would keep what is dead for ever. */
  #isDoubted = false;
  /** When the timer looks. */
  #looksAt = Infinity;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /**
   * @param {number} ms
   * @param {() => void} expire
   */
  constructor(ms, expire) {
    this.#expire = expire;
    this.set(ms);
  }

  /** So long from now on. One that is put off needs no new timer: a body has many pieces. */
  set(/** @type {number} */ ms) {
    this.#at = now() + ms;
    this.#isDoubted = false;
    if (this.#at < this.#looksAt) this.#look();
  }

  clear() {
    clearTimeout(this.#timer);
  }

  #look() {
    clearTimeout(this.#timer);
    this.#looksAt = this.#at;
    this.#timer = later(this.#at - now(), () => {
      if (now() - this.#at > LATE_MS && !this.#isDoubted) {
        this.#isDoubted = true;
        this.#at = now() + ANSWER_WITHIN_MS;
      }
      if (now() < this.#at) this.#look();
      else this.#expire();
    });
  }
}

// @ts-check
// A deadline that every sign of life puts off. Owns that a verdict which comes late is not spoken (the machine slept, and what has come meanwhile is
// unread yet): it asks for a little more time first.

import { now } from "./clock.js";
import { later } from "./timer.js";

// So late does no timer run, but after a sleep or a freeze.
const LATE_MS = 2000;
/** How long an answer may take from somebody who was asked. */
export const ANSWER_WITHIN_MS = 3000;

export class Deadline {
  #expire;
  #at = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /**
   * @param {number} ms
   * @param {() => void} expire
   */
  constructor(ms, expire) {
    this.#expire = expire;
    this.extend(ms);
    this.#arm();
  }

  /** At least so long from now on. No timer is set for it: a body has many pieces. */
  extend(/** @type {number} */ ms) {
    this.#at = Math.max(this.#at, now() + ms);
  }

  clear() {
    clearTimeout(this.#timer);
  }

  #arm() {
    this.#timer = later(this.#at - now(), () => {
      if (now() - this.#at > LATE_MS) this.extend(ANSWER_WITHIN_MS);
      if (now() < this.#at) this.#arm();
      else this.#expire();
    });
  }
}

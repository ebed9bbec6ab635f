// @ts-check
// Whether a line is useful, not only open: something still came so long after the first answer that it brought. Owns that alone; what
// follows from it is the connection's.

import { PROOF_MS } from "./figures.js";
import { later } from "./timer.js";

export class Proof {
  isGiven = false;
  /** A command was said: a `pong` alone proves nothing any more. */
  isBusy = false;
  #ask;
  #given;
  #isDue = false;
  /** Runs since the first answer. @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /**
   * @param {() => void} ask asks for a sign of life
   * @param {() => void} given
   */
  constructor(ask, given) {
    this.#ask = ask;
    this.#given = given;
  }

  /** @param {string} [type] of the frame, if it was one */
  heard(type = "") {
    if (this.isGiven) return;
    if (this.#isDue) {
      this.isGiven = true;
      this.#given();
    } else if (/^(subscribed|published)/.test(type) || (type === "pong" && !this.isBusy)) {
      // What comes no more behind its first answer has not served: so it has to be asked for.
      this.#timer ??= later(PROOF_MS, () => {
        this.#isDue = true;
        this.#ask();
      });
    }
  }

  stop() {
    clearTimeout(this.#timer);
  }
}

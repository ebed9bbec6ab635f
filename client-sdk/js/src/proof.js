// @ts-check
// Whether a line is useful, not only open: something still came so long after the first answer that it brought. Owns that alone; what
// follows from it is the connection's.

import { now } from "./clock.js";
import { PROOF_MS } from "./figures.js";
import { later } from "./timer.js";

const ANSWERS = ["subscribed", "published", "published_all"];

export class Proof {
  isGiven = false;
  /** A command was said: a `pong` alone proves nothing any more. */
  isBusy = false;
  #ask;
  #given;
  #since = NaN;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /**
   * @param {() => void} ask asks for a sign of life
   * @param {() => void} given
   */
  constructor(ask, given) {
    this.#ask = ask;
    this.#given = given;
  }

  said() {
    this.isBusy = true;
  }

  /** @param {string} [type] of the frame, if it was one */
  heard(type = "") {
    if (this.isGiven) return;
    // Lines on which nothing comes behind the first answer have not served: so it has to be asked for.
    if (!(this.#since > 0) && (ANSWERS.includes(type) || (type === "pong" && !this.isBusy))) {
      this.#since = now();
      this.#timer = later(PROOF_MS, this.#ask);
    }
    if (now() - this.#since < PROOF_MS || !(this.#since > 0)) return;
    this.isGiven = true;
    this.#given();
  }

  stop() {
    clearTimeout(this.#timer);
  }
}

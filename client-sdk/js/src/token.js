// @ts-check
// The application's token, for the connection or for one topic. Owns that its callback is not called while a call is waited for (who asks meanwhile gets the same answer, unless a
// token was refused: that may be what the call brings), and that one which never answers is given up: the next call may find it still
// running.

import { HarkError } from "./errors.js";
import { within } from "./timer.js";

/** @typedef {import("../hark").TokenReason} TokenReason */

export class Tokens {
  #source;
  #patienceMs;
  /** @type {Promise<string | undefined> | undefined} */
  #flight;
  /** What the call was made for. @type {TokenReason | undefined} */
  #reason;

  /**
   * @param {string | ((reason: TokenReason) => string | undefined | Promise<string | undefined>) | undefined} source
   * @param {number} patienceMs how long the callback may take
   */
  constructor(source, patienceMs) {
    this.#source = source;
    this.#patienceMs = patienceMs;
  }

  /** The token that does not change, if that is what there is. */
  get fixed() {
    return typeof this.#source === "function" ? undefined : this.#source;
  }

  /** Whether asking again may bring another token. */
  get changes() {
    return typeof this.#source === "function";
  }

  /**
   * @param {TokenReason} reason
   * @returns {Promise<string | undefined>}
   */
  get(reason) {
    const source = this.#source;
    if (typeof source !== "function") return Promise.resolve(source);
    const flight = this.#flight;
    if (flight && reason === "refused" && this.#reason !== reason) {
      const again = () => this.get(reason);
      return flight.then(again, again);
    }
    if (flight) return flight;
    this.#reason = reason;
    const ms = this.#patienceMs;
    const late = () => new HarkError("no_token", `the token function gave nothing within ${ms} ms`);
    // `async`, so that a callback that throws rejects.
    const ask = async () => source(reason);
    return (this.#flight = within(ask(), ms, late).finally(() => (this.#flight = undefined)));
  }
}

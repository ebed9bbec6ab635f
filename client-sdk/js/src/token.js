// @ts-check
// The application's token. Owns that its callback never runs twice at the same time: who asks meanwhile gets the same answer.

/** @typedef {import("../hark").TokenReason} TokenReason */

export class Tokens {
  #source;
  /** @type {Promise<string | undefined> | undefined} */
  #flight;

  /** @param {import("../hark").Options["token"]} source */
  constructor(source) {
    this.#source = source;
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
    // `async`, so that a callback that throws rejects.
    return (this.#flight ??= (async () => source(reason))().finally(() => (this.#flight = undefined)));
  }
}

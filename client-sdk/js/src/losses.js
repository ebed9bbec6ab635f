// @ts-check
// How often in a row connections were lost over one thing: a message of ours that gets no receipt, or one of Hark's behind a cursor.
// Owns when that is too often ("A message that does not come through" in protocol/README.md).

import { LOSSES_BEFORE_STUCK } from "./figures.js";

/**
 * How a connection was lost.
 *
 * @typedef {object} Loss
 * @property {boolean} proven it had proven itself
 * @property {boolean} [saysNothing] Hark was not heard by it, or it was given up: that counts neither for nor against anything
 * @property {number[]} [unanswered] by HTTP: the messages of a request without a receipt, which was the cause. Streams that live
 *   beside it say nothing about them
 * @property {string} transport
 * @property {string[]} transports all that the client may use, and that can be had
 */

export class Losses {
  /** @type {Map<string, number>} */
  #counts = new Map();
  #tries = 0;

  /**
   * @param {Loss} loss
   * @returns {number} how many these are on its transport
   */
  add({ transport, transports, unanswered }) {
    this.#tries++;
    // A request that publishes is the same whatever the streams beside it are.
    const same = unanswered ? transports.filter((other) => other !== "websocket") : [transport];
    for (const name of same) this.#counts.set(name, this.#countOf(name) + 1);
    return this.#countOf(transport);
  }

  /** On all transports. */
  get tries() {
    return this.#tries;
  }

  /** @param {Loss} loss the last one */
  areTooMany({ transports }) {
    return transports.every((transport) => this.#countOf(transport) >= LOSSES_BEFORE_STUCK);
  }

  /** @param {string} transport */
  #countOf(transport) {
    return this.#counts.get(transport) ?? 0;
  }
}

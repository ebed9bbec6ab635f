// @ts-check
// How often in a row connections were lost over one thing: a message of ours that gets no receipt, or one of Hark's behind a cursor.
// Owns when that is too often ("A message that does not come through" in protocol/README.md).

import { LOSSES_BEFORE_STUCK } from "./figures.js";

/**
 * How a connection was lost.
 *
 * @typedef {object} Loss
 * @property {boolean} proven it had proven itself
 * @property {string} transport
 * @property {string[]} transports all that the client may use
 */

export class Losses {
  /** @type {Map<string, number>} */
  #counts = new Map();

  /**
   * @param {Loss} loss
   * @returns {number} how many these are on its transport
   */
  add({ transport }) {
    const count = (this.#counts.get(transport) ?? 0) + 1;
    this.#counts.set(transport, count);
    return count;
  }

  /** On all transports. */
  get tries() {
    return [...this.#counts.values()].reduce((sum, count) => sum + count, 0);
  }

  /** @param {Loss} loss the last one */
  areTooMany({ transports }) {
    return transports.every((transport) => (this.#counts.get(transport) ?? 0) >= LOSSES_BEFORE_STUCK);
  }
}

// @ts-check
// Cursors in an application's store. Owns that saves to it are made one after the other with the newest cursor last, also those of
// several subscriptions, that one which has ended does not write over what its successor has saved, and that a store which never answers
// holds up nothing for ever: after a while it is as if it had failed. Should it come to its end later, what it may have written over is
// saved once more.

import { report } from "./emitter.js";
import { HarkError } from "./errors.js";
import { within } from "./timer.js";

// Longer than any store that works takes, and shorter than a page is looked at that shows nothing.
const PATIENCE_MS = 10_000;

/** @typedef {import("../hark").CursorStore} CursorStore */

/** @type {WeakMap<CursorStore, Place>} */
const places = new WeakMap();

export class Place {
  /** Whose cursors count: the newest subscription that uses the store. @type {object | undefined} */
  owner;
  #store;
  #stored = "";
  #cursor = "";
  /** @type {Promise<void> | undefined} */
  #saving;

  /**
   * The one place of a store.
   *
   * @param {CursorStore} store
   */
  static of(store) {
    const place = places.get(store) ?? new Place(store);
    places.set(store, place);
    return place;
  }

  /** @param {CursorStore} store */
  constructor(store) {
    this.#store = store;
  }

  /** What is stored, or its promise: an earlier subscription's cursor may be on its way there, and another behind it. */
  load() {
    return this.#saving ? this.#saving.then(() => this.#saving).then(() => this.#load()) : this.#load();
  }

  #load() {
    this.#stored = "";
    return inTime("load", this.#store.load());
  }

  /** @param {string} cursor */
  save(cursor) {
    this.#cursor = cursor;
    if (!this.#saving) this.#save();
  }

  #save() {
    while (this.#cursor !== this.#stored) {
      const cursor = (this.#stored = this.#cursor);
      try {
        const given = /** @type {any} */ (this.#store.save(cursor));
        const saved = inTime("save", given);
        // Of a store that has it at once, the next one is not put off.
        if (typeof saved?.then !== "function") continue;
        const failed = (/** @type {any} */ error) => {
          report(error);
          const again = () => this.#saveAgain(cursor);
          if (error?.code === "store_late") given.then(again, again);
        };
        this.#saving = saved.then(() => {}, failed).then(() => {
          this.#saving = undefined;
          this.#save();
        });
        return;
      } catch (error) {
        report(error);
      }
    }
  }

  /** @param {string} late what was saved too late */
  #saveAgain(late) {
    if (this.#cursor === late) return;
    this.#stored = "";
    if (!this.#saving) this.#save();
  }
}

/**
 * What a store has given, or its promise, which is waited for so long.
 *
 * @param {string} what
 * @param {any} given
 */
const inTime = (what, given) => {
  if (typeof given?.then !== "function") return given;
  const late = () => new HarkError("store_late", `a cursor's ${what} was not settled within ${PATIENCE_MS} ms`);
  return within(given, PATIENCE_MS, late);
};

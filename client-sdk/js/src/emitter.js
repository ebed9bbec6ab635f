// @ts-check
// Listeners by event name. Owns that a listener's failure stays its own: it is reported as uncaught, and the client goes on.

/** @typedef {(event: any) => unknown} Listener */

export class Emitter {
  /** @type {Map<string, Set<Listener>>} */
  #listeners = new Map();

  /**
   * @param {string} type
   * @param {Listener} listener
   * @returns {() => void} takes the listener away again
   */
  on(type, listener) {
    const listeners = this.#listeners.get(type) ?? new Set();
    this.#listeners.set(type, listeners.add(listener));
    return () => void listeners.delete(listener);
  }

  /** @param {string} type */
  has(type) {
    return !!this.#listeners.get(type)?.size;
  }

  /**
   * Calls the listeners in turn. A promise when one of them gave a promise; it is fulfilled, never rejected, when all are done.
   *
   * @param {string} type
   * @param {unknown} event
   * @returns {Promise<void> | undefined}
   */
  emit(type, event) {
    /** @type {Promise<void> | undefined} */
    let done;
    for (const listener of [...(this.#listeners.get(type) ?? [])]) {
      const call = () => {
        try {
          const result = /** @type {any} */ (listener(event));
          if (typeof result?.then === "function") return result.then(() => {}, report);
        } catch (error) {
          report(error);
        }
      };
      done = done ? done.then(call) : call();
    }
    return done;
  }
}

/**
 * As if nothing had caught it: a browser tells `window.onerror`, Node ends the process unless it is told otherwise.
 *
 * @param {unknown} error
 */
export const report = (error) =>
  queueMicrotask(() => {
    throw error;
  });

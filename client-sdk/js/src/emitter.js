// @ts-check
// Listeners by event name. Owns that a listener's failure stays its own: it is reported as uncaught, and the client goes on.

/** @typedef {(event: any) => unknown} Listener */

export class Emitter {
  /** One item for each registration: a function may be there twice. @type {Map<string, Set<{ listener: Listener }>>} */
  #listeners = new Map();
  /** What was posted and not yet emitted. @type {[type: string, event: unknown][]} */
  #posted = [];

  /**
   * @param {string} type
   * @param {Listener} listener
   * @returns {() => void} takes this registration away again
   */
  on(type, listener) {
    const listeners = this.#listeners.get(type) ?? new Set();
    const registration = { listener };
    this.#listeners.set(type, listeners.add(registration));
    return () => void listeners.delete(registration);
  }

  /** @param {string} type */
  has(type) {
    return !!this.#listeners.get(type)?.size;
  }

  /** No listener is called any more. */
  clear() {
    for (const listeners of this.#listeners.values()) listeners.clear();
  }

  /**
   * Calls the listeners in turn, none of which waits for another's promise: so each hears of events in their order. A promise when
   * one of them gave a promise; it is fulfilled, never rejected, when all are.
   *
   * @param {string} type
   * @param {unknown} event
   * @returns {Promise<unknown> | undefined}
   */
  emit(type, event) {
    const waits = [];
    const listeners = this.#listeners.get(type) ?? new Set();
    for (const registration of [...listeners]) {
      // One before it may have taken it away.
      if (!listeners.has(registration)) continue;
      try {
        const result = /** @type {any} */ (registration.listener(event));
        if (typeof result?.then === "function") waits.push(result.then(() => {}, report));
      } catch (error) {
        report(error);
      }
    }
    return waits.length ? Promise.all(waits) : undefined;
  }

  /**
   * Emits it behind what was posted before, also when a listener posts.
   *
   * @param {string} type
   * @param {unknown} event
   */
  post(type, event) {
    if (this.#posted.push([type, event]) > 1) return;
    for (; this.#posted.length; this.#posted.shift()) this.emit(...this.#posted[0]);
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

// @ts-check
// A browser gives all pages of an origin six connections to a server that speaks HTTP/1.1. Owns that requests without an end
// (event streams, long-polls) hold four of them at most, so that a publish always finds one, and so does whoever has to poll
// meanwhile. Elsewhere nothing is shared.
//
// Pages count by Web Locks: a stream has one of four places, or waits for one and polls until then, in turn with the others that
// wait. Where there are no Web Locks (a page by plain HTTP) each stream has a place until a request of any page hangs: then all
// pages that hear of it poll for a while.

import { later } from "./timer.js";

const PLACES = 4;
const HANG_MS = 5000;
const CROWDED_MS = 300_000;

/** @typedef {() => void} Release */

/** What the streams of one line know of the others, in this page and in all of its origin. */
export class Sharing {
  #name;
  #crowded;
  /** @type {LockManager | undefined} */
  #locks;
  /** Where there are no locks. @type {BroadcastChannel | undefined} */
  #channel;
  #watches = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #easing;
  /** Called when it is not crowded any more. @type {Set<Release>} */
  #waiting = new Set();

  /**
   * @param {string} base
   * @param {() => void} crowded no stream may go on as it does
   */
  constructor(base, crowded) {
    this.#name = `hark ${base}`;
    this.#crowded = crowded;
    // Node has locks too, and as many connections as it likes.
    if (!globalThis.location) return;
    this.#locks = globalThis.navigator?.locks;
    if (!this.#locks) this.#watch();
  }

  /** @returns {Promise<Release | undefined>} of a place that is free now */
  async take() {
    try {
      for (let n = 1; this.#locks && n <= PLACES; n++) {
        const release = await hold(this.#locks, `${this.#name} ${n}`, { ifAvailable: true });
        if (release) return release;
      }
    } catch {
      // A page in a sandbox has locks that throw.
      this.#locks = undefined;
      this.#watch();
    }
    return this.#locks || this.#easing ? undefined : () => {};
  }

  /**
   * @param {AbortSignal} signal
   * @returns {Promise<Release>} of the first place that gets free
   */
  wait(signal) {
    const locks = this.#locks;
    return new Promise((resolve) => {
      if (!locks) {
        const free = () => resolve(() => {});
        this.#waiting.add(free);
        return signal.addEventListener("abort", () => this.#waiting.delete(free));
      }
      const others = new AbortController();
      signal.addEventListener("abort", () => others.abort());
      for (let n = 1; n <= PLACES; n++) {
        hold(locks, `${this.#name} ${n}`, { signal: others.signal }).then(
          (release) => {
            // Two may come in the same moment.
            if (others.signal.aborted) return release?.();
            others.abort();
            resolve(/** @type {Release} */ (release));
          },
          // Another one came first, or nobody waits any more.
          () => {},
        );
      }
    });
  }

  /**
   * Polls without a place, one of all at a time.
   *
   * @template T
   * @param {AbortSignal} signal
   * @param {() => Promise<T>} poll
   * @returns {Promise<T>}
   */
  turn(signal, poll) {
    return this.#locks ? this.#locks.request(`${this.#name} poll`, { signal }, poll) : poll();
  }

  /**
   * Looks whether a request hangs.
   *
   * @param {number} ms how long an answer may take by itself
   * @returns {() => void} its answer has begun
   */
  request(ms) {
    if (!this.#watches) return () => {};
    const timer = later(HANG_MS + ms, () => {
      this.#channel?.postMessage("crowded");
      this.#crowd();
    });
    return () => clearTimeout(timer);
  }

  close() {
    this.#watches = false;
    this.#channel?.close();
    clearTimeout(this.#easing);
    this.#waiting.clear();
  }

  #watch() {
    if (this.#watches) return;
    this.#watches = true;
    if (!globalThis.BroadcastChannel) return;
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.onmessage = () => this.#crowd();
  }

  #crowd() {
    const isNew = !this.#easing;
    clearTimeout(this.#easing);
    this.#easing = later(CROWDED_MS, () => {
      this.#easing = undefined;
      for (const free of this.#waiting) free();
      this.#waiting.clear();
    });
    if (isNew) this.#crowded();
  }
}

/** A stream's place, which it has or waits for until it leaves. */
export class Place {
  isHeld = false;
  /** It is known whether one was free. */
  known;
  #sharing;
  #came;
  #stop = new AbortController();
  #release = () => {};

  /**
   * @param {Sharing} sharing
   * @param {() => void} came called if it was not there at once
   */
  constructor(sharing, came) {
    this.#sharing = sharing;
    this.#came = came;
    this.known = this.#take();
  }

  leave() {
    this.#stop.abort();
    this.#release();
  }

  async #take() {
    this.#keep(await this.#sharing.take());
    if (!this.isHeld && !this.#stop.signal.aborted) this.#wait();
  }

  async #wait() {
    this.#keep(await this.#sharing.wait(this.#stop.signal));
    if (this.isHeld) this.#came();
  }

  /** @param {Release | undefined} release */
  #keep(release) {
    if (!release) return;
    if (this.#stop.signal.aborted) return release();
    this.isHeld = true;
    this.#release = release;
  }
}

/**
 * @param {LockManager} locks
 * @param {string} name
 * @param {LockOptions} options
 * @returns {Promise<Release | undefined>} nothing: it is not available
 */
const hold = (locks, name, options) =>
  new Promise((resolve, reject) => {
    const held = (/** @type {Lock | null} */ lock) =>
      lock ? new Promise((/** @type {(nothing: void) => void} */ release) => resolve(release)) : resolve(undefined);
    locks.request(name, options, held).catch(reject);
  });

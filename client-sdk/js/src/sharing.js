// @ts-check
// A browser gives all pages of an origin six connections to a server that speaks HTTP/1.1. Owns that requests without an end (event
// streams, long-polls) hold four of them at most, so that a publish always finds one, and so does whoever has to poll meanwhile.
// Elsewhere nothing is shared.
//
// Pages count by Web Locks: a stream has one of four places, or waits for one and polls until then, in turn with the others that
// wait. Where there are no Web Locks (a page by plain HTTP) pages ask each other, and who does not answer is not counted. So when a
// request of any page hangs nevertheless, all pages that hear of it poll for a while.

import { later } from "./timer.js";

const PLACES = 4;
const HANG_MS = 5000;
const CROWDED_MS = 300_000;
// So long do other pages have to say what they hold.
const COUNT_MS = 100;
// A page that crashed does not say that it has left.
const AGAIN_MS = 10_000;

/** @typedef {() => void} Release */
/** @typedef {{ asks?: number, to?: number, held?: number, left?: boolean, crowded?: boolean }} Word what pages tell each other */

/** What the streams of one line know of the others, in this page and in all of its origin. */
export class Sharing {
  #name;
  #crowded;
  /** @type {LockManager | undefined} */
  #locks;
  /** Where there are no locks: pages ask each other, if they can, and requests are watched. @type {BroadcastChannel | undefined} */
  #channel;
  #watches = false;
  /** How many places this line holds. */
  #held = 0;
  /** How many others hold, by the number of the question. @type {Map<number, number>} */
  #counts = new Map();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #easing;
  /** Called when there may be a place. @type {Set<Release>} */
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
    if (this.#locks || this.#easing) return undefined;
    if (!this.#watches) return () => {};
    if ((await this.#countOthers()) + this.#held >= PLACES) return undefined;
    this.#held++;
    return () => {
      this.#held--;
      this.#tell({ left: true });
    };
  }

  /**
   * @param {AbortSignal} signal
   * @returns {Promise<Release>} of the first place that gets free
   */
  wait(signal) {
    return this.#locks ? waitForLock(this.#locks, this.#name, signal) : this.#waitUnlocked(signal);
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
      this.#tell({ crowded: true });
      this.#crowd();
    });
    return () => clearTimeout(timer);
  }

  close() {
    this.#watches = false;
    this.#channel?.close();
    this.#channel = undefined;
    clearTimeout(this.#easing);
  }

  #watch() {
    if (this.#watches) return;
    this.#watches = true;
    if (!globalThis.BroadcastChannel) return;
    try {
      this.#channel = new BroadcastChannel(this.#name);
    } catch {
      // Where storage is not allowed, some browsers have one that throws: as if there were none.
      return;
    }
    this.#channel.onmessage = ({ data }) => this.#hear(data);
  }

  /** @param {Word} word */
  #tell(word) {
    this.#channel?.postMessage(word);
  }

  /** @param {Word} word */
  #hear({ asks, to = 0, held = 0, left, crowded }) {
    const count = this.#counts.get(to);
    if (count !== undefined) this.#counts.set(to, count + held);
    // Who asked before is first.
    if (asks) this.#tell({ to: asks, held: this.#held + this.#counts.size });
    if (left) for (const look of this.#waiting) look();
    if (crowded) this.#crowd();
  }

  async #countOthers() {
    if (!this.#channel) return 0;
    const question = Math.random();
    this.#counts.set(question, 0);
    this.#tell({ asks: question });
    await new Promise((resolve) => later(COUNT_MS, () => resolve(undefined)));
    const count = this.#counts.get(question) ?? 0;
    this.#counts.delete(question);
    return count;
  }

  /**
   * @param {AbortSignal} signal
   * @returns {Promise<Release>}
   */
  #waitUnlocked(signal) {
    return new Promise((resolve) => {
      /** @type {ReturnType<typeof setTimeout>} */
      let timer;
      const look = async () => {
        const release = await this.take();
        if (signal.aborted) release?.();
        else if (!release) lookIn(AGAIN_MS);
        else {
          this.#waiting.delete(soon);
          resolve(release);
        }
      };
      // Not all in the same moment.
      const lookIn = (/** @type {number} */ ms) => {
        clearTimeout(timer);
        timer = later(ms * (0.5 + Math.random() / 2), look);
      };
      const soon = () => lookIn(1000);
      this.#waiting.add(soon);
      lookIn(AGAIN_MS);
      signal.addEventListener("abort", () => {
        clearTimeout(timer);
        this.#waiting.delete(soon);
      });
    });
  }

  #crowd() {
    const isNew = !this.#easing;
    clearTimeout(this.#easing);
    this.#easing = later(CROWDED_MS, () => (this.#easing = undefined));
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

/**
 * @param {LockManager} locks
 * @param {string} name
 * @param {AbortSignal} signal
 * @returns {Promise<Release>}
 */
const waitForLock = (locks, name, signal) =>
  new Promise((resolve) => {
    const others = new AbortController();
    signal.addEventListener("abort", () => others.abort());
    for (let n = 1; n <= PLACES; n++) {
      hold(locks, `${name} ${n}`, { signal: others.signal }).then(
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

// @ts-check
// What the application holds of a subscription: events to iterate over or to be called with, and the cursor of what it has taken.
// Owns when a message counts as taken, and that the cursor is stored only then; how it is stored is store.js's, positions on the wire
// are the inbox's.
//
// A message is taken when the iterator is asked for the next one, or when the callbacks have returned (a promise: when it is
// settled). So a page that dies while it works on a message gets that message again. What is not taken stays queued: nothing is
// given to nobody.

import { Backlog } from "./backlog.js";
import { Emitter, report } from "./emitter.js";
import { SubscribeError } from "./errors.js";
import { bindAll } from "./proxied.js";
import { Place } from "./store.js";

/** @typedef {import("../hark").HarkEvent} HarkEvent */
/** @typedef {import("../hark").CursorStore} CursorStore */
/** @typedef {IteratorResult<HarkEvent, undefined>} Result */
/** @typedef {{ resolve: (result: Result) => void, reject: (error: Error) => void }} Taker */

const DONE = /** @type {Result} */ ({ done: true, value: undefined });

/** @implements {AsyncIterableIterator<HarkEvent, undefined>} */
export class Subscription {
  /** The cursor of what the application has taken. @type {string | undefined} */
  cursor;
  /** @type {Promise<string>} */
  ready;

  #topic;
  #place;
  #hooks;
  #backlog;
  #emitter = new Emitter();
  #calling = false;
  /** The cursor of the event that the iterator gave last. @type {string | undefined} */
  #given;
  /** Calls of `next` that wait. @type {Taker[]} */
  #takers = [];
  /** Nothing follows what is queued. The iterator throws the error once, and the listeners are told once. */
  /** @type {{ error?: Error, isThrown?: boolean, isTold?: boolean } | undefined} */
  #end;
  /** @type {(cursor: string) => void} */
  #isReady = () => {};
  /** @type {(error: Error) => void} */
  #isNotReady = () => {};

  /**
   * @param {string} topic
   * @param {CursorStore | undefined} store
   * @param {{ messages: number, bytes: number }} most
   * @param {{ drained: () => void, left: () => void }} hooks half of a full queue was taken; the application wants no more
   */
  constructor(topic, store, most, hooks) {
    this.#topic = topic;
    this.#place = store && Place.of(store);
    this.#hooks = hooks;
    this.#backlog = new Backlog(most);
    this.ready = new Promise((resolve, reject) => ([this.#isReady, this.#isNotReady] = [resolve, reject]));
    // Whoever does not wait for it has other ways to hear of a failure.
    this.ready.catch(() => {});
    bindAll(this);
  }

  get topic() {
    return this.#topic;
  }

  /**
   * @param {string} type
   * @param {(event: any) => unknown} listener
   */
  on(type, listener) {
    const off = this.#emitter.on(type, listener);
    // Later, so that listeners for other events can be set first.
    queueMicrotask(() => this.#call());
    return off;
  }

  close() {
    this.finish();
    this.#hooks.left();
  }

  /** @returns {Promise<Result>} */
  next() {
    if (this.#given) this.#take(this.#given);
    this.#given = undefined;
    return new Promise((resolve, reject) => {
      this.#takers.push({ resolve, reject });
      this.#give();
    });
  }

  /** @returns {Promise<Result>} */
  async return() {
    this.close();
    return DONE;
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  // --- what follows is called by the inbox ---

  /** The cursor that is stored, or its promise, or anything else for none. From now on the store is this one's. */
  load() {
    if (this.#place) this.#place.owner = this;
    return this.#place?.load();
  }

  get isFull() {
    return this.#backlog.isFull;
  }

  /**
   * Where delivery starts.
   *
   * @param {string} cursor
   */
  begin(cursor) {
    this.#take(cursor);
    this.#isReady(cursor);
  }

  /**
   * @param {HarkEvent} event
   * @param {number} size
   */
  push(event, size) {
    if (this.#end) return;
    this.#backlog.push(event, size);
    this.#give();
    this.#call();
  }

  /** @param {Error} [error] none: the application ended it, and hears no more of it */
  finish(error) {
    if (this.#end && error) return;
    this.#end = { error };
    if (!error) {
      this.#backlog.clear();
      this.#emitter.clear();
    }
    this.#isNotReady(error ?? new SubscribeError("closed", "the subscription was closed", this.#topic));
    this.#give();
    this.#call();
  }

  // --- inner ---

  #give() {
    while (this.#takers.length && (this.#backlog.length || this.#end)) {
      const { resolve, reject } = /** @type {Taker} */ (this.#takers.shift());
      if (this.#backlog.length) {
        const event = this.#backlog.take();
        this.#given = event.cursor;
        resolve({ done: false, value: event });
        this.#drained();
      } else if (this.#end?.error && !this.#end.isThrown) {
        this.#end.isThrown = true;
        reject(this.#end.error);
      } else {
        resolve(DONE);
      }
    }
  }

  /** Calls the callbacks, one event after the other. Events wait until there is a callback for messages; an error does not. */
  async #call() {
    if (this.#calling) return;
    this.#calling = true;
    while (this.#backlog.length && this.#emitter.has("message")) {
      const event = this.#backlog.take();
      const done = this.#emitter.emit(event.type, event);
      if (done) await done;
      this.#take(event.cursor);
      this.#drained();
    }
    this.#calling = false;
    const end = this.#end;
    const isHeard = this.#emitter.has("error");
    if (!end?.error || end.isTold || !(isHeard || this.#emitter.has("message"))) return;
    end.isTold = true;
    if (isHeard) this.#emitter.emit("error", end.error);
    else report(end.error);
  }

  #drained() {
    if (this.#backlog.isHalfEmpty) this.#hooks.drained();
  }

  /** @param {string} cursor */
  #take(cursor) {
    this.cursor = cursor;
    const place = this.#place;
    // One that has ended may still say what its callbacks have done, unless another has gone on from there.
    if (place && (!this.#end || place.owner === this)) place.save(cursor);
  }
}

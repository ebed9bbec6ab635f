// @ts-check
// The events of one subscription that wait for the application to take them. Bound: so many events and characters (one event
// may go over). Owns the bound; what happens when it is reached is the inbox's.

export class Backlog {
  /** @type {[event: any, size: number][]} */
  #items = [];
  #size = 0;
  #most;

  /** @param {{ messages: number, bytes: number }} most */
  constructor(most) {
    this.#most = most;
  }

  get length() {
    return this.#items.length;
  }

  get isFull() {
    return this.length >= this.#most.messages || this.#size >= this.#most.bytes;
  }

  get isHalfEmpty() {
    return this.length * 2 <= this.#most.messages && this.#size * 2 <= this.#most.bytes;
  }

  /**
   * @param {any} event
   * @param {number} size
   */
  push(event, size) {
    this.#items.push([event, size]);
    this.#size += size;
  }

  take() {
    const [event, size] = /** @type {[any, number]} */ (this.#items.shift());
    this.#size -= size;
    return event;
  }

  clear() {
    this.#items = [];
    this.#size = 0;
  }
}

// @ts-check
// What the application holds. Owns how frames go between the connection, the outbox and the inbox, and the ids they carry.

import { isLarger, toBase64 } from "./bytes.js";
import { Connection } from "./connection.js";
import { isCursor } from "./cursor.js";
import { Emitter, report } from "./emitter.js";
import { HarkError, PublishError } from "./errors.js";
import { Inbox } from "./inbox.js";
import { settle } from "./options.js";
import { Outbox } from "./outbox.js";
import { Subscription } from "./subscription.js";

/** @typedef {import("../hark").Hark} Hark */

/** @implements {Hark} */
export class Client {
  #options;
  #connection;
  #outbox;
  #inbox;
  #emitter = new Emitter();
  #lastId = 0;
  /** Until Hark has said. */
  #limits = { frameBytes: 1 << 20, inFlight: 1024 };
  /** Sent first, in case there is nothing else to be answered. */
  #greeting = 0;
  #isOpen = false;
  /** @type {HarkError | undefined} */
  #ended;

  /** @param {import("../hark").Options} options */
  constructor(options) {
    this.#options = settle(options);
    const newId = () => ++this.#lastId;
    this.#outbox = new Outbox(this.#options.window, () => this.#pump());
    this.#inbox = new Inbox((frame) => this.#connection.say(frame), newId);
    this.#connection = new Connection(this.#options, {
      open: () => {
        this.#isOpen = true;
        this.#greeting = newId();
        this.#connection.say({ type: "ping", id: this.#greeting });
        this.#inbox.connected();
        this.#pump();
      },
      hear: (frame, size) => {
        this.#hear(frame, size);
        this.#pump();
      },
      lost: () => {
        this.#isOpen = false;
        this.#outbox.disconnected();
        this.#inbox.disconnected();
      },
      end: (error) => {
        this.#ended = error ?? new HarkError("closed", "the client is closed");
        this.#outbox.end(this.#ended);
        this.#inbox.end(error);
      },
      state: (change) => this.#emitter.emit("state", change),
    });
  }

  get state() {
    return this.#connection.state;
  }

  get transport() {
    return this.#connection.transport;
  }

  /**
   * @param {"state"} type
   * @param {(change: import("../hark").StateChange) => void} listener
   */
  on(type, listener) {
    return this.#emitter.on(type, listener);
  }

  reconnect() {
    this.#connection.reconnect();
  }

  close() {
    this.#connection.close();
  }

  /**
   * @param {string} topic
   * @param {unknown} data
   * @param {import("../hark").PublishOptions} [options]
   * @returns {Promise<import("../hark").Receipt>}
   */
  async publish(topic, data, { headers, contentType, messageId } = {}) {
    topic = String(topic);
    if (this.#ended) throw new PublishError(this.#ended.code, this.#ended.message, topic, false);
    // Written now, so that what the application does with its object later changes nothing.
    let body;
    try {
      body = writeBody(data, { headers, contentType, messageId });
    } catch (error) {
      throw new PublishError("bad_frame", String(error), topic, false);
    }
    if (isLarger(body, this.#limits.frameBytes)) {
      const message = `the message has more than the ${this.#limits.frameBytes} bytes that Hark takes`;
      throw new PublishError("too_large", message, topic, false);
    }
    return this.#outbox.publish(topic, body, messageId !== undefined);
  }

  /**
   * @param {string} name
   * @param {import("../hark").SubscribeOptions} [options]
   * @returns {import("../hark").Subscription}
   */
  subscribe(name, { from = "now", cursor: store } = {}) {
    if (this.#ended) throw this.#ended;
    /** @type {Subscription} */
    const subscription = new Subscription(String(name), store, this.#options.queue, {
      drained: () => this.#inbox.drained(subscription),
      left: () => this.#inbox.unsubscribe(subscription),
    });
    const checked = (/** @type {unknown} */ cursor) => (isCursor(cursor) ? /** @type {string} */ (cursor) : undefined);
    const loaded = store?.load();
    const start = onWire(from);
    if (loaded && typeof loaded !== "string") {
      // Where it cannot be read it is as if there were none.
      this.#inbox.subscribe(
        subscription,
        start,
        loaded.then(checked, (error) => void report(error)),
      );
    } else {
      const cursor = checked(loaded);
      this.#inbox.subscribe(subscription, cursor ? { after: cursor } : start, undefined);
    }
    return subscription;
  }

  #pump() {
    if (!this.#isOpen) return;
    for (;;) {
      const next = this.#outbox.next(() => ++this.#lastId, this.#limits);
      if (!next) return;
      this.#connection.publish(next.id, next.text);
    }
  }

  /**
   * @param {any} frame
   * @param {number} size
   */
  #hear(frame, size) {
    switch (frame.type) {
      case "message":
        return this.#inbox.message(frame, size);
      case "published":
        this.#outbox.published(frame);
        return this.#connection.settle();
      case "subscribed":
        if (this.#inbox.subscribed(frame)) this.#connection.settle();
        return;
      case "unsubscribed":
        return this.#inbox.unsubscribed(frame);
      case "caught_up":
        return this.#inbox.caughtUp(frame);
      case "gap":
        return this.#inbox.gap(frame);
      case "error":
        if (frame.code === "expiring") return void this.#connection.renew();
        if (!this.#inbox.refused(frame)) this.#outbox.refused(frame);
        return;
      case "pong":
        if (frame.id === this.#greeting && !this.#outbox.unanswered && this.#inbox.isEmpty) this.#connection.settle();
        return;
      case "welcome":
        this.#limits = { frameBytes: frame.max_message_bytes, inFlight: frame.max_inflight };
    }
    // What is not known comes of a newer Hark.
  }
}

/**
 * A `publish` frame's fields but for type, id, topic and number.
 *
 * @param {unknown} data
 * @param {import("../hark").PublishOptions} options
 */
export const writeBody = (data, { headers, contentType, messageId }) => {
  const bytes = data instanceof ArrayBuffer ? new Uint8Array(data) : data;
  const fields =
    bytes instanceof Uint8Array
      ? { data_base64: toBase64(bytes), content_type: contentType, headers, message_id: messageId }
      : { data: bytes, headers, message_id: messageId };
  const text = JSON.stringify(fields);
  // Ten frames in a row that Hark cannot read end the connection for good.
  if (Object.values(headers ?? {}).some((value) => typeof value !== "string")) throw new TypeError("headers are texts");
  // A function, `undefined`: JSON leaves it out.
  if (!text.startsWith('{"data')) throw new TypeError("the data is nothing that JSON can say");
  return text.slice(1, -1);
};

/** @param {import("../hark").From} from */
const onWire = (from) =>
  typeof from === "object" && "since" in from && from.since instanceof Date
    ? { since: from.since.toISOString() }
    : from;

// @ts-check
// What the application holds. Owns how frames go between the connection, the outbox and the inbox, and the ids they carry.

import { writeBody } from "./body.js";
import { isLarger } from "./bytes.js";
import { checkTopic, readFrom } from "./checks.js";
import { Connection } from "./connection.js";
import { Emitter } from "./emitter.js";
import { HarkError, PublishError, SubscribeError, tooLarge } from "./errors.js";
import { handOn } from "./heard.js";
import { Inbox } from "./inbox.js";
import { PUBLISH_OPTIONS, SUBSCRIBE_OPTIONS, Unknown, settle } from "./options.js";
import { Outbox } from "./outbox.js";
import { bindAll } from "./proxied.js";
import { Subscription } from "./subscription.js";
import { Tokens } from "./token.js";

/** @typedef {import("../hark").Hark} Hark */

/** Until Hark has said. */
const LIMITS = { frameBytes: 1 << 20, inFlight: 1024, several: true };
// By HTTP there is one request at a time, so that what goes in it is what goes in two or three round trips. The answers to so many may be more
// than Hark holds back, and then the connection ends with them: a new one costs less than the round trips that are saved.
const HTTP_IN_FLIGHT = 5000;
// Before that, no frame that an older Hark, or one with smaller limits, might refuse.
const FIRST_FRAME_BYTES = 1 << 16;

/** @implements {Hark} */
export class Client {
  #options;
  #connection;
  #outbox;
  #inbox;
  #emitter = new Emitter();
  #lastId = 0;
  #limits = { ...LIMITS };
  #isReady = false;
  #isOpen = false;
  /** A frame that waits for `welcome`; and so does what is behind it. @type {{ id: number, text: string } | undefined} */
  #held;
  /** @type {HarkError | undefined} */
  #ended;
  #unknown = new Unknown();

  /** @param {import("../hark").Options} options */
  constructor(options) {
    this.#options = settle(options, this.#unknown);
    const newId = () => ++this.#lastId;
    this.#outbox = new Outbox(this.#options.window, () => this.#pump());
    this.#inbox = new Inbox((frame) => this.#connection.say(frame), newId);
    this.#connection = new Connection(this.#options, {
      ready: (transport) => {
        this.#isReady = true;
        this.#limits = { ...LIMITS };
        this.#inbox.connected(transport === "websocket");
        this.#pump();
      },
      open: (version) => {
        this.#isOpen = true;
        this.#limits.several = takesSeveral(version);
        this.#pump();
      },
      hear: (frame, size) => {
        this.#hear(frame, size);
        this.#pump();
      },
      lost: (loss) => {
        this.#isReady = this.#isOpen = false;
        this.#held = undefined;
        return Math.max(this.#outbox.lost(loss), this.#inbox.lost(loss));
      },
      end: (error) => {
        this.#ended = error ?? new HarkError("closed", "the client is closed");
        this.#outbox.end(this.#ended);
        this.#inbox.end(error);
      },
      state: (change) => this.#emitter.post("state", change),
    });
    bindAll(this);
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
   * @param {string} name
   * @param {unknown} data
   * @param {import("../hark").PublishOptions} [options]
   * @returns {Promise<import("../hark").Receipt>}
   */
  publish(name, data, options = {}) {
    const topic = nameOf(name);
    try {
      checkTopic(name, true);
      return this.#outbox.publish([topic], this.#body(data, options), options.messageId != null)[0];
    } catch (error) {
      return rejected(asPublishError(error, topic));
    }
  }

  /**
   * @param {Iterable<string>} names
   * @param {unknown} data
   * @param {import("../hark").PublishOptions} [options]
   * @returns {Promise<import("../hark").TopicResult[]>}
   */
  publishAll(names, data, options = {}) {
    /** @type {Set<string>} */
    const topics = new Set();
    /** @type {Map<string, PublishError>} */
    const errors = new Map();
    try {
      // A text is a list too, of its characters.
      const list = typeof names === "string" ? undefined : names;
      if (!list?.[Symbol.iterator]) throw new HarkError("bad_topic", "publishAll takes a list of topics");
      for (const name of list) {
        const topic = nameOf(name);
        if (topics.has(topic)) throw new HarkError("bad_frame", `${topic} is named twice`);
        topics.add(topic);
        try {
          checkTopic(name, true);
        } catch (error) {
          errors.set(topic, asPublishError(error, topic));
        }
      }
      const good = [...topics].filter((topic) => !errors.has(topic));
      const receipts = this.#outbox.publish(good, this.#body(data, options), options.messageId != null);
      const results = new Map(good.map((topic, at) => [topic, receipts[at]]));
      return Promise.all(
        [...topics].map(async (topic) => {
          try {
            const error = errors.get(topic);
            if (error) throw error;
            return { topic, .../** @type {import("../hark").Receipt} */ (await results.get(topic)) };
          } catch (error) {
            return { topic, error: /** @type {PublishError} */ (error) };
          }
        }),
      );
    } catch (error) {
      return rejected(asPublishError(error, [...topics].join()));
    }
  }

  /**
   * Written now, so that what the application does with its object later changes nothing.
   *
   * @param {unknown} data
   * @param {import("../hark").PublishOptions} options
   */
  #body(data, options) {
    if (this.#ended) throw this.#ended;
    this.#unknown.warn("publish", options, PUBLISH_OPTIONS);
    const body = writeBody(data, options);
    const { frameBytes } = this.#limits;
    if (isLarger(body, frameBytes)) throw new HarkError("too_large", tooLarge(frameBytes));
    return body;
  }

  /**
   * @param {string} name
   * @param {import("../hark").SubscribeOptions} [options]
   * @returns {import("../hark").Subscription}
   */
  subscribe(name, options = {}) {
    if (this.#ended) throw this.#ended;
    this.#unknown.warn("subscribe", options, SUBSCRIBE_OPTIONS);
    const { from = "now", cursor: store, token } = options;
    const topic = nameOf(name);
    /** @type {Subscription} */
    const subscription = new Subscription(topic, store, this.#options.queue, {
      drained: () => this.#inbox.drained(subscription),
      left: () => this.#inbox.unsubscribe(subscription),
    });
    let start;
    try {
      checkTopic(name, false);
      start = readFrom(from);
    } catch (error) {
      const { code, message } = /** @type {HarkError} */ (error);
      subscription.finish(new SubscribeError(code, message, topic));
      return subscription;
    }
    this.#inbox.subscribe(subscription, start, new Tokens(token, this.#options.patienceMs));
    return subscription;
  }

  #pump() {
    const { frameBytes, several } = this.#limits;
    const isByHttp = (this.transport ?? "websocket") !== "websocket";
    const inFlight = Math.max(this.#limits.inFlight, isByHttp ? HTTP_IN_FLIGHT : 0);
    const limits = { frameBytes, inFlight, several };
    while (this.#isReady) {
      const next = this.#held ?? this.#outbox.next(() => ++this.#lastId, limits);
      if (!next) return;
      const { id, text } = next;
      const isForSeveral = /^{"type":"publish","id":\d+,"topics"/.test(text);
      if (!this.#isOpen && (isForSeveral || isLarger(text, FIRST_FRAME_BYTES))) {
        this.#held = next;
        return;
      }
      this.#held = undefined;
      // It was made when nobody had said so yet.
      if (isLarger(text, frameBytes) || (isForSeveral && !several)) this.#outbox.takeBack(id);
      else this.#connection.publish(id, text);
    }
  }

  /**
   * @param {any} frame
   * @param {number} size
   */
  #hear(frame, size) {
    const { type, code } = frame;
    if (type === "error" && code === "expiring") this.#connection.renew();
    else if (type === "welcome")
      Object.assign(this.#limits, { frameBytes: frame.max_message_bytes, inFlight: frame.max_inflight });
    else handOn(frame, size, this.#inbox, this.#outbox);
  }
}

/**
 * Whether a Hark of that version takes a `publish` to several topics.
 *
 * @param {string} [version]
 */
const takesSeveral = (version = "") => {
  const [, major, minor] = /^(\d+)\.(\d+)\./.exec(version) ?? [];
  return Number(major) > 0 || Number(minor) >= 2;
};

/** What to call a topic in an error: the application may have given anything. */
const nameOf = (/** @type {unknown} */ name) => (typeof name === "string" ? name : "");

/**
 * @param {unknown} error
 * @param {string} topic
 */
const asPublishError = (error, topic) => {
  if (error instanceof PublishError) return error;
  const { code, message } = error instanceof HarkError ? error : new HarkError("bad_frame", String(error));
  return new PublishError(code, message, topic, false);
};

/**
 * Nobody has to look at what fails because the client was closed.
 *
 * @param {PublishError} error
 */
const rejected = (error) => {
  const promise = Promise.reject(error);
  if (error.code === "closed") promise.catch(() => {});
  return promise;
};

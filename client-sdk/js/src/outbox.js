// @ts-check
// The messages that were published and not yet answered, and when each is sent (again). Owns "kept once, in order"; knows no
// connections: it is asked for the next message and told what was answered.
//
// Every topic has a lane: a queue of entries in the order of publishing. A prefix of it, `sent`, has been written to this
// connection and waits for answers; the rest waits for its turn.
//
//   publish ──► waiting ──(next)──► sent ──(published)──► gone, with a receipt
//                  ▲                  │
//                  │ connection lost  │  all lanes, from their first entry
//                  ├──────────────────┤
//                  │ busy & co.       │  this lane, from that entry, after a wait
//                  ├──────────────────┤
//                  │ out_of_sequence  │  this lane, from the number Hark expects, at once the first time
//                  └──────────────────┤
//                                     └──(any other error)──► gone, with the error
//
// The rules, the same as the Rust client's:
//
// 1. A message gets its number (producer and seq) when it is first written, and keeps it.
// 2. Every sending has a fresh id, and going back forgets the ids of everything that is sent again: an answer with a forgotten
//    id is about an earlier sending, and the one after it will be answered too.
// 3. A lost connection sends everything again from the first unanswered entry, before anything new.
// 4. An error that may pass goes back to that entry, after a wait that grows (or after `retry_after_ms`, if that is longer).
// 5. `out_of_sequence`: everything below the expected number is kept, nothing from it on is. If the lane holds that number, go
//    back to it. If not, Hark has forgotten the producer: the entries from there on are counted from 1 under a fresh name. A fresh
//    name, because a number must never mean two messages: an old sending may still be on its way.
// 6. Numbers of two producers say nothing about each other's order: nothing is sent under the fresh name before the entries in
//    front of it are answered (the `fence`).
// 7. Any other error is about that message alone, and the rest of the lane finds its way by rule 5.
// 8. A message with a key has no number that would keep its place. So it is sent when all before it are answered, and those
//    behind it when it is. Hark forgets keys, so it is not sent again later than that: then it fails.

import { draw } from "./backoff.js";
import { isLarger } from "./bytes.js";
import { PublishError, mayPass, tooLarge } from "./errors.js";

// Lanes without entries are kept for their count up to so many, then forgotten: their topics go on under a new producer.
const IDLE_LANES = 10_000;
// Hark stops reading beyond this.
const IN_FLIGHT_BYTES = 1 << 20;
// Hark knows a key again for two minutes; less what a sending may take to get there.
const KEY_MS = 100_000;

/** @typedef {import("../hark").Receipt} Receipt */
/** @typedef {{ frameBytes: number, inFlight: number }} Limits what Hark's `welcome` allows */

/**
 * @typedef {object} Entry
 * @property {string} body the frame's fields but for type, id and topic
 * @property {string} [producer]
 * @property {number} seq 0: not numbered
 * @property {boolean} keyed has a `message_id`, and no number
 * @property {number} id of the last sending
 * @property {number} sendings
 * @property {number} asked when Hark was asked first to keep it
 * @property {(receipt: Receipt) => void} resolve
 * @property {(error: Error) => void} reject
 */

/**
 * @typedef {object} Lane
 * @property {string} topic
 * @property {string} producer
 * @property {number} nextSeq
 * @property {Entry[]} entries
 * @property {number} sent
 * @property {number} fence 0: none
 * @property {number} setbacks since the last receipt
 * @property {ReturnType<typeof setTimeout>} [timer] the lane waits after a setback
 */

// 128 random bits: two clients never draw the same name.
const randomProducer = () =>
  [...crypto.getRandomValues(new Uint8Array(16))].reduce(
    (name, byte) => name + byte.toString(16).padStart(2, "0"),
    "p",
  );

export class Outbox {
  /** @type {Map<string, Lane>} */
  #lanes = new Map();
  /** @type {Map<number, [Lane, Entry]>} the living sendings */
  #inFlight = new Map();
  #inFlightBytes = 0;
  /** @type {Set<Lane>} lanes with something to send, in turn */
  #ready = new Set();
  #producer = randomProducer();
  #window;
  #pump;
  #unanswered = 0;
  #unansweredBytes = 0;

  /**
   * @param {{ messages: number, bytes: number }} window how much may be unanswered
   * @param {() => void} pump there may be something to send
   */
  constructor(window, pump) {
    this.#window = window;
    this.#pump = pump;
  }

  get unanswered() {
    return this.#unanswered;
  }

  /**
   * @param {string} topic
   * @param {string} body
   * @param {boolean} keyed
   * @returns {Promise<Receipt>}
   */
  publish(topic, body, keyed) {
    return new Promise((resolve, reject) => {
      const { messages, bytes } = this.#window;
      const full = this.#unanswered >= messages || this.#unansweredBytes + body.length > bytes;
      if (full && this.#unanswered) {
        throw new PublishError("window_full", `${this.#unanswered} messages wait for their receipts`, topic, false);
      }
      this.#unanswered++;
      this.#unansweredBytes += body.length;
      const lane = this.#lane(topic);
      lane.entries.push({ body, seq: 0, keyed, id: 0, sendings: 0, asked: 0, resolve, reject });
      this.#getReady(lane);
      this.#pump();
    });
  }

  /** @param {string} topic */
  #lane(topic) {
    let lane = this.#lanes.get(topic);
    if (!lane) {
      if (this.#lanes.size >= IDLE_LANES) {
        for (const [name, { entries }] of this.#lanes) if (!entries.length) this.#lanes.delete(name);
        // A topic that was forgotten must not be counted from 1 again under the same name.
        this.#producer = randomProducer();
      }
      const producer = this.#producer;
      lane = { topic, producer, nextSeq: 1, entries: [], sent: 0, fence: 0, setbacks: 0 };
      this.#lanes.set(topic, lane);
    }
    return lane;
  }

  /**
   * The next message to write, if one may be written.
   *
   * @param {() => number} newId
   * @param {Limits} limits
   * @returns {{ id: number, text: string } | undefined}
   */
  next(newId, { frameBytes, inFlight }) {
    while (this.#inFlight.size < inFlight && (!this.#inFlight.size || this.#inFlightBytes < IN_FLIGHT_BYTES)) {
      const [lane] = this.#ready;
      if (!lane) return;
      // To the end of the line, if there is more: lanes take turns.
      this.#ready.delete(lane);
      const entry = lane.entries[lane.sent];
      // It may have been answered, or come to the fence, since it got in line.
      if (!entry || !this.#maySend(lane)) continue;
      entry.asked ||= Date.now();
      if (entry.keyed && Date.now() - entry.asked > KEY_MS) {
        const message = "no receipt for as long as Hark knows a messageId";
        this.#finish(lane, entry, new PublishError("lost", message, lane.topic, true));
        continue;
      }
      const isNew = !entry.seq && !entry.keyed;
      const [producer, seq] = isNew ? [lane.producer, lane.nextSeq] : [entry.producer, entry.seq];
      const id = newId();
      const number = entry.keyed ? "" : `,"producer":"${producer}","seq":${seq}`;
      const text = `{"type":"publish","id":${id},"topic":${JSON.stringify(lane.topic)},${entry.body}${number}}`;
      if (isLarger(text, frameBytes)) {
        this.#finish(lane, entry, new PublishError("too_large", tooLarge(frameBytes), lane.topic, false));
        continue;
      }
      if (isNew) lane.nextSeq++;
      entry.producer = producer;
      entry.seq = seq;
      entry.id = id;
      entry.sendings++;
      lane.sent++;
      this.#inFlight.set(id, [lane, entry]);
      this.#inFlightBytes += entry.body.length;
      this.#getReady(lane);
      return { id, text };
    }
  }

  /** @param {{ id: number, cursor: string, duplicate: boolean }} frame */
  published({ id, cursor, duplicate }) {
    const [lane, entry] = this.#spend(id);
    if (!lane) return;
    lane.setbacks = 0;
    this.#finish(lane, entry, { cursor, duplicate });
  }

  /** @param {{ id: number, code: string, message: string, expected_seq?: number, retry_after_ms?: number }} frame */
  refused({ id, code, message, expected_seq: expected, retry_after_ms: retryAfterMs = 0 }) {
    const [lane, entry] = this.#spend(id);
    if (!lane) return;
    const wait = draw(lane.setbacks);
    if (code === "out_of_sequence" && expected && expected < entry.seq) {
      const isMissing = (/** @type {Entry} */ other) => other.producer === entry.producer && other.seq >= expected;
      const first = lane.entries.findIndex(isMissing);
      if (lane.entries[first].seq !== expected) this.#countAnew(lane, first);
      this.#goBack(lane, first);
      this.#wait(lane, lane.setbacks && wait);
    } else if (mayPass(code)) {
      this.#goBack(lane, lane.entries.indexOf(entry));
      this.#wait(lane, Math.max(wait, retryAfterMs));
    } else {
      this.#finish(lane, entry, new PublishError(code, message, lane.topic, entry.sendings > 1));
    }
  }

  /** The connection is gone. Everything waits for the next one. */
  disconnected() {
    this.#inFlight.clear();
    this.#inFlightBytes = 0;
    for (const lane of this.#lanes.values()) {
      lane.sent = 0;
      lane.setbacks = 0;
      this.#stopWaiting(lane);
      this.#getReady(lane);
    }
  }

  /**
   * The client ends: nobody gets a receipt any more.
   *
   * @param {import("./errors.js").HarkError} error
   */
  end({ code, message }) {
    for (const lane of this.#lanes.values()) {
      this.#stopWaiting(lane);
      for (const { reject, sendings } of lane.entries) {
        reject(new PublishError(code, message, lane.topic, sendings > 0));
      }
    }
    this.#lanes.clear();
    this.#inFlight.clear();
    this.#ready.clear();
    this.#unanswered = this.#unansweredBytes = this.#inFlightBytes = 0;
  }

  /**
   * The entry that a living id belongs to. The id is spent.
   *
   * @param {number} id
   * @returns {[Lane, Entry] | [undefined, undefined]}
   */
  #spend(id) {
    const found = this.#inFlight.get(id);
    if (found) this.#forget(found[1]);
    return found ?? [undefined, undefined];
  }

  /** @param {Entry} entry */
  #forget({ id, body }) {
    if (this.#inFlight.delete(id)) this.#inFlightBytes -= body.length;
  }

  /**
   * @param {Lane} lane
   * @param {Entry} entry
   * @param {Receipt | PublishError} result
   */
  #finish(lane, entry, result) {
    const at = lane.entries.indexOf(entry);
    lane.entries.splice(at, 1);
    if (at < lane.sent) lane.sent--;
    if (at < lane.fence) lane.fence--;
    this.#unanswered--;
    this.#unansweredBytes -= entry.body.length;
    if (result instanceof PublishError) entry.reject(result);
    else entry.resolve(result);
    this.#getReady(lane);
  }

  /**
   * Everything from `first` on is to be sent again.
   *
   * @param {Lane} lane
   * @param {number} first
   */
  #goBack(lane, first) {
    for (const entry of lane.entries.slice(first, lane.sent)) this.#forget(entry);
    lane.sent = Math.min(lane.sent, first);
  }

  /**
   * Rule 5: a fresh producer for everything from `first` on, and rule 6: behind a fence.
   *
   * @param {Lane} lane
   * @param {number} first
   */
  #countAnew(lane, first) {
    lane.producer = randomProducer();
    lane.nextSeq = 1;
    lane.fence = first;
    for (const entry of lane.entries.slice(first)) entry.seq = 0;
  }

  /**
   * @param {Lane} lane
   * @param {number} ms
   */
  #wait(lane, ms) {
    lane.setbacks++;
    this.#stopWaiting(lane);
    lane.timer = setTimeout(() => {
      lane.timer = undefined;
      this.#getReady(lane);
      this.#pump();
    }, ms);
  }

  /** @param {Lane} lane */
  #stopWaiting(lane) {
    clearTimeout(lane.timer);
    lane.timer = undefined;
  }

  /** @param {Lane} lane */
  #maySend(lane) {
    const { entries, sent, fence, timer } = lane;
    // Rules 6 and 8.
    const isFenced = sent && (sent >= (fence || Infinity) || entries[sent]?.keyed || entries[sent - 1].keyed);
    return sent < entries.length && !isFenced && !timer;
  }

  /** @param {Lane} lane */
  #getReady(lane) {
    if (this.#maySend(lane)) this.#ready.add(lane);
  }
}

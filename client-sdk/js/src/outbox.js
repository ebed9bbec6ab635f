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
//                  ├──────────────────┤  (again and again: rule 9)
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
// 9. A message that was sent first in its topic, and whose connection is lost again and again before any answer for that topic, on
//    every transport, is given up: Hark may have kept it. Those behind it keep their numbers: they may have been kept with it, and
//    rule 5 finds out. So that no other topic's message is given up for it, after the third such loss lanes go one at a time, each
//    when the one before it is answered, and the one that was under way at a loss goes last.
// 10. What was published to several topics has an entry in the lane of each. Where several of these are next in their lanes at once,
//     and are counted under one name, they travel in one frame, if Hark knows such a frame; they are answered lane by lane, so that
//     what is sent again is what failed alone.

import { draw } from "./backoff.js";
import { isLarger, lengthOf } from "./bytes.js";
import { report } from "./emitter.js";
import { PublishError, mayPass, tooLarge } from "./errors.js";
import { Losses } from "./losses.js";
import { WORLD } from "./world.js";

// Lanes without entries are kept for their count up to so many, then forgotten: their topics go on under a new producer.
const IDLE_LANES = 10_000;
// Hark stops reading beyond this, of contents in UTF-8.
const IN_FLIGHT_BYTES = 1 << 20;
// The most topics that a frame may name.
const FRAME_TOPICS = 1024;
// Hark knows a key again for two minutes; less what a sending may take to get there.
const KEY_MS = 100_000;

/** @typedef {import("../hark").Receipt} Receipt */
/** @typedef {import("./losses.js").Loss} Loss */
/**
 * What Hark's `welcome` allows; `several`: a frame may name several topics.
 *
 * @typedef {{ frameBytes: number, inFlight: number, several: boolean }} Limits
 */

/** @typedef {{ lanes: Lane[], unanswered: number, bytes: number }} Together a message for several topics: its content is held once */
/** @typedef {{ entries: Set<Entry>, bytes: number }} Sending what was sent under one id, and lives */

/**
 * @typedef {object} Entry
 * @property {Lane} lane
 * @property {string} body the frame's fields but for type, id and topic
 * @property {Together} together what it was published with, perhaps nothing
 * @property {string} [producer]
 * @property {number} seq 0: not numbered
 * @property {boolean} keyed has a `message_id`, and no number
 * @property {number} id of the last sending
 * @property {number} sendings
 * @property {import("./clock.js").Mark} [asked] when Hark was asked first to keep it
 * @property {Losses} [losses] of connections that brought no answer for its topic, in which it was the first
 * @property {(receipt: Receipt) => void} resolve
 * @property {(error: Error) => void} reject
 * @property {Promise<Receipt>} receipt
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
 * @property {boolean} answered this connection has brought an answer for the topic
 * @property {Wait} [wait] the lane waits after a setback
 */

/** @typedef {{ lanes: Set<Lane>, timer?: any }} Wait one timer for all that wait equally long */

/** The waits of the lanes of one frame: equal ones, over in the same moment, so that the lanes go together again. */
class Waits {
  /** @type {Map<number, number>} by setbacks */
  #drawn = new Map();
  /** @type {Map<number, Wait>} by milliseconds */
  #begun = new Map();
  #world;

  /** @param {import("./world.js").World} world */
  constructor(world) {
    this.#world = world;
  }

  /** @param {number} setbacks */
  draw(setbacks) {
    const ms = this.#drawn.get(setbacks) ?? draw(setbacks, undefined, undefined, this.#world.random);
    this.#drawn.set(setbacks, ms);
    return ms;
  }

  /**
   * @param {number} ms
   * @param {(lanes: Set<Lane>) => void} isOver
   * @returns {Wait}
   */
  begin(ms, isOver) {
    const wait = this.#begun.get(ms) ?? { lanes: new Set() };
    wait.timer ??= this.#world.later(ms, () => isOver(wait.lanes));
    this.#begun.set(ms, wait);
    return wait;
  }
}

export class Outbox {
  /** @type {Map<string, Lane>} */
  #lanes = new Map();
  /** @type {Map<number, Sending>} the living sendings */
  #inFlight = new Map();
  /** Their entries. */
  #inFlightCount = 0;
  #inFlightBytes = 0;
  /** @type {Set<Lane>} lanes with something to send, in turn */
  #ready = new Set();
  /** @type {Set<Lane>} lanes over whose first message connections may have been lost */
  #doubted = new Set();
  #producer;
  /** The newest name of rule 5: good for each lane that has not had it, so that lanes that were forgotten together go on together. */
  #fresh = "";
  #window;
  #pump;
  #world;
  #unanswered = 0;
  #unansweredBytes = 0;

  /**
   * @param {{ messages: number, bytes: number }} window how much may be unanswered
   * @param {() => void} pump there may be something to send
   * @param {import("./world.js").World} [world]
   */
  constructor(window, pump, world = WORLD) {
    this.#window = window;
    this.#pump = pump;
    this.#world = world;
    this.#producer = world.newProducer();
  }

  get unanswered() {
    return this.#unanswered;
  }

  /**
   * @param {string[]} topics none of them twice
   * @param {string} body
   * @param {boolean} keyed
   * @returns {Promise<Receipt>[]} of each topic
   */
  publish(topics, body, keyed) {
    const { messages, bytes } = this.#window;
    const full = this.#unanswered + topics.length > messages || this.#unansweredBytes + body.length > bytes;
    if (full && this.#unanswered) {
      throw new PublishError("window_full", `${this.#unanswered} messages wait for their receipts`, topics.join(), false);
    }
    /** @type {Together} */
    const together = { lanes: [], unanswered: topics.length, bytes: lengthOf(body) };
    this.#unanswered += topics.length;
    if (topics.length) this.#unansweredBytes += body.length;
    const receipts = topics.map((topic) => {
      const lane = this.#lane(topic);
      const entry = /** @type {Entry} */ ({ lane, body, together, seq: 0, keyed, id: 0, sendings: 0 });
      entry.receipt = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
      together.lanes.push(lane);
      lane.entries.push(entry);
      this.#getReady(lane);
      return entry.receipt;
    });
    try {
      this.#pump();
    } catch (error) {
      // It stays in its lane: who publishes it again would have it kept twice.
      report(error);
    }
    return receipts;
  }

  /** @param {string} topic */
  #lane(topic) {
    let lane = this.#lanes.get(topic);
    if (!lane) {
      if (this.#lanes.size >= IDLE_LANES) {
        for (const [name, { entries }] of this.#lanes) if (!entries.length) this.#lanes.delete(name);
        // A topic that was forgotten must not be counted from 1 again under the same name.
        this.#producer = this.#world.newProducer();
        this.#fresh = "";
      }
      const producer = this.#producer;
      lane = { topic, producer, nextSeq: 1, entries: [], sent: 0, fence: 0, setbacks: 0, answered: false };
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
  next(newId, { frameBytes, inFlight, several }) {
    while (this.#inFlightCount < inFlight) {
      // Rule 9.
      const isCareful = this.#doubted.size > 0;
      const [lane] = (isCareful && this.#lanesInFlight()) || this.#ready;
      if (!lane || !this.#ready.has(lane)) return;
      const entry = lane.entries[lane.sent];
      // One message alone may be larger.
      if (entry && this.#inFlight.size && this.#inFlightBytes + entry.together.bytes > IN_FLIGHT_BYTES) return;
      // To the end of the line, if there is more: lanes take turns.
      this.#ready.delete(lane);
      // It may have been answered, or come to the fence, since it got in line.
      if (!entry || !this.#maySend(lane)) continue;
      entry.asked ??= this.#world.mark();
      if (entry.keyed && this.#world.elapsedSince(entry.asked) > KEY_MS) {
        const message = "no receipt for as long as Hark knows a messageId";
        this.#finish(entry, new PublishError("lost", message, lane.topic, true));
        continue;
      }
      const id = newId();
      const name = this.#nextNumber(entry)[0];
      let entries = [entry];
      if (several && !isCareful) {
        for (const other of entry.together.lanes) {
          const next = other.entries[other.sent];
          const isNext = other !== lane && next?.together === entry.together && this.#maySend(other);
          if (isNext && this.#nextNumber(next)[0] === name && entries.length < FRAME_TOPICS) entries.push(next);
        }
      }
      let text = this.#frame(id, entries);
      while (isLarger(text, frameBytes) && entries.length > 1) {
        // Half of them, unless it is the content that is too large.
        entries = entries.slice(0, isLarger(entry.body, frameBytes) ? 1 : Math.ceil(entries.length / 2));
        text = this.#frame(id, entries);
      }
      if (isLarger(text, frameBytes)) {
        this.#finish(entry, new PublishError("too_large", tooLarge(frameBytes), lane.topic, false));
        continue;
      }
      for (const written of entries) {
        const { lane } = written;
        const [producer, seq] = this.#nextNumber(written);
        if (!written.seq && seq) lane.nextSeq++;
        Object.assign(written, { producer, seq, id, asked: written.asked ?? entry.asked });
        written.sendings++;
        lane.sent++;
        this.#getReady(lane);
      }
      this.#inFlight.set(id, { entries: new Set(entries), bytes: entry.together.bytes });
      this.#inFlightCount += entries.length;
      this.#inFlightBytes += entry.together.bytes;
      return { id, text };
    }
  }

  /** Of any sending: there is only one lane in flight, where this matters. */
  #lanesInFlight() {
    for (const id of this.#inFlight.keys()) return this.#lanesOf(id);
  }

  /** @param {number} id of a living sending */
  #lanesOf(id) {
    return [...(this.#inFlight.get(id)?.entries ?? [])].map(({ lane }) => lane);
  }

  /**
   * What `next` gave last was not written after all, since Hark has said meanwhile that it allows less: it is next again.
   *
   * @param {number} id
   */
  takeBack(id) {
    for (const entry of [...(this.#inFlight.get(id)?.entries ?? [])]) {
      const { lane } = entry;
      // Never written, it has no number.
      if (!--entry.sendings) {
        if (entry.seq) lane.nextSeq--;
        Object.assign(entry, { seq: 0, asked: undefined });
      }
      this.#goBack(lane, lane.entries.indexOf(entry));
      this.#getReady(lane);
    }
  }

  /**
   * @param {Entry} entry the next of its lane
   * @returns {[string, number]} what it is counted under, and its number; none if it has a key
   */
  #nextNumber({ lane, keyed, producer = "", seq }) {
    return keyed ? ["", 0] : seq ? [producer, seq] : [lane.producer, lane.nextSeq];
  }

  /**
   * @param {number} id
   * @param {Entry[]} entries one, or several that are counted under one name
   */
  #frame(id, entries) {
    const topics = entries.map(({ lane }) => lane.topic);
    const numbers = entries.map((entry) => this.#nextNumber(entry));
    const seqs = numbers.map(([, seq]) => seq);
    const isOne = entries.length < 2;
    const [where, which] = isOne ? ["topic", "seq"] : ["topics", "seqs"];
    const number = seqs[0] ? `,"producer":"${numbers[0][0]}","${which}":${JSON.stringify(isOne ? seqs[0] : seqs)}` : "";
    return `{"type":"publish","id":${id},"${where}":${JSON.stringify(isOne ? topics[0] : topics)},${entries[0].body}${number}}`;
  }

  /** @param {{ id: number, cursor: string, duplicate: boolean }} frame */
  published({ id, cursor, duplicate }) {
    for (const entry of this.#spend(id)) {
      entry.lane.setbacks = 0;
      this.#finish(entry, { cursor, duplicate });
    }
  }

  /** @param {{ id: number, receipts: any[] }} frame */
  publishedAll({ id, receipts }) {
    const entries = new Map(this.#spend(id).map((entry) => [entry.lane.topic, entry]));
    const waits = new Waits(this.#world);
    for (const { topic, cursor, duplicate, ...refusal } of receipts) {
      const entry = entries.get(topic);
      // It may have been sent again since, under another id.
      if (!entry) continue;
      if (refusal.code) {
        this.#refuse(entry, refusal, waits);
      } else {
        entry.lane.setbacks = 0;
        this.#finish(entry, { cursor, duplicate });
      }
    }
  }

  /** @param {{ id: number, code: string, message: string, expected_seq?: number, retry_after_ms?: number }} frame */
  refused(frame) {
    const waits = new Waits(this.#world);
    for (const entry of this.#spend(frame.id)) this.#refuse(entry, frame, waits);
  }

  /**
   * @param {Entry} entry
   * @param {{ code: string, message: string, expected_seq?: number, retry_after_ms?: number }} refusal
   * @param {Waits} waits of the same frame
   */
  #refuse(entry, { code, message, expected_seq: expected, retry_after_ms: retryAfterMs = 0 }, waits) {
    const { lane } = entry;
    const wait = waits.draw(lane.setbacks);
    if (code === "out_of_sequence" && expected && expected < entry.seq) {
      const isMissing = (/** @type {Entry} */ other) => other.producer === entry.producer && other.seq >= expected;
      const first = lane.entries.findIndex(isMissing);
      if (lane.entries[first].seq !== expected) this.#countAnew(lane, first);
      this.#goBack(lane, first);
      this.#wait(lane, lane.setbacks && wait, waits);
    } else if (mayPass(code)) {
      this.#goBack(lane, lane.entries.indexOf(entry));
      this.#wait(lane, Math.max(wait, retryAfterMs), waits);
    } else {
      this.#finish(entry, new PublishError(code, message, lane.topic, entry.sendings > 1));
    }
  }

  /**
   * The connection is gone. Everything waits for the next one, but for what is given up (rule 9).
   *
   * @param {Loss} loss
   * @returns {number} the most losses in a row over one message, on this transport
   */
  lost(loss) {
    const { proven, saysNothing, unanswered } = loss;
    let most = 0;
    /** Of what was sent first. */
    const [suspect] = this.#lanesInFlight() ?? [];
    /** By HTTP: those that were in the request that brought no receipt. */
    const asked = unanswered && new Set(unanswered.flatMap((id) => this.#lanesOf(id)));
    this.#inFlight.clear();
    this.#inFlightCount = this.#inFlightBytes = 0;
    for (const lane of this.#lanes.values()) {
      const wasSent = lane.sent > 0;
      const isUnheard = asked ? asked.has(lane) : !proven && !saysNothing && !lane.answered;
      lane.sent = lane.setbacks = 0;
      lane.answered = false;
      this.#stopWaiting(lane);
      const [first] = lane.entries;
      if (first && proven && !asked) this.#clear(lane);
      if (wasSent && isUnheard) {
        first.losses ??= new Losses();
        most = Math.max(most, first.losses.add(loss));
        if (first.losses.tries > 2) this.#doubted.add(lane);
        if (first.losses.areTooMany(loss)) {
          const message = `each connection over which it was sent was lost before its receipt came: ${first.losses.tries}`;
          this.#finish(first, new PublishError("lost", message, lane.topic, true));
        }
      }
      this.#getReady(lane);
    }
    if (suspect && this.#ready.delete(suspect)) this.#ready.add(suspect);
    return most;
  }

  /**
   * The client ends: nobody gets a receipt any more.
   *
   * @param {import("./errors.js").HarkError} error
   */
  end({ code, message }) {
    for (const lane of this.#lanes.values()) {
      this.#stopWaiting(lane);
      for (const { receipt, reject, sendings } of lane.entries) {
        // Nobody has to look at what fails because the application closed the client.
        if (code === "closed") receipt.catch(() => {});
        reject(new PublishError(code, message, lane.topic, sendings > 0));
      }
    }
    this.#lanes.clear();
    this.#inFlight.clear();
    this.#ready.clear();
    this.#doubted.clear();
    this.#unanswered = this.#unansweredBytes = this.#inFlightCount = this.#inFlightBytes = 0;
  }

  /**
   * The entries that a living id belongs to. The id is spent.
   *
   * @param {number} id
   */
  #spend(id) {
    const entries = [...(this.#inFlight.get(id)?.entries ?? [])];
    for (const entry of entries) {
      entry.lane.answered = true;
      this.#clear(entry.lane);
      this.#forget(entry);
    }
    return entries;
  }

  /** What came through says that its lane is no cause of losses (rule 9). @param {Lane} lane */
  #clear(lane) {
    lane.entries[0].losses = undefined;
    this.#doubted.delete(lane);
  }

  /** @param {Entry} entry */
  #forget(entry) {
    const sending = this.#inFlight.get(entry.id);
    if (!sending?.entries.delete(entry)) return;
    this.#inFlightCount--;
    if (sending.entries.size) return;
    this.#inFlight.delete(entry.id);
    this.#inFlightBytes -= sending.bytes;
  }

  /**
   * @param {Entry} entry
   * @param {Receipt | PublishError} result
   */
  #finish(entry, result) {
    const { lane, together } = entry;
    const at = lane.entries.indexOf(entry);
    lane.entries.splice(at, 1);
    if (!at) this.#doubted.delete(lane);
    if (at < lane.sent) lane.sent--;
    if (at < lane.fence) lane.fence--;
    this.#unanswered--;
    if (!--together.unanswered) this.#unansweredBytes -= entry.body.length;
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
    if (!this.#fresh || this.#fresh === lane.producer) this.#fresh = this.#world.newProducer();
    lane.producer = this.#fresh;
    lane.nextSeq = 1;
    lane.fence = first;
    for (const entry of lane.entries.slice(first)) entry.seq = 0;
  }

  /**
   * @param {Lane} lane
   * @param {number} ms
   * @param {Waits} waits of the same frame
   */
  #wait(lane, ms, waits) {
    lane.setbacks++;
    this.#stopWaiting(lane);
    if (!ms) return this.#getReady(lane);
    lane.wait = waits.begin(ms, (lanes) => {
      for (const lane of lanes) {
        lane.wait = undefined;
        this.#getReady(lane);
      }
      this.#pump();
    });
    lane.wait.lanes.add(lane);
  }

  /** @param {Lane} lane */
  #stopWaiting(lane) {
    const { wait } = lane;
    lane.wait = undefined;
    if (wait?.lanes.delete(lane) && !wait.lanes.size) this.#world.stop(wait.timer);
  }

  /** @param {Lane} lane */
  #maySend(lane) {
    const { entries, sent, fence, wait } = lane;
    // Rules 6 and 8.
    const isFenced = sent && (sent >= (fence || Infinity) || entries[sent]?.keyed || entries[sent - 1].keyed);
    return sent < entries.length && !isFenced && !wait;
  }

  /** @param {Lane} lane */
  #getReady(lane) {
    if (this.#maySend(lane)) this.#ready.add(lane);
  }
}

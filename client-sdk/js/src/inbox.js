// @ts-check
// The subscriptions and their positions. Owns "every later message once, or a gap"; knows no connections: it is told what was
// said, and says what to send.
//
// A subscription is what the application wants; the wire is what Hark has agreed to. `#reconcile` brings the second in line with
// the first, one command at a time, so that whatever happens in between ends in the right place:
//
//          subscribe                   subscribed
//   off ───────────────────► asking ───────────────────► on
//    ▲                          │ error                   │
//    ├──────────────────────────┘ (again later, or end)   │ unsubscribe: not wanted, parked, or a hole
//    │          unsubscribed / error                      ▼
//    └─────────────────────────────────────────────── leaving        a lost connection: all off
//
// The position is the last offset that was put into the subscription's queue. The rules, the same as the Rust client's:
//
// 1. `subscribed.cursor` is where a new subscription starts. One that goes on keeps its own offset, and takes the epoch over when
//    Hark says that it resumed. Should Hark name another epoch without either, that is made a gap.
// 2. A message at or below the position was delivered: dropped. One whose `prev` is beyond it shows a hole: the client leaves and
//    subscribes again after its position. When the same hole comes back, the application gets a gap for it.
// 3. `gap.cursor` replaces the position, also with another epoch or a smaller offset.
// 4. Messages count only while the wire is on.
// 5. After a reconnect every subscription that has a position asks for what comes after it.
//
// 6. A connection that is lost before anything of a topic came behind its `subscribed`, again and again at one position and by every
//    transport: the application is told that it is stuck there, and the topic is asked for again now and then.
//
// A browser cannot stop reading a WebSocket. So when a queue is full the subscription is parked: the client leaves the topic, drops
// what still comes, and subscribes again after its position when the application has taken half of what is queued.

import { draw } from "./backoff.js";
import { readBytes } from "./bytes.js";
import { formatCursor, isCursor, parseCursor } from "./cursor.js";
import { report } from "./emitter.js";
import { SubscribeError, mayPass } from "./errors.js";
import { STUCK_RETRY_MS } from "./figures.js";
import { Losses } from "./losses.js";
import { WORLD } from "./world.js";

// So often Hark is asked to fill the same hole.
const HOLE_ATTEMPTS = 3;

/** @typedef {import("./subscription.js").Subscription} Subscription */
/** @typedef {import("./cursor.js").Position} Position */
/** @typedef {import("./losses.js").Loss} Loss */

/**
 * @typedef {object} Wanted
 * @property {Subscription} subscription
 * @property {unknown} from as the application asked, in the wire's form
 * @property {Position} [position]
 * @property {import("./token.js").Tokens} [tokens] what lets it be read, where there is more than the connection's
 * @property {string} [token] the one that is to be shown next, if it was asked for
 * @property {boolean} [asking] for it
 * @property {boolean} [tokenDoubted] the last one was refused
 * @property {number} asked the id of the `subscribe` that was sent for it: an answer to another one was for an earlier subscription
 * @property {boolean} parked not now: the queue is full, or the stored cursor is not read yet
 * @property {any} [timer] not before: Hark was busy, or it is stuck
 * @property {number} setbacks
 * @property {[cursor: string, seen: number]} hole
 * @property {boolean} heard something came behind the last `subscribed`
 * @property {Losses} [losses] of connections that brought nothing, at the cursor `lostAt`
 * @property {string} [lostAt]
 * @property {boolean} [stuck]
 */

/**
 * @typedef {object} Seat one topic
 * @property {"off" | "asking" | "on" | "leaving"} wire
 * @property {number} id of the command that is not answered yet
 * @property {Wanted} [wanted]
 */

export class Inbox {
  /** @type {Map<string, Seat>} */
  #seats = new Map();
  /** Which topic an answer is for. @type {Map<number, string>} */
  #requests = new Map();
  #connected = false;
  /** A `subscribe` carries its own token: by HTTP it is read with the connection's. */
  #takesTokens = true;
  #say;
  #newId;
  #world;

  /**
   * @param {(frame: { type: string, id?: number, topic?: string, from?: unknown, token?: string }) => void} say
   * @param {() => number} newId
   * @param {import("./world.js").World} [world]
   */
  constructor(say, newId, world = WORLD) {
    this.#say = say;
    this.#newId = newId;
    this.#world = world;
  }

  get isEmpty() {
    return !this.#seats.size;
  }

  /**
   * @param {Subscription} subscription
   * @param {unknown} from where to start, unless it has a cursor stored
   * @param {import("./token.js").Tokens} [tokens] for this topic
   */
  subscribe(subscription, from, tokens) {
    const { topic } = subscription;
    const seat = this.#seats.get(topic) ?? /** @type {Seat} */ ({ wire: "off", id: 0 });
    if (seat.wanted) {
      throw new SubscribeError("already_subscribed", `subscribed to ${topic} already`, topic);
    }
    // The application's: it may throw.
    const stored = /** @type {any} */ (subscription.load());
    this.#seats.set(topic, seat);
    /** @type {Wanted} */
    const wanted = {
      subscription,
      from,
      tokens,
      asked: 0,
      parked: true,
      setbacks: 0,
      hole: ["", 0],
      heard: false,
    };
    seat.wanted = wanted;
    const begin = (/** @type {unknown} */ cursor) => {
      if (isCursor(cursor)) wanted.from = { after: cursor };
      wanted.parked = false;
      this.#reconcile(topic);
    };
    // Where it cannot be read it is as if there were none.
    if (stored?.then) stored.then(begin, (/** @type {unknown} */ error) => begin(report(error)));
    else begin(stored);
  }

  /**
   * The application wants no more of it.
   *
   * @param {Subscription} subscription
   */
  unsubscribe(subscription) {
    const seat = this.#seats.get(subscription.topic);
    if (seat?.wanted?.subscription !== subscription) return;
    this.#stopWaiting(seat.wanted);
    seat.wanted = undefined;
    this.#reconcile(subscription.topic);
  }

  /**
   * The application has taken half of a queue.
   *
   * @param {Subscription} subscription
   */
  drained(subscription) {
    const wanted = this.#seats.get(subscription.topic)?.wanted;
    if (wanted?.subscription !== subscription || !wanted.parked) return;
    wanted.parked = false;
    this.#reconcile(subscription.topic);
  }

  /** @param {boolean} [takesTokens] */
  connected(takesTokens = true) {
    this.#connected = true;
    this.#takesTokens = takesTokens;
    for (const topic of [...this.#seats.keys()]) this.#reconcile(topic);
  }

  /**
   * The connection is gone.
   *
   * @param {Loss} loss
   * @returns {number} the most losses in a row at one cursor, on this transport
   */
  lost(loss) {
    // A page of a long-poll says `subscribed` only when it has come as a whole.
    const wires = loss.transport === "longpoll" ? ["on", "asking"] : ["on"];
    const lost = [...this.#seats].filter(([, { wire }]) => wires.includes(wire));
    this.#disconnect();
    return Math.max(0, ...lost.map(([topic, { wanted }]) => (wanted ? this.#countLoss(topic, wanted, loss) : 0)));
  }

  #disconnect() {
    this.#connected = false;
    this.#requests.clear();
    for (const [topic, seat] of this.#seats) {
      seat.wire = "off";
      // By the next connection it may have run out.
      if (seat.wanted) seat.wanted.token = undefined;
      if (!seat.wanted) this.#seats.delete(topic);
      // Whoever is stuck waits also for the next connection.
      else if (!seat.wanted.stuck) {
        this.#stopWaiting(seat.wanted);
        seat.wanted.setbacks = 0;
      }
    }
  }

  /**
   * Rule 6.
   *
   * @param {string} topic
   * @param {Wanted} wanted
   * @param {Loss} loss
   * @returns {number} how many these are at its cursor, on this transport
   */
  #countLoss(topic, wanted, loss) {
    // Told of another one, the application may have ended it, or all.
    if (this.#seats.get(topic)?.wanted !== wanted) return 0;
    const { position, heard, stuck } = wanted;
    const from = /** @type {any} */ (wanted.from);
    const cursor = position ? formatCursor(position) : from.after;
    // What is stuck is asked for on connections that have proven themselves by something else.
    const passes = heard || (loss.proven && !stuck);
    if (loss.saysNothing && !heard) return 0;
    if (passes || cursor !== wanted.lostAt) wanted.losses = undefined;
    if (passes || !cursor) return 0;
    wanted.lostAt = cursor;
    wanted.losses ??= new Losses();
    const count = wanted.losses.add(loss);
    if (wanted.losses.areTooMany(loss)) {
      wanted.stuck = true;
      // Up to a tenth less or more.
      this.#wait(topic, wanted, STUCK_RETRY_MS * (0.9 + this.#world.random() / 5));
      this.#push(topic, { type: "stuck", topic, cursor, tries: wanted.losses.tries }, 0);
    }
    return count;
  }

  /**
   * The client ends.
   *
   * @param {import("./errors.js").HarkError} [error] none: the application ended it
   */
  end(error) {
    const seats = [...this.#seats];
    this.#disconnect();
    this.#seats.clear();
    for (const [topic, { wanted }] of seats) {
      if (wanted) this.#stopWaiting(wanted);
      wanted?.subscription.finish(error && new SubscribeError(error.code, error.message, topic));
    }
  }

  /**
   * Whether that was an answer to a living command. Without an id it answers none: a stream was started again for a subscription
   * that stands, and may have found the topic under another epoch.
   *
   * @param {{ id?: number, topic: string, cursor: string, resumed: boolean }} frame
   */
  subscribed({ id, topic, cursor, resumed }) {
    const seat = this.#seats.get(topic);
    if (id) this.#requests.delete(id);
    if (!seat || (id ? seat.wire !== "asking" || seat.id !== id : seat.wire !== "on")) return false;
    seat.wire = "on";
    const { wanted } = seat;
    if (wanted && (!id || wanted.asked === id)) {
      wanted.setbacks = 0;
      wanted.tokenDoubted = false;
      const { position } = wanted;
      const asked = parseCursor(cursor);
      if (!position) {
        wanted.position = asked;
        wanted.subscription.begin(cursor);
      } else if (resumed && asked.offset === position.offset) {
        wanted.position = asked;
      } else if (asked.epoch !== position.epoch) {
        this.gap({ type: "gap", topic, reason: "other_epoch", cursor });
      }
      this.#reconcile(topic);
    } else {
      this.#leave(topic, seat);
    }
    return true;
  }

  /** @param {{ id?: number, topic: string }} frame */
  unsubscribed({ id, topic }) {
    const seat = this.#seats.get(topic);
    if (!seat) return;
    if (id ? seat.wire !== "leaving" || seat.id !== id : seat.wire !== "on") return;
    // Without an id it was not asked for: Hark ended it. Asking again gives the reason.
    if (id) this.#requests.delete(id);
    seat.wire = "off";
    this.#reconcile(topic);
  }

  /**
   * A command was refused. Whether it was a subscription's.
   *
   * @param {{ id: number, code: string, message: string, retry_after_ms?: number }} frame
   */
  refused({ id, code, message, retry_after_ms: retryAfterMs = 0 }) {
    const topic = this.#requests.get(id);
    if (topic === undefined) return false;
    this.#requests.delete(id);
    const seat = this.#seats.get(topic);
    if (!seat || seat.id !== id) return true;
    if (seat.wire === "leaving" ? mayPass(code) : code === "already_subscribed") {
      // The second is of an earlier round; this client has one at a time.
      this.#leave(topic, seat);
      return true;
    }
    const { wanted } = seat;
    if (seat.wire === "asking" && wanted?.asked === id) {
      if (mayPass(code)) {
        const wait = draw(wanted.setbacks++, undefined, undefined, this.#world.random);
        this.#wait(topic, wanted, Math.max(wait, retryAfterMs));
      } else if (code === "unauthenticated" && wanted.tokens?.changes && !wanted.tokenDoubted) {
        // It may have run out on its way: the callback may have a better one.
        wanted.tokenDoubted = true;
      } else {
        seat.wanted = undefined;
        wanted.subscription.finish(new SubscribeError(code, message, topic));
      }
    }
    seat.wire = "off";
    this.#reconcile(topic);
    return true;
  }

  /**
   * @param {any} frame
   * @param {number} size
   */
  message(frame, size) {
    const { type, topic, offset, prev = offset - 1, time, identity, headers = {}, data, text, data_base64, content_type } = frame;
    const seat = this.#seats.get(topic);
    const wanted = this.#listening(topic);
    const position = wanted?.position;
    if (!seat || !wanted || !position || offset <= position.offset) return;
    if (prev > position.offset) {
      const at = formatCursor(position);
      wanted.hole = [at, wanted.hole[0] === at ? wanted.hole[1] + 1 : 1];
      if (wanted.hole[1] <= HOLE_ATTEMPTS) {
        this.#leave(topic, seat);
        return;
      }
      const cursor = formatCursor({ epoch: position.epoch, offset: prev });
      this.gap({ type: "gap", topic, reason: "lost", from: position.offset + 1, to: prev, cursor });
    }
    const here = { epoch: position.epoch, offset };
    wanted.position = here;
    const cursor = formatCursor(here);
    const event = {
      type,
      topic,
      offset,
      time,
      data: text ?? (data_base64 === undefined ? data : readBytes(data_base64, content_type)),
      ...(content_type !== undefined && { contentType: content_type }),
      ...(identity && { identity }),
      headers,
      cursor,
    };
    this.#push(topic, event, size);
  }

  /** @param {import("../hark").Gap} frame */
  gap(frame) {
    const wanted = this.#listening(frame.topic);
    if (!wanted) return;
    const { type, topic, reason, from, to, cursor } = frame;
    wanted.position = parseCursor(cursor);
    this.#push(topic, { type, topic, reason, from, to, cursor }, 0);
  }

  /** @param {import("../hark").Lagging} frame */
  lagging({ type, topic, behind }) {
    const wanted = this.#listening(topic);
    if (wanted?.position) this.#push(topic, { type, topic, cursor: formatCursor(wanted.position), behind }, 0);
  }

  /** @param {import("../hark").CaughtUp} frame */
  caughtUp({ type, topic }) {
    const wanted = this.#listening(topic);
    // Its cursor is what was received, whatever Hark says. If Hark's is another, the next message tells.
    if (wanted?.position) this.#push(topic, { type, topic, cursor: formatCursor(wanted.position) }, 0);
  }

  /**
   * The subscription whose frames count now (rule 4): this is about one of them.
   *
   * @param {string} topic
   */
  #listening(topic) {
    const seat = this.#seats.get(topic);
    const wanted = seat?.wire === "on" ? seat.wanted : undefined;
    if (wanted) Object.assign(wanted, { heard: true, stuck: false });
    return wanted;
  }

  /**
   * Into the queue; when that is full the subscription is parked, whatever filled it.
   *
   * @param {string} topic
   * @param {any} event
   * @param {number} size
   */
  #push(topic, event, size) {
    const wanted = this.#seats.get(topic)?.wanted;
    if (!wanted) return;
    wanted.subscription.push(event, size);
    if (!wanted.subscription.isFull) return;
    wanted.parked = true;
    this.#reconcile(topic);
  }

  /**
   * @param {string} topic
   * @param {Wanted} wanted
   * @param {number} ms
   */
  #wait(topic, wanted, ms) {
    this.#stopWaiting(wanted);
    wanted.timer = this.#world.later(ms, () => {
      wanted.timer = undefined;
      this.#reconcile(topic);
    });
  }

  /** @param {Wanted} wanted */
  #stopWaiting(wanted) {
    this.#world.stop(wanted.timer);
    wanted.timer = undefined;
  }

  /**
   * Says the next thing that brings the wire in line with what is wanted.
   *
   * @param {string} topic
   */
  #reconcile(topic) {
    const seat = this.#seats.get(topic);
    if (!seat) return;
    const { wanted, wire } = seat;
    const now = wanted && !wanted.parked;
    if (wire === "on" && !now) this.#leave(topic, seat);
    if (wire !== "off") return;
    if (!wanted) this.#seats.delete(topic);
    if (!now || wanted.timer || !this.#connected) return;
    const tokens = this.#takesTokens ? wanted.tokens : undefined;
    if (tokens?.changes && wanted.token === undefined) return this.#askForToken(topic, wanted);
    const { position, from } = wanted;
    const token = wanted.token ?? tokens?.fixed;
    wanted.token = undefined;
    wanted.heard = false;
    // Hark may not be able to read what the application gave, and ends who says ten such things in a row.
    if (!position && typeof from === "object") this.#say({ type: "ping" });
    wanted.asked = this.#ask("asking", seat, topic, {
      type: "subscribe",
      from: position ? { after: formatCursor(position) } : from,
      ...(token && { token }),
    });
  }

  /**
   * A fresh one each time: the last may be what has ended it. Whoever gives tokens may be away for a while.
   *
   * @param {string} topic
   * @param {Wanted} wanted
   */
  #askForToken(topic, wanted) {
    if (wanted.asking) return;
    wanted.asking = true;
    const answered = (/** @type {string} */ token) => {
      wanted.asking = false;
      if (this.#connected && this.#takesTokens) wanted.token = token;
      if (this.#seats.get(topic)?.wanted === wanted) this.#reconcile(topic);
    };
    const failed = () => {
      wanted.asking = false;
      if (this.#seats.get(topic)?.wanted !== wanted) return;
      this.#wait(topic, wanted, draw(wanted.setbacks++, undefined, undefined, this.#world.random));
    };
    const reason = wanted.tokenDoubted ? "refused" : "subscribe";
    /** @type {import("./token.js").Tokens} */ (wanted.tokens).get(reason).then((token) => answered(token ?? ""), failed);
  }

  /**
   * @param {string} topic
   * @param {Seat} seat
   */
  #leave(topic, seat) {
    this.#ask("leaving", seat, topic, { type: "unsubscribe" });
  }

  /**
   * @param {"asking" | "leaving"} wire
   * @param {Seat} seat
   * @param {string} topic
   * @param {{ type: string, from?: unknown, token?: string }} frame
   */
  #ask(wire, seat, topic, { type, ...more }) {
    const id = this.#newId();
    seat.wire = wire;
    seat.id = id;
    this.#requests.set(id, topic);
    this.#say({ type, id, topic, ...more });
    return id;
  }
}

// @ts-check
// Keeps a line to Hark: which transport, when to try again, with which token. Owns the state that the application sees, and the rules
// of protocol/README.md ("How a client keeps its connection") about all of this; leaves what is said over the line to the client.
//
//             ┌──── waiting (full jitter, retry_after_ms) ◄───┐
//             ▼                                               │ lost
//   start ► connecting ──── open ─────────────────────────────┤
//             │ cannot be had: the next transport             │
//             └── final close code, token refused twice ► closed ◄── close()
//
// A line is *ready* when something can be said over it, *open* when Hark has answered, and *proven* when it has served for a while.
// Only what has proven itself counts: a transport is passed over at once when it cannot be had, and when it was lost unproven twice
// in a row; the waits grow until a line has proven itself. While a lesser transport serves, those before it are tried in the
// background, and one takes over when it has proven itself there.

import { draw } from "./backoff.js";
import { now } from "./clock.js";
import { ConnectionError } from "./errors.js";
import {
  FIRST_WAIT_MS,
  LONGEST_RETRY_AFTER_MS,
  LONGEST_WAIT_IN_THE_FIRST_MINUTE_MS,
  LONGEST_WAIT_MS,
  LOSSES_BEFORE_AN_EVENT_STREAM,
  LOSSES_BEFORE_THE_NEXT_TRANSPORT,
  TRIES_BEFORE_A_CLOSE_CODE_IS_FINAL,
} from "./figures.js";
import { openLongPoll } from "./longpoll.js";
import { Proof } from "./proof.js";
import { openSse } from "./sse.js";
import { later } from "./timer.js";
import { Tokens } from "./token.js";
import { watchWake } from "./wake.js";
import { openWebSocket } from "./websocket.js";

const MINUTE_MS = 60_000;
const LONGEST_PROBE_MS = 600_000;
// A line that is tried has so long: over HTTP a sign of life may take a heartbeat.
const TRIAL_MS = 120_000;
// Of the subscription that a line over HTTP is tried with: the client's own ids begin with 1.
const TRIAL_ID = -1;

/** @typedef {import("./line.js").Line} Line */
/** @typedef {import("./line.js").Loss} Loss */
/** @typedef {import("../hark").Transport} Transport */

/** @type {Record<Transport, import("./line.js").Open>} */
const OPEN = { websocket: openWebSocket, sse: openSse, longpoll: openLongPoll };

/**
 * A line, and how far it has come.
 *
 * @typedef {object} Link
 * @property {number} at its transport
 * @property {Line} line
 * @property {Proof} proof
 * @property {boolean} [isReady]
 * @property {boolean} [isOpen]
 * @property {string} [version] Hark's
 * @property {any} [welcome] the frame
 * @property {string} [token] the one that Hark was shown last
 * @property {boolean} [isRenewing] its token is being asked for
 * @property {string} [trial] the topic that it is tried with, in the background
 */

/**
 * @typedef {object} Events
 * @property {(transport: Transport) => void} ready what there is to say may be said
 * @property {(version?: string) => void} open
 * @property {(frame: any, size: number) => void} hear
 * @property {(loss: import("./losses.js").Loss) => number} lost the line is gone. Returns how many losses in a row there were over
 *   one message by this transport
 * @property {(error?: ConnectionError) => void} end
 * @property {(change: import("../hark").StateChange) => void} state
 */

export class Connection {
  /** @type {import("../hark").State} */
  state = "connecting";
  /** @type {Transport | undefined} */
  transport;

  #options;
  #events;
  #tokens;
  #unwatch;
  /** In use. @type {Link | undefined} */
  #link;
  /** That one, and those that are being opened or tried. @type {Set<Link>} */
  #links = new Set();
  /** How often a line was let go: what was begun before that is not wanted any more. */
  #age = 0;
  /** Ends `#serve`. @type {(loss: Loss) => void} */
  #over = () => {};
  /** Ends `#wait` as early as Hark allows. */
  #hurry = () => {};
  /** Which transport is tried next. */
  #next = 0;
  /** Which one is tried first: the last that has proven itself. */
  #home = 0;
  /** Of each transport, how many lines in a row were open and lost unproven. @type {number[]} */
  #unproven;
  /** Those that could not be had when they were tried last: no message waits for them. @type {Set<number>} */
  #unusable = new Set();
  #violations = 0;
  #failures = 0;
  /** Since when no line had proven itself. */
  #outage = now();
  #notBefore = 0;
  /** The page is put away: nothing is tried until it is back. */
  #isAway = false;
  /** A token was refused; the callback has one chance to give a better one. */
  #tokenDoubted = false;
  /** How long until a better transport is tried. */
  #probeMs;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #probing;
  /** The topic that was subscribed to last. @type {string | undefined} */
  #topic;

  /**
   * @param {import("./options.js").Settled} options
   * @param {Events} events
   */
  constructor(options, events) {
    this.#options = options;
    this.#events = events;
    this.#tokens = new Tokens(options.token, options.patienceMs);
    this.#unproven = options.transports.map(() => 0);
    this.#probeMs = options.probeMs;
    this.#unwatch = watchWake({
      network: (online) => this.#isAway || this.#wake(true, online),
      looked: (afterLong) => {
        this.#isAway = false;
        this.#wake(afterLong);
      },
      left: () => {
        this.#isAway = true;
        this.#over({ again: true });
      },
    });
    // Later, so that the application can listen first.
    queueMicrotask(() => this.#keepConnected());
  }

  /** @param {any} frame */
  say(frame) {
    if (frame.type === "subscribe") this.#topic = frame.topic;
    const link = this.#link;
    if (link && frame.type !== "ping") link.proof.isBusy = true;
    link?.line.say(frame);
  }

  /**
   * @param {number} id
   * @param {string} text
   */
  publish(id, text) {
    const link = this.#link;
    if (link) link.proof.isBusy = true;
    link?.line.publish(id, text);
  }

  /** The token runs out soon: says a new one, once, if there may be another. */
  async renew() {
    const link = this.#link;
    if (!link || link.isRenewing || !this.#tokens.changes) return;
    link.isRenewing = true;
    // Without a new token Hark ends the connection in time, and the next one asks again.
    const token = await this.#tokens.get("expiring").catch(() => undefined);
    link.isRenewing = false;
    // One that is in use would run out no later.
    if (!token || token === link.token || link !== this.#link) return;
    link.token = token;
    link.line.say({ type: "auth", token });
  }

  reconnect() {
    this.#isAway = false;
    this.#next = this.#home = this.#notBefore = 0;
    this.#hurry();
    this.#over({ again: true });
  }

  /** @param {import("./errors.js").HarkError} [error] none: the application wants it */
  close(error) {
    if (this.#isClosed()) return;
    this.#unwatch();
    this.#over({ error, again: true });
    this.#set("closed", { error });
    this.#notBefore = 0;
    this.#hurry();
    this.#events.end(error);
  }

  async #keepConnected() {
    for (let isFirst = true; !this.#isClosed(); isFirst = false) {
      while (this.#isAway && !this.#isClosed()) await this.#wait(Infinity);
      if (this.#isClosed()) return;
      // An attempt that is begun anew is no other state.
      if (isFirst || this.state !== "connecting") this.#set("connecting");
      // Told of a state, the application may close the client.
      if (this.#isClosed()) return;
      const { error, refused, final, again, retryAfterMs = 0 } = await this.#connect();
      if (this.#isClosed()) return;
      // A token that has run out while the machine slept, say: the callback may have a better one.
      if (final || (refused && (!this.#tokens.changes || this.#tokenDoubted))) return this.close(error);
      if (refused) this.#tokenDoubted = true;
      if (again) continue;
      const asked = Math.min(Math.max(retryAfterMs, 0) || 0, LONGEST_RETRY_AFTER_MS);
      this.#notBefore = now() + asked;
      const isLong = now() - this.#outage >= MINUTE_MS;
      const longest = isLong ? LONGEST_WAIT_MS : LONGEST_WAIT_IN_THE_FIRST_MINUTE_MS;
      await this.#wait(asked + draw(this.#failures++, FIRST_WAIT_MS, longest), error);
    }
  }

  /**
   * Connects by the best transport that can be had, and serves until the line is lost.
   *
   * @returns {Promise<Loss>}
   */
  async #connect() {
    const { transports } = this.#options;
    const unproven = this.#unproven;
    const first = this.#next;
    for (;;) {
      const { link, losses, ...loss } = await this.#serve();
      const { isOpen: opened, proof } = link ?? {};
      if (proof?.isGiven) this.#outage = now();
      // It has nothing to do with the transport.
      if (loss.again || loss.final || loss.refused) return loss;
      // What was lost, and that may be a better one than it began with.
      const at = this.#next;
      if (!opened) {
        this.#next = this.#home;
        if (loss.unusable) this.#unusable.add(at);
      } else {
        if (!proof?.isGiven) unproven[at]++;
        this.#violations = loss.violation ? this.#violations + 1 : 0;
        if (this.#violations >= TRIES_BEFORE_A_CLOSE_CODE_IS_FINAL) {
          const sentence = `${loss.error?.message} (${this.#violations} times in a row)`;
          return { final: true, error: new ConnectionError("closed_by_hark", sentence) };
        }
      }
      // A page does not see the bytes of a message that is on its way over a WebSocket: one that takes long goes by an event stream.
      const isSlow = transports[at] === "websocket" && losses >= LOSSES_BEFORE_AN_EVENT_STREAM && transports.includes("sse");
      // It has time for that.
      if (isSlow) this.#probeMs = LONGEST_PROBE_MS;
      const isPassed = isSlow || loss.unusable || (opened && unproven[at] >= LOSSES_BEFORE_THE_NEXT_TRANSPORT);
      if (!isPassed) return loss;
      this.#next = isSlow ? transports.indexOf("sse") : (at + 1) % transports.length;
      // At once; but not in a circle, nor to one that was itself lost like this, nor before what Hark asked for.
      if (this.#next === first || (opened && unproven[this.#next]) || loss.retryAfterMs) return loss;
    }
  }

  /** @returns {Promise<Loss & { link?: Link, losses: number }>} with how many losses in a row there were over one message */
  #serve() {
    return new Promise((resolve) => {
      let isOver = false;
      this.#over = (loss) => {
        if (isOver) return;
        isOver = true;
        const link = this.#link;
        resolve({ ...loss, link, losses: this.#drop(loss) });
      };
      this.#dial(this.#next, (link) => this.#use(link), this.#over);
    });
  }

  /**
   * Begins to open a line.
   *
   * @param {number} at
   * @param {(link: Link) => void} ready something can be said over it
   * @param {(loss: Loss) => void} failed it will not open, or was lost before it was in use
   */
  async #dial(at, ready, failed) {
    const age = this.#age;
    const { transports, base, WebSocket, fetch, patienceMs } = this.#options;
    const name = transports[at];
    let token;
    try {
      token = await this.#tokens.get(this.#tokenDoubted ? "refused" : "connect");
    } catch (error) {
      // Whoever gives tokens may be away for a while, as Hark may be.
      if (age === this.#age) failed({ error: new ConnectionError("no_token", `no token: ${error}`) });
      return;
    }
    if (age !== this.#age) return;
    const isUsed = () => this.#link === link;
    const isReady = () => {
      if (link.isReady) return;
      link.isReady = true;
      ready(link);
    };
    const link = /** @type {Link} */ ({ at, token });
    link.proof = this.#proofOf(link);
    const open = () => OPEN[name](
      { base, token, WebSocket, fetch, patienceMs },
      {
        ready: isReady,
        open: (version) => {
          isReady();
          this.#unusable.delete(at);
          Object.assign(link, { isOpen: true, version });
          if (isUsed()) this.#opened(link);
        },
        hear: (frame, size) => {
          const { type } = frame;
          if (/^(authenticated|subscribed|published)/.test(type)) this.#tokenDoubted = false;
          // A line over HTTP may answer some commands itself.
          if (name === "websocket" || !/^(pong|unsubscribed)$/.test(type)) link.proof.heard(type);
          if (type === "welcome") link.welcome = frame;
          if (isUsed() && (link.isOpen || type !== "welcome")) this.#events.hear(frame, size);
        },
        alive: () => link.proof.heard(),
        lost: (loss) => {
          this.#end(link);
          (isUsed() ? this.#over : failed)(loss);
        },
      },
    );
    try {
      link.line = open();
    } catch (error) {
      // Of a runtime that lacks something, or forbids it here.
      return failed({ error: new ConnectionError("unreachable", `${name}: ${error}`), unusable: true });
    }
    this.#links.add(link);
  }

  /** @param {Link} link */
  #proofOf(link) {
    return new Proof(
      () => link.line.say({ type: "ping" }),
      () => this.#isProven(link),
    );
  }

  /** @param {Link} link */
  #isProven(link) {
    const { at } = link;
    if (link === this.#link) {
      this.#failures = this.#violations = this.#unproven[at] = 0;
      this.#home = at;
      if (!at) this.#probeMs = this.#options.probeMs;
    } else {
      // It was tried with next to nothing: in use it has to prove itself once more.
      link.proof = this.#proofOf(link);
      this.#use(link);
    }
  }

  /**
   * What there is to say is said over this line from now on.
   *
   * @param {Link} link
   */
  #use(link) {
    // A lesser line, if this one was tried in the background.
    this.#drop({ again: true }, link);
    this.#link = link;
    this.#next = link.at;
    if (link.trial) link.line.say({ type: "unsubscribe", id: TRIAL_ID, topic: link.trial });
    this.#events.ready(this.#options.transports[link.at]);
    // In case there is nothing else to be answered.
    if (!link.proof.isBusy) link.line.say({ type: "ping" });
    if (link.isOpen) this.#opened(link);
  }

  /** @param {Link} link */
  #opened({ at, version, welcome }) {
    this.transport = this.#options.transports[at];
    if (welcome) this.#events.hear(welcome, 0);
    this.#events.open(version);
    this.#probeLater();
    this.#set("open");
  }

  /**
   * @param {Loss} loss
   * @param {Link} [used] stays
   * @returns {number} how many losses in a row there were over one message
   */
  #drop({ again, unanswered }, used) {
    const { transports } = this.#options;
    const link = this.#link;
    this.#age++;
    clearTimeout(this.#probing);
    for (const other of this.#links) if (other !== used) this.#end(other);
    this.#link = this.transport = undefined;
    if (!link) return 0;
    const proven = link.proof.isGiven;
    const saysNothing = !proven && (again || !link.isOpen);
    const had = transports.filter((_, at) => at === link.at || !this.#unusable.has(at));
    const blamed = saysNothing ? undefined : unanswered;
    const transport = transports[link.at];
    return this.#events.lost({ proven, saysNothing, unanswered: blamed, transport, transports: had });
  }

  /** @param {Link} link */
  #end(link) {
    this.#links.delete(link);
    link.proof.stop();
    link.line.close();
  }

  /** While a lesser transport serves, the better ones are tried now and then. */
  #probeLater() {
    if (!this.#next) return;
    this.#probing = later(this.#probeMs * (0.5 + Math.random() / 2), () => this.#tryBetter(0));
    this.#probeMs = Math.min(this.#probeMs * 2, LONGEST_PROBE_MS);
  }

  /**
   * @param {number} at
   * @returns {unknown}
   */
  #tryBetter(at) {
    clearTimeout(this.#probing);
    if (at >= this.#next) return this.#probeLater();
    const isWebSocket = this.#options.transports[at] === "websocket";
    const topic = this.#topic;
    const failed = () => this.#tryBetter(at + 1);
    // Without a topic HTTP is the same by each transport.
    if (!isWebSocket && !topic) return failed();
    const ready = (/** @type {Link} */ link) => {
      this.#probing = later(TRIAL_MS, () => {
        this.#end(link);
        failed();
      });
      link.trial = isWebSocket ? undefined : topic;
      link.line.say(isWebSocket ? { type: "ping" } : { type: "subscribe", id: TRIAL_ID, topic, from: "now" });
    };
    this.#dial(at, ready, failed);
  }

  /**
   * @param {boolean} doubts whether the line still holds
   * @param {boolean} [online] the network is there again, or gone
   */
  #wake(doubts, online) {
    const link = this.#link;
    if (link?.isOpen) {
      if (doubts) this.#check(link, !!online);
    } else if (online) {
      // What was begun while the network was away may hang.
      this.#next = this.#home;
      this.#over({ again: true });
    }
    if (online !== false) this.#hurry();
  }

  /**
   * @param {Link} link
   * @param {boolean} online
   */
  async #check(link, online) {
    // By HTTP the next requests show the token, which has run out while the machine slept, perhaps.
    if (this.transport !== "websocket" && this.#tokens.changes) await this.renew();
    if (link === this.#link) link.line.check(online);
  }

  /**
   * @param {number} ms
   * @param {import("./errors.js").HarkError} [error]
   */
  #wait(ms, error) {
    return new Promise((/** @type {(nothing: void) => void} */ resolve) => {
      let timer = later(ms, resolve);
      this.#hurry = () => {
        clearTimeout(timer);
        timer = later(this.#notBefore - now(), resolve);
      };
      this.#set("waiting", { error, ...(ms < Infinity && { retryInMs: Math.ceil(ms) }) });
    });
  }

  #isClosed() {
    return this.state === "closed";
  }

  /**
   * @param {import("../hark").State} state
   * @param {{ retryInMs?: number, error?: import("./errors.js").HarkError }} [more]
   */
  #set(state, more) {
    this.state = state;
    this.#events.state({ state, transport: this.transport, ...more });
  }
}

// @ts-check
// Keeps a line to Hark: which transport, when to try again, with which token. Owns the state that the application sees; leaves what
// is said over the line to the client.
//
//             ┌──── waiting (full jitter, retry_after_ms) ◄───┐
//             ▼                                               │ lost
//   start ► connecting ──── open ─────────────────────────────┤
//             │ cannot be had: the next transport             │
//             └── final close code, token refused twice ► closed ◄── close()
//
// A transport is passed over when it cannot be had here; one that has worked gets a second chance first, since then it is
// more likely that Hark is away. While a lesser transport serves, those before it are tried in the background; but for one that
// had opened and then let nothing through, which another try would not show.

import { draw } from "./backoff.js";
import { ConnectionError } from "./errors.js";
import { openLongPoll } from "./longpoll.js";
import { openSse } from "./sse.js";
import { Tokens } from "./token.js";
import { watchWake } from "./wake.js";
import { openWebSocket } from "./websocket.js";

const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 20_000;
const LONGEST_PROBE_MS = 600_000;

/** @typedef {import("./line.js").Line} Line */
/** @typedef {import("./line.js").Loss} Loss */
/** @typedef {import("../hark").Transport} Transport */

/** @type {Record<Transport, import("./line.js").Open>} */
const OPEN = { websocket: openWebSocket, sse: openSse, longpoll: openLongPoll };

/**
 * @typedef {object} Events
 * @property {(version?: string) => void} open
 * @property {(frame: any, size: number) => void} hear
 * @property {(loss: import("./losses.js").Loss) => void} lost
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
  /** @type {Line | undefined} */
  #line;
  /** A line that is not open yet. @type {Line | undefined} */
  #attempt;
  /** Ends `#serve`. @type {(loss: Loss) => void} */
  #over = () => {};
  /** Ends `#wait` as early as Hark allows. */
  #hurry = () => {};
  /** Which transport is tried next. */
  #next = 0;
  /** Of each transport that has worked, whether it has failed since. @type {(boolean | undefined)[]} */
  #failed = [];
  /** Of each transport, whether it let nothing through once it was open. @type {(boolean | undefined)[]} */
  #held = [];
  #failures = 0;
  #notBefore = 0;
  /** A token was refused; the callback has one chance to give a better one. */
  #tokenDoubted = false;
  /** The try of a better transport. @type {{ timer?: ReturnType<typeof setTimeout>, line?: Line, wait: number }} */
  #probe = { wait: 0 };

  /**
   * @param {import("./options.js").Settled} options
   * @param {Events} events
   */
  constructor(options, events) {
    this.#options = options;
    this.#events = events;
    this.#tokens = new Tokens(options.token);
    this.#unwatch = watchWake((online) => this.#wake(online));
    // Later, so that the application can listen first.
    queueMicrotask(() => this.#keepConnected());
  }

  /** @param {any} frame */
  say(frame) {
    this.#line?.say(frame);
  }

  /**
   * @param {number} id
   * @param {string} text
   */
  publish(id, text) {
    this.#line?.publish(id, text);
  }

  /** Hark does its work: the next failure is a first one. */
  settle() {
    this.#failures = 0;
    this.#tokenDoubted = false;
  }

  /** The token runs out soon: says a new one, if there may be another. */
  async renew() {
    if (!this.#tokens.changes) return;
    const line = this.#line;
    // Without a new token Hark ends the connection in time, and the next one asks again.
    const token = await this.#tokens.get("expiring").catch(() => undefined);
    if (token && line === this.#line) this.say({ type: "auth", token });
  }

  reconnect() {
    this.#next = this.#notBefore = 0;
    this.#hurry();
    this.#over({ again: true });
  }

  /** @param {import("./errors.js").HarkError} [error] none: the application wants it */
  close(error) {
    if (this.#isClosed()) return;
    this.#unwatch();
    this.#over({ error });
    this.#set("closed", { error });
    this.#notBefore = 0;
    this.#hurry();
    this.#events.end(error);
  }

  async #keepConnected() {
    while (!this.#isClosed()) {
      this.#set("connecting");
      // Told of a state, the application may close the client.
      if (this.#isClosed()) return;
      const { error, refused, final, again, retryAfterMs = 0 } = await this.#connect();
      if (this.#isClosed()) return;
      // A token that has run out while the machine slept, say: the callback may have a better one.
      if (final || (refused && (!this.#tokens.changes || this.#tokenDoubted))) return this.close(error);
      if (refused) this.#tokenDoubted = true;
      if (again) continue;
      const wait = retryAfterMs + draw(this.#failures++, FIRST_WAIT_MS, LONGEST_WAIT_MS);
      this.#notBefore = Date.now() + retryAfterMs;
      const waited = this.#wait(wait);
      this.#set("waiting", { retryInMs: Math.ceil(wait), error });
      await waited;
    }
  }

  /**
   * Connects by the best transport that can be had, and serves until the line is lost.
   *
   * @returns {Promise<Loss>}
   */
  async #connect() {
    for (;;) {
      const loss = await this.#serve(this.#next);
      // What was lost, and that may be a better one than it began with. The next attempt begins with it.
      const at = this.#next;
      if (loss.again || (loss.opened && !loss.unusable)) return loss;
      // One that has worked gets a second chance.
      const passOver = loss.unusable && (loss.opened || this.#failed[at] !== false);
      if (this.#failed[at] === false) this.#failed[at] = true;
      this.#held[at] = loss.unusable && loss.opened;
      if (passOver && at + 1 < this.#options.transports.length) {
        this.#next = at + 1;
      } else {
        this.#next = 0;
        return loss;
      }
    }
  }

  /**
   * @param {number} at
   * @returns {Promise<Loss & { opened: boolean }>}
   */
  #serve(at) {
    return new Promise((resolve) => {
      let isOver = false;
      const over = (/** @type {Loss} */ loss) => {
        if (isOver) return;
        isOver = true;
        const opened = !!this.#line;
        this.#drop();
        resolve({ ...loss, opened });
      };
      this.#over = over;
      this.#dial(
        at,
        () => isOver,
        (line) => (this.#attempt = line),
        over,
      );
    });
  }

  /**
   * Begins to open a line, which is taken into use when it is open.
   *
   * @param {number} at
   * @param {() => boolean} isOver it is not wanted any more
   * @param {(line: Line) => void} keep
   * @param {(loss: Loss) => void} failed it will not open
   */
  async #dial(at, isOver, keep, failed) {
    const { transports, base, WebSocket, fetch, patienceMs } = this.#options;
    let token;
    try {
      token = await this.#tokens.get(this.#tokenDoubted ? "refused" : "connect");
    } catch (error) {
      // Whoever gives tokens may be away for a while, as Hark may be.
      return failed({ error: new ConnectionError("no_token", `no token: ${error}`) });
    }
    if (isOver()) return;
    const line = OPEN[transports[at]](
      { base, token, WebSocket, fetch, patienceMs },
      {
        open: (version) => this.#adopt(line, at, version),
        hear: (frame, size) => this.#events.hear(frame, size),
        lost: (loss) => (this.#line === line ? this.#over : failed)(loss),
      },
    );
    keep(line);
  }

  /**
   * @param {Line} line
   * @param {number} at
   * @param {string} [version]
   */
  #adopt(line, at, version) {
    // A lesser line, if this one was tried in the background.
    this.#drop(line);
    this.#line = line;
    this.#next = at;
    this.#failed[at] = false;
    this.transport = this.#options.transports[at];
    this.#events.open(version);
    this.#probe.wait = this.#options.probeMs;
    this.#probeLater();
    this.#set("open");
  }

  /** @param {Line} [opened] stays */
  #drop(opened) {
    clearTimeout(this.#probe.timer);
    for (const line of [this.#probe.line, this.#attempt]) if (line !== opened) line?.close();
    this.#probe.line = this.#attempt = undefined;
    if (!this.#line) return;
    const transport = /** @type {Transport} */ (this.transport);
    this.#line.close();
    this.#line = this.transport = undefined;
    this.#events.lost({ proven: false, transport, transports: this.#options.transports });
  }

  /** While a lesser transport serves, the better ones are tried now and then. */
  #probeLater() {
    if (!this.#next) return;
    const probe = this.#probe;
    const served = this.#line;
    const isOver = () => served !== this.#line;
    let at = 0;
    const tryNext = () => {
      if (isOver()) return;
      while (this.#held[at]) at++;
      if (at >= this.#next) this.#probeLater();
      else this.#dial(at++, isOver, (line) => (probe.line = line), tryNext);
    };
    clearTimeout(probe.timer);
    probe.timer = setTimeout(tryNext, probe.wait * (0.5 + Math.random() / 2));
    probe.wait = Math.min(probe.wait * 2, LONGEST_PROBE_MS);
  }

  /** @param {boolean} online the network has just come back */
  #wake(online) {
    this.#line?.check(online);
    this.#hurry();
  }

  /** @param {number} ms */
  #wait(ms) {
    return new Promise((resolve) => {
      let timer = setTimeout(resolve, ms);
      this.#hurry = () => {
        clearTimeout(timer);
        timer = setTimeout(resolve, this.#notBefore - Date.now());
      };
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

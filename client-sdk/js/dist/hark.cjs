// hark-client, made of client-sdk/js/src by `npm run build`.
"use strict";
var __defProp = Object.defineProperty;
var __getOwnPropDesc = Object.getOwnPropertyDescriptor;
var __getOwnPropNames = Object.getOwnPropertyNames;
var __hasOwnProp = Object.prototype.hasOwnProperty;
var __export = (target, all) => {
  for (var name in all)
    __defProp(target, name, { get: all[name], enumerable: true });
};
var __copyProps = (to, from, except, desc) => {
  if (from && typeof from === "object" || typeof from === "function") {
    for (let key of __getOwnPropNames(from))
      if (!__hasOwnProp.call(to, key) && key !== except)
        __defProp(to, key, { get: () => from[key], enumerable: !(desc = __getOwnPropDesc(from, key)) || desc.enumerable });
  }
  return to;
};
var __toCommonJS = (mod) => __copyProps(__defProp({}, "__esModule", { value: true }), mod);

// src/index.js
var index_exports = {};
__export(index_exports, {
  ConnectionError: () => ConnectionError,
  HarkError: () => HarkError,
  PublishError: () => PublishError,
  SubscribeError: () => SubscribeError,
  connect: () => connect,
  localCursor: () => localCursor
});
module.exports = __toCommonJS(index_exports);

// src/bytes.js
var DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
var VALUES = new Uint8Array(128);
for (let value = 0; value < 64; value++) VALUES[DIGITS.charCodeAt(value)] = value;
var toBase64 = (bytes) => {
  let text = "";
  for (let at = 0; at < bytes.length; at += 3) {
    const three = bytes[at] << 16 | bytes[at + 1] << 8 | bytes[at + 2];
    text += DIGITS[three >> 18] + DIGITS[three >> 12 & 63] + DIGITS[three >> 6 & 63] + DIGITS[three & 63];
  }
  const missing = (3 - bytes.length % 3) % 3;
  return text.slice(0, text.length - missing) + "==".slice(0, missing);
};
var fromBase64 = (text) => {
  const digits = text.indexOf("=") < 0 ? text.length : text.indexOf("=");
  const bytes = new Uint8Array(digits * 3 >> 2);
  let value = 0;
  for (let at = 0, bits = 0, filled = 0; at < digits; at++) {
    value = value << 6 | VALUES[text.charCodeAt(at)];
    bits += 6;
    if (bits >= 8) bytes[filled++] = value >> (bits -= 8);
  }
  return bytes;
};
var saysText = (contentType) => /^text\/[^;]*(;\s*charset\s*=\s*"*(utf-8|us-ascii)"*\s*|;(?!\s*charset\s*=)[^;]*)*$/i.test(contentType);
var bytesOf = (data) => ArrayBuffer.isView(data) ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength) : /^\[object (Shared)?ArrayBuffer\]$/.test(Object.prototype.toString.call(data)) ? new Uint8Array(data) : void 0;
var readBytes = (base64, contentType = "") => {
  const bytes = fromBase64(base64);
  if (!saysText(contentType)) return bytes;
  let text = "";
  for (const byte of bytes) text += "%" + byte.toString(16).padStart(2, "0");
  try {
    return decodeURIComponent(text);
  } catch {
    return bytes;
  }
};
var isLarger = (text, limit) => text.length * 3 > limit && lengthOf(text) > limit;
var lengthOf = (text) => {
  let length = text.length;
  for (let at = 0; at < text.length; at++) {
    const unit = text.charCodeAt(at);
    if (unit > 127) length += unit > 2047 && (unit < 55296 || unit > 57343) ? 2 : 1;
  }
  return length;
};

// src/cursor.js
var parseCursor = (cursor) => {
  const colon = cursor.lastIndexOf(":");
  return { epoch: cursor.slice(0, colon), offset: +cursor.slice(colon + 1) };
};
var formatCursor = ({ epoch, offset }) => `${epoch}:${offset}`;
var isCursor = (text) => typeof text === "string" && /^[^\s:]+:\d+$/.test(text);
var locals = /* @__PURE__ */ new Map();
var localCursor = (key) => {
  const name = `hark:${key}`;
  const local = locals.get(name) ?? {
    load() {
      try {
        return localStorage.getItem(name);
      } catch {
        return null;
      }
    },
    save(cursor) {
      try {
        localStorage.setItem(name, cursor);
      } catch {
      }
    }
  };
  locals.set(name, local);
  return local;
};

// src/errors.js
var HarkError = class extends Error {
  /**
   * @param {string} code
   * @param {string} message
   */
  constructor(code, message) {
    super(message);
    this.name = "HarkError";
    this.code = code;
  }
};
var ConnectionError = class extends HarkError {
  name = "ConnectionError";
};
var PublishError = class extends HarkError {
  name = "PublishError";
  /**
   * @param {string} code
   * @param {string} message
   * @param {string} topic
   * @param {boolean} maybeKept
   */
  constructor(code, message, topic, maybeKept) {
    super(code, message);
    this.topic = topic;
    this.maybeKept = maybeKept;
  }
};
var SubscribeError = class extends HarkError {
  name = "SubscribeError";
  /**
   * @param {string} code
   * @param {string} message
   * @param {string} topic
   */
  constructor(code, message, topic) {
    super(code, message);
    this.topic = topic;
  }
};
var tooLarge = (bytes) => `the message makes a frame of more than ${bytes} bytes`;
var PASSING = ["busy", "log_unavailable", "rate_limited", "internal"];
var VIOLATIONS = [1002, 1003, 1007, 1009];
var mayPass = (code) => PASSING.includes(code);
var isFinalClose = (code) => code >= 4400 && code < 4500;
var isViolation = (code) => VIOLATIONS.includes(code);

// src/checks.js
var refuse = (isBad, code, message) => {
  if (isBad) throw new HarkError(code, message);
};
var isText = (text, bad = /\p{Cs}/u) => typeof text === "string" && !bad.test(text);
var checkName = (name, text, least, most) => refuse(
  !isText(text, /[\p{Cs}\p{Cc}]/u) || text.length < least || isLarger(text, most),
  "bad_frame",
  `${name} has ${least} to ${most} bytes and no control characters`
);
var checkTopic = (topic, publishes) => refuse(
  typeof topic !== "string" || topic.length > 255 || !/^\$?[\w:@-]+(\.[\w:@-]+)*$/.test(topic) || publishes && topic[0] === "$",
  "bad_topic",
  "a topic has 1 to 255 of A-Z a-z 0-9 _ - : @ with dots between; those that begin with $ are Hark's"
);
var isOpaque = (value) => typeof value === "object" && !/^\[object (Object|Array|Null|Number|String|Boolean)\]$/.test(Object.prototype.toString.call(value)) && (ArrayBuffer.isView(value) || !Object.keys(value).length);
var writeJson = (data) => {
  let text;
  try {
    text = JSON.stringify(data, (_, value) => {
      if (isOpaque(value)) throw new TypeError(`${Object.prototype.toString.call(value)} has no JSON`);
      return value;
    });
  } catch (error) {
    refuse(true, "bad_data", `the data is nothing that JSON can say: ${error}`);
  }
  refuse(text === void 0, "bad_data", `the data is nothing that JSON can say: ${typeof data}`);
  return (
    /** @type {string} */
    text
  );
};
var checkPublish = ({ headers, contentType, messageId }) => {
  const pairs = Object.entries(headers ??= {});
  refuse(
    typeof headers !== "object" || Array.isArray(headers) || isOpaque(headers) || "" in headers || !pairs.flat().every((text) => isText(text)),
    "bad_frame",
    "headers are an object of texts, all with names"
  );
  refuse(
    pairs.length > 32 || isLarger(pairs.flat().join(""), 4096),
    "too_large",
    "at most 32 headers and 4096 bytes of them"
  );
  checkName("contentType", contentType ?? "", 0, 255);
  checkName("messageId", messageId ?? "-", 1, 64);
};
var checkText = (text, contentType) => refuse(
  !isText(text) || !saysText(contentType),
  "bad_frame",
  "contentType goes with bytes, or, as text/… of no other charset than utf-8, with a string of whole characters"
);
var readFrom = (from) => {
  if (from === "now" || from === "earliest") return from;
  const { after, last, since } = from ?? {};
  if (isCursor(after)) return { after };
  if (Number.isSafeInteger(last) && last >= 0) return { last };
  const time = since?.toJSON?.() ?? since;
  refuse(
    typeof time !== "string",
    "bad_cursor",
    "from is now, earliest, { after: cursor }, { last: 50 } or { since: time }"
  );
  return { since: time };
};

// src/body.js
var writeBody = (data, options) => {
  checkPublish(options);
  const { headers, contentType, messageId } = options;
  const bytes = bytesOf(data);
  const json = bytes ? `"${toBase64(bytes)}"` : writeJson(data);
  const isText2 = contentType != null && !bytes;
  if (isText2) checkText(data, contentType);
  const more = { content_type: contentType ?? void 0, headers, message_id: messageId ?? void 0 };
  const rest = JSON.stringify(more).slice(1, -1);
  return `"${bytes ? "data_base64" : isText2 ? "text" : "data"}":${json}${rest && ","}${rest}`;
};

// src/backoff.js
var draw = (failures, firstMs = 50, longestMs = 5e3, random = Math.random) => random() * Math.min(longestMs, firstMs * 2 ** failures);

// src/clock.js
var now = () => performance.now();
var mark = () => ({ monotonicMs: now(), wallMs: Date.now() });
var elapsedSince = ({ monotonicMs, wallMs }) => Math.max(0, now() - monotonicMs, Date.now() - wallMs);

// src/figures.js
var PROOF_MS = 1e4;
var FIRST_WAIT_MS = 250;
var LONGEST_WAIT_IN_THE_FIRST_MINUTE_MS = 5e3;
var LONGEST_WAIT_MS = 2e4;
var LONGEST_RETRY_AFTER_MS = 3e5;
var ASK_WHEN_UNANSWERED_FOR_MS = 5e3;
var ANSWER_WITHIN_MS = 3e3;
var LOSSES_BEFORE_THE_NEXT_TRANSPORT = 2;
var LOSSES_BEFORE_AN_EVENT_STREAM = 2;
var LOSSES_BEFORE_STUCK = 5;
var STUCK_RETRY_MS = 6e4;
var TRIES_BEFORE_A_CLOSE_CODE_IS_FINAL = 3;

// src/timer.js
var LONGEST_MS = 2 ** 31 - 1;
var clamp = (ms) => Math.min(Math.max(ms, 0) || 0, LONGEST_MS);
var later = (ms, run) => setTimeout(run, clamp(ms));
var within = async (work, ms, late) => {
  let timer;
  const tooLate = new Promise((_, reject) => timer = later(ms, () => reject(late())));
  try {
    return await Promise.race([work, tooLate]);
  } finally {
    clearTimeout(timer);
  }
};

// src/deadline.js
var LATE_MS = 2e3;
var Deadline = class {
  #expire;
  #at = 0;
  /** A late verdict was put off. Only once: timers that always run late would keep what is dead for ever. */
  #isDoubted = false;
  /** When the timer looks. */
  #looksAt = Infinity;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /**
   * @param {number} ms
   * @param {() => void} expire
   */
  constructor(ms, expire) {
    this.#expire = expire;
    this.set(ms);
  }
  /** So long from now on. One that is put off needs no new timer: a body has many pieces. */
  set(ms) {
    this.#at = now() + ms;
    this.#isDoubted = false;
    if (this.#at < this.#looksAt) this.#look();
  }
  clear() {
    clearTimeout(this.#timer);
  }
  #look() {
    clearTimeout(this.#timer);
    this.#looksAt = this.#at;
    this.#timer = later(this.#at - now(), () => {
      if (now() - this.#at > LATE_MS && !this.#isDoubted) {
        this.#isDoubted = true;
        this.#at = now() + ANSWER_WITHIN_MS;
      }
      if (now() < this.#at) this.#look();
      else this.#expire();
    });
  }
};

// src/exchange.js
var MOST_CHARS = 1 << 22;
var PAGE_BYTES = 1 << 20;
var SLOWEST_BYTES_PER_MS = 4.096;
var unseenMs = (bytes) => bytes / SLOWEST_BYTES_PER_MS;
var Lost = class extends Error {
  /** @param {import("./line.js").Loss} loss */
  constructor(loss) {
    super(loss.error?.message);
    this.loss = loss;
  }
};
var lost = (code, message, more) => new Lost({ error: new ConnectionError(code, message), ...more });
var exchange = async ({ url, fetch, init, signal, patienceMs, pieceMs, moved, late }, use) => {
  const stop = new AbortController();
  let failure;
  let giveUp = () => {
  };
  const end = (error) => {
    failure = error;
    giveUp(error);
    stop.abort();
  };
  const wait = (promise) => new Promise((resolve, reject) => {
    giveUp = reject;
    promise.then(resolve, reject);
    if (failure) reject(failure);
  });
  const stopped = () => end(new Error("stopped"));
  const deadline = new Deadline(patienceMs + (showsNothing(fetch) ? unseenMs(PAGE_BYTES) : 0), () => end(late()));
  signal.addEventListener("abort", stopped);
  if (signal.aborted) stopped();
  try {
    if (failure) throw failure;
    const response = await wait(send(fetch, url, { ...init, signal: stop.signal }));
    if (response.body === void 0) withoutStreams.add(fetch);
    const allow = (ms) => deadline.set(ms);
    return await use(new Answer(response, { wait, allow, moved, pieceMs }));
  } finally {
    signal.removeEventListener("abort", stopped);
    deadline.clear();
    stop.abort();
  }
};
var Answer = class {
  #pieceMs = 0;
  #response;
  #wait;
  #allow;
  #moved;
  /**
   * @param {Response} response
   * @param {{ wait: Wait, allow: (ms: number) => void, moved: () => void, pieceMs: number }} watch
   */
  constructor(response, { wait, allow, moved, pieceMs }) {
    this.#response = response;
    this.#wait = wait;
    this.#allow = allow;
    this.#moved = moved;
    this.allow(pieceMs);
  }
  get ok() {
    return this.#response.ok;
  }
  get status() {
    return this.#response.status;
  }
  /** @param {string} name */
  header(name) {
    return this.#response.headers.get(name) ?? "";
  }
  /** Whether the body is seen while it comes. */
  get streams() {
    return !!this.#response.body?.getReader && !!globalThis.TextDecoder;
  }
  /** From now on each piece gives so much time anew, and so does this one; 0: none does. */
  allow(pieceMs) {
    this.#pieceMs = pieceMs;
    if (pieceMs) this.#allow(pieceMs);
  }
  /** The whole body. */
  async text() {
    let text = "";
    for await (const piece of this.#pieces()) {
      text += piece;
      if (text.length > MOST_CHARS * 2) throw lost("lost", "an answer without an end");
    }
    return text;
  }
  /** The lines of the body as they come. */
  async *lines() {
    let rest = "";
    for await (const piece of this.#pieces()) {
      const lines = piece.split("\n");
      lines[0] = rest + lines[0];
      rest = lines.pop() ?? "";
      if (rest.length > MOST_CHARS) throw lost("lost", "a line without an end");
      for (const line of lines) yield line.endsWith("\r") ? line.slice(0, -1) : line;
    }
    if (rest) yield rest;
  }
  async *#pieces() {
    const { body } = this.#response;
    if (!body || !this.streams) {
      this.#allow(this.#pieceMs + unseenMs(PAGE_BYTES));
      yield await this.#wait(this.#response.text());
      this.#moved();
      return;
    }
    const reader = body.getReader();
    const decoder = new TextDecoder();
    try {
      for (; ; ) {
        const { done, value } = await this.#wait(reader.read());
        this.allow(this.#pieceMs);
        this.#moved();
        yield decoder.decode(value, { stream: !done });
        if (done) return;
      }
    } finally {
      reader.cancel().catch(() => {
      });
    }
  }
};
var withoutStreams = /* @__PURE__ */ new WeakSet();
var showsNothing = (fetch) => withoutStreams.has(fetch) || fetch === globalThis.fetch && !("body" in globalThis.Response.prototype);
var withoutCache = /* @__PURE__ */ new WeakSet();
var send = async (fetch, url, init) => {
  if (!withoutCache.has(fetch)) {
    try {
      return await fetch(url, { ...init, cache: "no-store" });
    } catch (error) {
      if (!/\bcache\b/i.test(String(error)) || init.signal?.aborted) throw error;
      withoutCache.add(fetch);
    }
  }
  return fetch(url, init);
};

// src/publisher.js
var MOST_BYTES = 1 << 20;
var LEAST_BYTES = 1 << 14;
var SLOW_MS = 2e4;
var mostBytes = /* @__PURE__ */ new WeakMap();
var Publisher = class {
  #line;
  /** As many as the outbox lets be unanswered, at most. @type {Message[]} */
  #waiting = [];
  /** A request is under way. @type {AbortController | undefined} */
  #stop;
  /** What something in between takes: a batch is never too large for Hark. */
  #foreignMost = MOST_BYTES;
  #isOver = false;
  /** @param {import("./http.js").HttpLine} line */
  constructor(line) {
    this.#line = line;
  }
  get isIdle() {
    return !this.#stop;
  }
  /** @param {Message} message */
  publish(message) {
    this.#waiting.push(message);
    if (!this.#stop) this.#line.guard(() => this.#publishAll());
  }
  /** What is under way is sent again: its connection went with the network. */
  again() {
    this.#stop?.abort();
  }
  close() {
    this.#isOver = true;
    this.#stop?.abort();
  }
  async #publishAll() {
    this.#stop = new AbortController();
    await void 0;
    while (this.#waiting.length && !this.#isOver) {
      this.#stop = new AbortController();
      const batch = this.#nextBatch();
      const open = new Map(batch.map((message) => [message.id, message]));
      const isAgain = await this.#post(batch, open, this.#stop.signal);
      if (isAgain) this.#waiting.unshift(...open.values());
    }
    this.#stop = void 0;
  }
  /** As many as a request may hold, though always one. */
  #nextBatch() {
    let count = 0;
    for (let bytes = 0; count < this.#waiting.length; count++) {
      bytes += lengthOf(this.#waiting[count].text) + 1;
      if (count && bytes > this.#most) break;
    }
    return this.#waiting.splice(0, count);
  }
  get #most() {
    return Math.min(mostBytes.get(this.#line.fetch) ?? MOST_BYTES, this.#foreignMost);
  }
  set #most(bytes) {
    mostBytes.set(this.#line.fetch, Math.min(Math.max(bytes, LEAST_BYTES), MOST_BYTES));
  }
  /**
   * Whether what is open is to be sent again.
   *
   * @param {Message[]} batch
   * @param {Map<number, Message>} open
   * @param {AbortSignal} signal
   */
  async #post(batch, open, signal) {
    const body = batch.map(({ text }) => text).join("\n");
    const bytes = lengthOf(body);
    const began = now();
    let status = 0;
    const use = async (answer) => {
      status = answer.status;
      if (answer.status === 413 && batch.length > 1) {
        this.#foreignMost = bytes / 2;
        return true;
      }
      const refusal = !answer.ok && await this.#line.refusalOf(answer);
      if (refusal) for (const { id } of batch) this.#line.tell({ ...refusal, type: "error", id });
      else await this.#hearAll(answer, open);
      if (bytes > this.#most / 2) this.#most *= now() - began > SLOW_MS ? 1 / 2 : 2;
      return false;
    };
    try {
      return await this.#line.post(body, bytes, signal, use);
    } catch (error) {
      if (signal.aborted) return true;
      if (open.size === batch.length && bytes > LEAST_BYTES) this.#most = bytes / 2;
      if (status === 401 || status === 429 || status >= 500) throw error;
      const { loss } = error instanceof Lost ? error : lost("lost", `a publish broke off: ${error}`);
      if (!(error instanceof Lost)) await this.#line.makeSure();
      throw new Lost({ ...loss, unanswered: [...open.keys()] });
    }
  }
  /**
   * @param {import("./exchange.js").Answer} answer
   * @param {Map<number, Message>} open
   */
  async #hearAll(answer, open) {
    let refusal;
    for await (const line of answer.lines()) {
      const frame = line && this.#line.parse(line);
      if (!frame) continue;
      const type = frame.code ? "error" : frame.receipts ? "published_all" : "published";
      if (open.delete(frame.id)) this.#line.tell({ ...frame, type });
      else if (frame.code) refusal = frame;
    }
    if (!open.size) return;
    const { code = "lost", message = "not every message was answered" } = refusal ?? {};
    throw lost(code, message, { refused: code === "unauthenticated", unusable: !this.#line.isOpen });
  }
};

// src/query.js
var inQuery = (from) => {
  if (typeof from === "string") return from;
  const [[word, value]] = Object.entries(from);
  return word === "after" ? value : `${word}:${value}`;
};
var queryOf = (topic, from) => `topic=${encodeURIComponent(topic)}&from=${encodeURIComponent(from)}`;
var queryOfAll = (topics) => [...topics].map(([topic, { from }]) => queryOf(topic, from)).join("&");

// src/refusal.js
var CODES = `
  bad_frame bad_topic bad_cursor too_large unauthenticated forbidden expiring not_subscribed already_subscribed
  too_many_subscriptions too_many_topics out_of_sequence rate_limited busy log_unavailable unsupported internal`.trim().split(/\s+/);
var refusalOf = async (answer, base, foreign, hasToken) => {
  const { status } = answer;
  const text = await answer.text();
  const { code, message } = read(text);
  const retryAfterMs = retryAfterOf(answer);
  if (!code) {
    const passes = status === 429 || status >= 500;
    const sentence = `${base} is no Hark: status ${status}: ${text.slice(0, 200)}`;
    throw lost("unreachable", sentence, passes ? { retryAfterMs } : { ...foreign, retryAfterMs });
  }
  if (status === 401) throw lost("unauthenticated", message, { refused: true });
  if (status === 501 && code === "unsupported" && hasToken) throw lost(code, message, { final: true });
  if (mayPass(code) || status === 408) throw lost(code, message, { retryAfterMs });
  return { code, message };
};
var read = (text) => {
  try {
    const { code, message } = JSON.parse(text);
    if (CODES.includes(code)) return { code, message: String(message) };
  } catch {
  }
  return { code: "", message: "" };
};
var retryAfterOf = (answer) => {
  const value = answer.header("retry-after").trim();
  const ms = /^\d+$/.test(value) ? Number(value) * 1e3 : Date.parse(value) - (Date.parse(answer.header("date")) || Date.now());
  return ms > 0 ? Math.min(ms, LONGEST_RETRY_AFTER_MS) : void 0;
};

// src/sharing.js
var PLACES = 4;
var HANG_MS = 5e3;
var CROWDED_MS = 3e5;
var COUNT_MS = 100;
var AGAIN_MS = 1e4;
var Sharing = class {
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
  #counts = /* @__PURE__ */ new Map();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #easing;
  /** Called when there may be a place. @type {Set<Release>} */
  #waiting = /* @__PURE__ */ new Set();
  /**
   * @param {string} base
   * @param {() => void} crowded no stream may go on as it does
   */
  constructor(base, crowded) {
    this.#name = `hark ${base}`;
    this.#crowded = crowded;
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
      this.#locks = void 0;
      this.#watch();
    }
    if (this.#locks || this.#easing) return void 0;
    if (!this.#watches) return () => {
    };
    if (await this.#countOthers() + this.#held >= PLACES) return void 0;
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
    if (!this.#watches) return () => {
    };
    const timer = later(HANG_MS + ms, () => {
      this.#tell({ crowded: true });
      this.#crowd();
    });
    return () => clearTimeout(timer);
  }
  close() {
    this.#watches = false;
    this.#channel?.close();
    this.#channel = void 0;
    clearTimeout(this.#easing);
  }
  #watch() {
    if (this.#watches) return;
    this.#watches = true;
    if (!globalThis.BroadcastChannel) return;
    try {
      this.#channel = new BroadcastChannel(this.#name);
    } catch {
      return;
    }
    this.#channel.onmessage = ({ data }) => this.#hear(data);
  }
  /** @param {Word} word */
  #tell(word) {
    this.#channel?.postMessage(word);
  }
  /** @param {Word} word */
  #hear({ asks, to = 0, held: held2 = 0, left, crowded }) {
    const count = this.#counts.get(to);
    if (count !== void 0) this.#counts.set(to, count + held2);
    if (asks) this.#tell({ to: asks, held: this.#held + this.#counts.size });
    if (left) for (const look of this.#waiting) look();
    if (crowded) this.#crowd();
  }
  async #countOthers() {
    if (!this.#channel) return 0;
    const question = Math.random();
    this.#counts.set(question, 0);
    this.#tell({ asks: question });
    await new Promise((resolve) => later(COUNT_MS, () => resolve(void 0)));
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
      const lookIn = (ms) => {
        clearTimeout(timer);
        timer = later(ms * (0.5 + Math.random() / 2), look);
      };
      const soon = () => lookIn(1e3);
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
    this.#easing = later(CROWDED_MS, () => this.#easing = void 0);
    if (isNew) this.#crowded();
  }
};
var Place = class {
  isHeld = false;
  /** It is known whether one was free. */
  known;
  #sharing;
  #came;
  #stop = new AbortController();
  #release = () => {
  };
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
};
var hold = (locks, name, options) => new Promise((resolve, reject) => {
  const held2 = (lock) => lock ? new Promise((release) => resolve(release)) : resolve(void 0);
  locks.request(name, options, held2).catch(reject);
});
var waitForLock = (locks, name, signal) => new Promise((resolve) => {
  const others = new AbortController();
  signal.addEventListener("abort", () => others.abort());
  for (let n = 1; n <= PLACES; n++) {
    hold(locks, `${name} ${n}`, { signal: others.signal }).then(
      (release) => {
        if (others.signal.aborted) return release?.();
        others.abort();
        resolve(
          /** @type {Release} */
          release
        );
      },
      // Another one came first, or nobody waits any more.
      () => {
      }
    );
  }
});

// src/pages.js
var LIMIT = 1e3;
var WAIT_MS = 25e3;
var PATIENCE_MS = 15e3;
var PAUSE_MS = 1e3;
var readPages = async (line, run) => {
  const { signal } = run.stop;
  for (; ; ) {
    const began = now();
    const isAsked = [...run.topics.values()].some(({ placed, ask }) => !placed || ask);
    const waitMs = isAsked || run.isBrief ? 0 : WAIT_MS;
    let heard = 0;
    const poll = () => line.get(run, pathOf(queryOfAll(run.topics), waitMs), waitMs, PATIENCE_MS, async (answer) => {
      const text = await answer.text();
      const { pages } = line.parse(text);
      const isOurs = Array.isArray(pages) && (!run.topics.size || pages.some(({ topic }) => run.topics.has(topic)));
      if (!isOurs) throw line.foreign(text);
      for (const page of pages) heard += hearPage(line, run, page, text.length);
    });
    const goesOn = await (run.isBrief ? line.sharing.turn(signal, poll) : poll());
    if (!goesOn || signal.aborted) return;
    const isFast = now() - began < PAUSE_MS;
    if (!heard && (run.isBrief || waitMs && isFast)) await pause(PAUSE_MS, signal);
  }
};
var pathOf = (query, waitMs) => `/v1/messages?${query}&limit=${LIMIT}${waitMs ? `&wait=${waitMs / 1e3}` : ""}`;
var pause = (ms, signal) => new Promise((resolve) => {
  const end = () => {
    clearTimeout(timer);
    signal.removeEventListener("abort", end);
    resolve();
  };
  const timer = later(ms, end);
  signal.addEventListener("abort", end);
});
var hearPage = (line, run, { topic: name, messages, cursor, caught_up, gap }, size) => {
  const topic = run.topics.get(name);
  if (!topic) return 0;
  line.hear(run, { type: "subscribed", topic: name, ...startOf(topic, messages[0], cursor, gap) }, 0);
  if (gap) line.hear(run, gap, 0);
  for (const message of messages) line.hear(run, message, size / messages.length);
  if (caught_up && !topic.live) line.hear(run, { type: "caught_up", topic: name, cursor }, 0);
  topic.live ||= caught_up;
  topic.from = cursor;
  return messages.length + (gap ? 1 : 0);
};
var startOf = ({ placed, from }, first, cursor, gap) => {
  if (gap) return { cursor: placed ? from : gap.cursor, resumed: false };
  if (!first) return { cursor, resumed: placed };
  const offset = placed ? parseCursor(from).offset : first.prev ?? first.offset - 1;
  return { cursor: formatCursor({ ...parseCursor(cursor), offset }), resumed: placed };
};

// src/streams.js
var STREAM_TOPICS = 32;
var STREAM_QUERY_CHARS = 6e3;
var Silent = class extends Error {
};
var Streams = class {
  #line;
  #read;
  #regrouped;
  /** @type {Set<Stream>} */
  #streams = /* @__PURE__ */ new Set();
  /** Topics that no stream reads yet. @type {Map<string, Topic>} */
  #added = /* @__PURE__ */ new Map();
  /** @type {Set<Stream>} */
  #changed = /* @__PURE__ */ new Set();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #regrouping;
  /**
   * @param {HttpLine} line
   * @param {Read} read
   * @param {() => void} regrouped what was said is asked for now
   */
  constructor(line, read2, regrouped) {
    this.#line = line;
    this.#read = read2;
    this.#regrouped = regrouped;
  }
  get isEmpty() {
    return !this.#streams.size && !this.#added.size;
  }
  /**
   * @param {string} name
   * @param {number} ask
   * @param {any} from
   */
  add(name, ask, from) {
    const size = encodeURIComponent(name).length + 80;
    this.#added.set(name, { ask, from: inQuery(from), placed: !!from.after, size, live: false });
    this.regroupSoon();
  }
  /** @param {string} name */
  remove(name) {
    this.#added.delete(name);
    for (const stream of this.#streams) if (stream.topics.delete(name)) this.#changed.add(stream);
    this.regroupSoon();
  }
  /** What is said in one turn changes the streams once. */
  regroupSoon() {
    this.#regrouping ??= later(0, () => this.#regroup());
  }
  /** @param {boolean} online their connections are gone; else those that have been silent for too long are started again */
  check(online) {
    for (const stream of this.#streams) {
      const { run } = stream;
      if (online || run && elapsedSince(run.heard) >= run.quietMs) this.#start(stream);
    }
  }
  /** @param {boolean} [isCrowded] and none of them has its place any more */
  startAll(isCrowded = false) {
    for (const stream of this.#streams) {
      if (isCrowded) {
        stream.place?.leave();
        stream.place = void 0;
      }
      this.#start(stream);
    }
  }
  close() {
    clearTimeout(this.#regrouping);
    for (const { run, place } of this.#streams) {
      run?.stop.abort();
      place?.leave();
    }
  }
  /** @param {Run} run */
  moved(run) {
    run.heard = mark();
    if (run.began !== void 0 && now() - run.began >= PROOF_MS) run.stream.isProven = true;
  }
  /**
   * @param {Run} run
   * @param {any} frame of a topic
   * @param {number} size
   */
  hear(run, frame, size) {
    const { type, topic: name, offset, cursor } = frame;
    const topic = run.topics.get(name);
    if (!topic) return;
    const id = topic.ask;
    topic.from = type === "message" ? formatCursor({ ...parseCursor(topic.from), offset }) : cursor ?? topic.from;
    topic.placed = true;
    if (type === "subscribed") {
      topic.ask = 0;
      run.began ??= now();
    }
    this.#line.tell({ ...frame, id }, size);
  }
  /** Gives new topics to streams, and starts those again whose topics have changed. */
  #regroup() {
    this.#regrouping = void 0;
    for (const [name, topic] of this.#added) {
      const hasRoom = ({ topics }) => {
        const chars = [...topics.values()].reduce((sum, { size }) => sum + size, topic.size);
        return topics.size < STREAM_TOPICS && chars <= STREAM_QUERY_CHARS;
      };
      const stream = [...this.#streams].find(hasRoom) ?? { topics: /* @__PURE__ */ new Map(), isProven: false };
      stream.topics.set(name, topic);
      this.#streams.add(stream);
      this.#changed.add(stream);
    }
    this.#added.clear();
    for (const stream of this.#changed) this.#start(stream);
    this.#changed.clear();
    this.#regrouped();
  }
  /** @param {Stream} stream */
  #start(stream) {
    const { topics } = stream;
    stream.run?.stop.abort();
    if (!topics.size) {
      stream.place?.leave();
      this.#streams.delete(stream);
      return;
    }
    const stop = new AbortController();
    const run = { stream, topics, stop, isBrief: false, heard: mark(), quietMs: this.#line.patienceMs };
    stream.run = run;
    this.#line.guard(async () => {
      try {
        await this.#follow(run);
      } catch (error) {
        if (stop.signal.aborted) return;
        if (error instanceof Silent) return this.#restartSilent(stream);
        if (error instanceof Lost || this.#line.heard || run.isBrief) throw error;
        await this.#line.ask();
        throw lost("unreachable", `event streams break off: ${error}`, { unusable: true });
      }
    });
  }
  /** @param {Run} run */
  async #follow(run) {
    const { stream, stop } = run;
    const place = stream.place ??= new Place(this.#line.sharing, () => this.#start(stream));
    await place.known;
    if (stop.signal.aborted) return;
    run.isBrief = !place.isHeld;
    await (run.isBrief ? readPages : this.#read)(this.#line, run);
  }
  /**
   * Its connection is gone, or something lets through only what comes first. If nothing speaks against the second, another
   * transport is the better guess: this one is tried again in the background.
   *
   * @param {Stream} stream
   */
  #restartSilent(stream) {
    if (!stream.isProven)
      return this.#line.lose(lost("unreachable", "the event stream fell silent", { unusable: true }));
    stream.isProven = false;
    this.#start(stream);
  }
};

// src/http.js
var PUBLISH_PATIENCE_MS = 6e4;
var SHORT_BYTES = 8192;
var HttpLine = class {
  /** Hark has answered. */
  isOpen = false;
  /** A stream of this transport has brought something: from then on what fails says nothing against the transport. */
  heard = false;
  sharing;
  #dial;
  #listener;
  #token;
  #over = false;
  #streams;
  #publisher;
  #stop = new AbortController();
  #isAsking = false;
  /** Answers of its own that wait until the line is open. @type {any[]} */
  #answers = [];
  /**
   * @param {import("./line.js").Dial} dial
   * @param {import("./line.js").Listener} listener
   * @param {import("./streams.js").Read} read
   */
  constructor(dial, listener, read2) {
    this.#dial = dial;
    this.#listener = listener;
    this.#token = dial.token;
    this.sharing = new Sharing(dial.base, () => this.#streams.startAll(true));
    this.#publisher = new Publisher(this);
    this.#streams = new Streams(this, read2, () => {
      if (!this.isOpen && this.#streams.isEmpty && this.#publisher.isIdle) this.#askOnce();
    });
    queueMicrotask(() => {
      if (this.#over) return;
      listener.ready();
      this.#streams.regroupSoon();
    });
  }
  /** @param {any} frame */
  say({ type, id, topic, from, token }) {
    if (type === "auth") {
      this.#token = token;
      this.#streams.startAll();
    }
    if (type === "ping" && id) this.#answer({ type: "pong", id });
    if (type === "subscribe") this.#streams.add(topic, id, from);
    if (type === "unsubscribe") {
      this.#streams.remove(topic);
      this.#answer({ type: "unsubscribed", id, topic });
    }
  }
  /**
   * @param {number} id
   * @param {string} text
   */
  publish(id, text) {
    this.#publisher.publish({ id, text });
  }
  /** @param {boolean} online the network was away, and with it all connections */
  check(online) {
    if (online) this.#publisher.again();
    this.#streams.check(online);
  }
  close() {
    if (this.#over) return;
    this.#over = true;
    this.#stop.abort();
    this.#publisher.close();
    this.#streams.close();
    this.sharing.close();
  }
  // --- what follows is for streams and their readers, and for the publisher ---
  get patienceMs() {
    return this.#dial.patienceMs;
  }
  /**
   * Asks for a stream, or a part of it. Whether the run goes on: not when a topic was refused, and the stream is started again
   * without it.
   *
   * @param {Run} run
   * @param {string} path
   * @param {number} waitMs how long Hark may wait with its answer
   * @param {number} pieceMs the time that each piece of the body gives it anew
   * @param {(answer: Answer) => Promise<Refusal | void>} use
   * @param {() => Error} [late]
   */
  async get(run, path, waitMs, pieceMs, use, late = () => this.#late({ unusable: !this.heard })) {
    if (!this.isOpen) pieceMs = Math.min(pieceMs, this.patienceMs);
    const patienceMs = waitMs + Math.max(pieceMs, this.patienceMs);
    run.quietMs = waitMs + ANSWER_WITHIN_MS;
    const moved = () => this.#streams.moved(run);
    const request = { path, signal: run.stop.signal, patienceMs, pieceMs, waitMs, moved, late };
    const refusal = await this.#exchange(request, (answer) => {
      if (!answer.ok) return refusalOf(answer, this.#dial.base, { unusable: !this.heard }, !!this.#token);
      if (answer.header("hark-cursor")) this.#open();
      return use(answer);
    });
    if (!refusal) return true;
    await this.#takeOut(run, refusal);
    return false;
  }
  /**
   * @param {Run} run
   * @param {any} frame
   * @param {number} size
   */
  hear(run, frame, size) {
    if (run.stop.signal.aborted || this.#over) return;
    this.heard ||= !run.isBrief;
    const { type } = frame;
    if (type === "welcome") this.#open(frame.version);
    if (type === "welcome" || type === "error") this.tell(frame);
    else this.#streams.hear(run, frame, size);
  }
  get fetch() {
    return this.#dial.fetch;
  }
  /**
   * @param {string} body
   * @param {number} bytes that it has
   * @param {AbortSignal} signal
   * @param {(answer: Answer) => Promise<T>} use
   * @template T
   */
  async post(body, bytes, signal, use) {
    const waitMs = unseenMs(bytes);
    let pieceMs = PUBLISH_PATIENCE_MS + waitMs;
    const isAlone = !this.isOpen && this.#streams.isEmpty;
    const isShort = bytes <= SHORT_BYTES;
    const asking = isAlone ? later(isShort ? this.patienceMs / 2 : 0, () => this.#askOnce()) : void 0;
    if (isAlone && isShort) pieceMs = this.patienceMs;
    const init = { method: "POST", body, headers: { "content-type": "application/x-ndjson" } };
    const late = () => this.#late({ unusable: !this.isOpen });
    try {
      return await this.#exchange({ path: "/v1/messages", init, signal, patienceMs: pieceMs, pieceMs, waitMs, late }, use);
    } finally {
      clearTimeout(asking);
    }
  }
  /**
   * What a request was refused for, if it was Hark that refused it, and for good.
   *
   * @param {Answer} answer
   */
  refusalOf(answer) {
    return refusalOf(answer, this.#dial.base, { unusable: !this.isOpen }, !!this.#token);
  }
  /**
   * What Hark has written, or somebody else.
   *
   * @param {string} text
   */
  parse(text) {
    try {
      const value = JSON.parse(text);
      if (value && typeof value === "object") return value;
    } catch {
    }
    throw this.foreign(text);
  }
  /** @param {string} text */
  foreign(text) {
    return lost("unreachable", `${this.#dial.base} is no Hark: ${text.slice(0, 200)}`, { unusable: !this.isOpen });
  }
  /**
   * @param {any} frame
   * @param {number} [size]
   */
  tell(frame, size = 0) {
    if (this.#over) return;
    this.#open();
    this.#listener.hear(frame, size);
  }
  /**
   * Any failure is the line's end: what is to be tried again is tried with a new one.
   *
   * @param {() => Promise<unknown>} work
   */
  async guard(work) {
    try {
      await work();
    } catch (error) {
      this.lose(error);
    }
  }
  /** @param {unknown} error */
  lose(error) {
    if (this.#over) return;
    this.close();
    const { base } = this.#dial;
    const unknown = { error: new ConnectionError("unreachable", `${base}: ${error}`) };
    this.#listener.lost(error instanceof Lost ? error.loss : unknown);
  }
  /** Finds out whether Hark is there, unless it has answered before. */
  async makeSure() {
    if (this.isOpen) return;
    await this.ask();
    this.#open();
  }
  /** Publishes nothing: fails if there is no Hark that takes this token, but a cache, a proxy or another server. */
  async ask() {
    await this.post("", 0, this.#stop.signal, async (answer) => {
      const refusal = !answer.ok && await this.refusalOf(answer);
      if (refusal && answer.status === 403) throw lost(refusal.code, refusal.message, { final: true });
      const text = refusal ? "" : await answer.text();
      const isHark = refusal || !text && /ndjson/.test(answer.header("content-type"));
      if (!isHark) throw this.foreign(text);
    });
  }
  // --- inner ---
  /**
   * @template T
   * @param {Pick<import("./exchange.js").Request, "signal" | "patienceMs" | "pieceMs" | "late">
   *   & { path: string, init?: RequestInit, waitMs: number, moved?: () => void }} request
   * @param {(answer: Answer) => Promise<T>} use
   * @returns {Promise<T>}
   */
  async #exchange({ path, init, waitMs, moved, ...request }, use) {
    const { base, fetch } = this.#dial;
    const authorization = this.#token && { authorization: `Bearer ${this.#token}` };
    const headers = { ...init?.headers, ...authorization };
    const answered = this.sharing.request(waitMs);
    try {
      return await exchange(
        {
          ...request,
          url: base + path,
          fetch,
          init: { ...init, headers },
          moved: () => {
            moved?.();
            if (!this.#over) this.#listener.alive();
          }
        },
        (answer) => {
          answered();
          return use(answer);
        }
      );
    } finally {
      answered();
    }
  }
  #askOnce() {
    if (!this.#isAsking && !this.isOpen) this.guard(() => this.makeSure());
    this.#isAsking = true;
  }
  /** @param {string} [version] */
  #open(version) {
    if (this.isOpen || this.#over) return;
    this.isOpen = true;
    this.#listener.open(version);
    for (const frame of this.#answers.splice(0)) this.#answer(frame);
  }
  /** @param {any} frame */
  #answer(frame) {
    if (!this.isOpen) this.#answers.push(frame);
    else queueMicrotask(() => this.tell(frame));
  }
  /** @param {Partial<import("./line.js").Loss>} loss */
  #late(loss) {
    return lost("unreachable", `no answer from ${this.#dial.base} in time`, loss);
  }
  /**
   * Hark refused a stream, and not for a while. Finds out for which topics, and goes on without them.
   *
   * @param {Run} run
   * @param {Refusal} refusal
   */
  async #takeOut({ topics, stop: { signal } }, { code, message }) {
    let found = 0;
    const isOne = topics.size < 2;
    for (const [name, { ask, from }] of [...topics]) {
      let refusal = { code, message };
      if (!isOne) {
        const path = `/v1/messages?limit=1&${queryOf(name, from)}`;
        const late = () => this.#late({});
        const request = { path, signal, patienceMs: this.patienceMs, pieceMs: this.patienceMs, waitMs: 0, late };
        refusal = await this.#exchange(
          request,
          async (answer) => answer.ok ? void await answer.text() : await this.refusalOf(answer)
        );
      }
      if (!refusal) continue;
      found++;
      this.#streams.remove(name);
      this.#open();
      this.#answer(ask ? { type: "error", id: ask, ...refusal } : { type: "unsubscribed", topic: name });
    }
    if (!found) throw lost(code, message);
  }
};

// src/longpoll.js
var openLongPoll = (dial, listener) => new HttpLine(dial, listener, readPages);

// src/proof.js
var Proof = class {
  isGiven = false;
  /** A command was said: a `pong` alone proves nothing any more. */
  isBusy = false;
  #ask;
  #given;
  #isDue = false;
  /** Runs since the first answer. @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /**
   * @param {() => void} ask asks for a sign of life
   * @param {() => void} given
   */
  constructor(ask, given) {
    this.#ask = ask;
    this.#given = given;
  }
  /** @param {string} [type] of the frame, if it was one */
  heard(type = "") {
    if (this.isGiven) return;
    if (this.#isDue) {
      this.isGiven = true;
      this.#given();
    } else if (/^(subscribed|published)/.test(type) || type === "pong" && !this.isBusy) {
      this.#timer ??= later(PROOF_MS, () => {
        this.#isDue = true;
        this.#ask();
      });
    }
  }
  stop() {
    clearTimeout(this.#timer);
  }
};

// src/line.js
var HEARTBEAT_MS = 25e3;

// src/sse.js
var readEvents = async (line, run) => {
  let isWelcome = false;
  const late = () => isWelcome ? new Silent() : held(line);
  await line.get(
    run,
    `/v1/events?${queryOfAll(run.topics)}`,
    0,
    0,
    async (answer) => {
      if (!answer.streams) throw lost("unreachable", "this fetch cannot stream", { unusable: true });
      let retryAfterMs;
      let data = "";
      for await (const text of answer.lines()) {
        if (text.startsWith("data:")) data += text.slice(5);
        if (text.startsWith("retry:")) retryAfterMs = isWelcome ? retryAfterMs : +text.slice(6);
        if (text || !data) continue;
        const frame = JSON.parse(data);
        const { type, code, message } = frame;
        const size = data.length;
        data = "";
        if (type === "welcome") {
          isWelcome = true;
          retryAfterMs = void 0;
          run.quietMs = (frame.heartbeat_ms || HEARTBEAT_MS) + ANSWER_WITHIN_MS;
          answer.allow(run.quietMs);
        }
        if (type === "goodbye") retryAfterMs = frame.retry_after_ms;
        if (type !== "error" || code === "expiring") line.hear(run, frame, size);
        else if (code === "unauthenticated") throw lost(code, message, { refused: true });
        else if (mayPass(code)) throw lost(code, message, { retryAfterMs: frame.retry_after_ms });
        else return { code, message };
      }
      throw isWelcome || retryAfterMs !== void 0 ? lost("lost", "the stream ended", { retryAfterMs }) : held(line);
    },
    late
  );
};
var held = (line) => lost("unreachable", "no welcome on the event stream in time", { unusable: !line.heard });
var openSse = (dial, listener) => new HttpLine(dial, listener, readEvents);

// src/token.js
var Tokens = class {
  #source;
  #patienceMs;
  /** @type {Promise<string | undefined> | undefined} */
  #flight;
  /**
   * @param {import("../hark").Options["token"]} source
   * @param {number} patienceMs how long the callback may take
   */
  constructor(source, patienceMs) {
    this.#source = source;
    this.#patienceMs = patienceMs;
  }
  /** Whether asking again may bring another token. */
  get changes() {
    return typeof this.#source === "function";
  }
  /**
   * @param {TokenReason} reason
   * @returns {Promise<string | undefined>}
   */
  get(reason) {
    const source = this.#source;
    if (typeof source !== "function") return Promise.resolve(source);
    const ms = this.#patienceMs;
    const late = () => new HarkError("no_token", `the token function gave nothing within ${ms} ms`);
    const ask = async () => source(reason);
    return this.#flight ??= within(ask(), ms, late).finally(() => this.#flight = void 0);
  }
};

// src/wake.js
var watchWake = ({ network, looked, left }) => {
  const { window, document, self } = globalThis;
  let hidden = mark();
  const look = () => {
    if (document.visibilityState === "visible") looked(elapsedSince(hidden) > HEARTBEAT_MS);
    else hidden = mark();
  };
  const watched = [
    [window ?? self, "online", () => network(true)],
    [window ?? self, "offline", () => network(false)],
    [window, "pagehide", left],
    // Also a page's first one, with which nothing has happened yet.
    [window, "pageshow", () => looked(false)],
    [document, "visibilitychange", look]
  ];
  for (const [target, type, listener] of watched) target?.addEventListener?.(type, listener);
  return () => {
    for (const [target, type, listener] of watched) target?.removeEventListener?.(type, listener);
  };
};

// src/pulse.js
var LATE_MS2 = ANSWER_WITHIN_MS / 2;
var LOOK_MS = 250;
var MOST_UNSEEN_MS = 6e4;
var Pulse = class {
  heartbeatMs = HEARTBEAT_MS;
  #ask;
  #countLeft;
  #die;
  #heardAt = now();
  #askedAt = 0;
  #isAsked = false;
  /** Since it was asked: when a byte moved last, and how many had not left yet. */
  #movedAt = 0;
  #left = 0;
  /** Bytes that were said since something was heard last. Those that have left may still be in the kernel, which tells a page nothing. */
  #said = 0;
  /** A late verdict has become another question. Only once: a clock that always runs late would keep a dead line for ever. */
  #isDoubted = false;
  /** When each command was said that has no answer, the oldest first. @type {Map<number, number>} */
  #unanswered = /* @__PURE__ */ new Map();
  #plan = { from: mark(), ms: 0 };
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /**
   * @param {() => void} ask
   * @param {() => number} countLeft bytes that were said and have not left yet
   * @param {(reason: string) => void} die
   */
  constructor(ask, countLeft, die) {
    this.#ask = ask;
    this.#countLeft = countLeft;
    this.#die = die;
  }
  start() {
    this.#heardAt = now();
    this.#lookLater();
  }
  stop() {
    clearTimeout(this.#timer);
  }
  /** @param {number} [id] of the command that it answers */
  heard(id) {
    this.#heardAt = now();
    this.#said = 0;
    this.#isAsked = this.#isDoubted = false;
    if (id !== void 0) this.#unanswered.delete(id);
  }
  /**
   * Says something, which moves no byte by being said.
   *
   * @param {() => void} send
   * @param {number} bytes
   * @param {number} [id] of a command: it is to be answered
   */
  say(send2, bytes, id) {
    this.#watch();
    send2();
    this.#said += bytes;
    this.#left = this.#countLeft();
    if (id !== void 0) this.#unanswered.set(id, now());
  }
  ask() {
    this.#isAsked = true;
    this.#ask();
    this.#askedAt = this.#movedAt = now();
    this.#lookLater();
  }
  #watch() {
    const left = this.#countLeft();
    if (left < this.#left) this.#movedAt = now();
    this.#left = left;
  }
  #look() {
    const isLate = elapsedSince(this.#plan.from) > this.#plan.ms + LATE_MS2;
    this.#watch();
    if (!this.#isAsked) {
      if (isLate || now() >= this.#dueAt()) return this.ask();
    } else if (isLate && !this.#isDoubted) {
      this.#isDoubted = true;
      return this.ask();
    } else if (now() >= this.#dueAt()) {
      return this.#die(`nothing heard for ${Math.round(now() - this.#heardAt)} ms, nor any byte that moved`);
    }
    this.#lookLater();
  }
  /** Of a question: when it is too late for an answer. Else: when there is one to ask. */
  #dueAt() {
    const unseen = Math.min(unseenMs(this.#said), MOST_UNSEEN_MS);
    if (this.#isAsked) return this.#movedAt + (this.#left ? this.heartbeatMs : ANSWER_WITHIN_MS + unseen);
    const [oldest = Infinity] = this.#unanswered.values();
    return Math.min(this.#heardAt + this.heartbeatMs, Math.max(oldest, this.#askedAt) + ASK_WHEN_UNANSWERED_FOR_MS);
  }
  #lookLater() {
    clearTimeout(this.#timer);
    const ms = Math.min(this.#dueAt() - now(), this.#isAsked && this.#left ? LOOK_MS : ASK_WHEN_UNANSWERED_FOR_MS);
    this.#plan = { from: mark(), ms };
    this.#timer = later(ms, () => this.#look());
  }
};

// src/websocket.js
var LATE_MS3 = 1e3;
var openWebSocket = ({ base, token, WebSocket, patienceMs }, listener) => {
  const url = `${base.replace(/^http/, "ws")}/ws`;
  const began = mark();
  let isOpen = false;
  let isOver = false;
  let socket;
  let retryAfterMs;
  const over = () => {
    if (isOver) return true;
    isOver = true;
    clearTimeout(patience);
    pulse.stop();
    socket?.close(1e3);
  };
  const lose = (code, message, more) => {
    if (!over()) listener.lost({ error: new ConnectionError(code, message), retryAfterMs, ...more });
  };
  const pulse = new Pulse(
    () => say({ type: "ping" }),
    () => socket?.bufferedAmount ?? 0,
    (reason) => lose("lost", reason)
  );
  const send2 = (text, id) => {
    const write = () => {
      try {
        socket?.send(text);
      } catch {
      }
    };
    pulse.say(write, lengthOf(text), id);
  };
  const say = (frame) => {
    if (frame.type === "auth") frame = { id: 0, ...frame };
    send2(JSON.stringify(frame), frame.type === "ping" ? void 0 : frame.id);
  };
  try {
    socket = new /** @type {NonNullable<typeof WebSocket>} */
    WebSocket(url, "hark.v1.json");
  } catch (error) {
    later(0, () => lose("unreachable", String(error), { unusable: true }));
  }
  const patience = later(
    patienceMs,
    () => lose("unreachable", `no welcome from ${url} in time`, { unusable: elapsedSince(began) < patienceMs + LATE_MS3 })
  );
  if (socket) {
    socket.onopen = () => {
      if (isOver) return;
      if (token) say({ type: "auth", token });
      listener.ready();
    };
    socket.onmessage = ({ data }) => {
      let frame;
      try {
        frame = JSON.parse(data);
      } catch {
      }
      if (isOver) return;
      pulse.heard(frame?.id);
      if (!frame) return;
      if (frame.type === "error" && frame.code === "unauthenticated" && !(frame.id > 0)) {
        lose(frame.code, frame.message, { refused: true });
      } else if (frame.type === "error" && frame.code === "unsupported" && token && !(frame.id > 0)) {
        lose(frame.code, frame.message, { final: true });
      } else if (isOpen) {
        if (frame.type === "goodbye") retryAfterMs = frame.retry_after_ms;
        listener.hear(frame, data.length);
      } else if (frame.type === "welcome") {
        isOpen = true;
        clearTimeout(patience);
        pulse.heartbeatMs = frame.heartbeat_ms || pulse.heartbeatMs;
        pulse.start();
        listener.hear(frame, 0);
        listener.open(frame.version);
      }
    };
    socket.onerror = () => {
    };
    socket.onclose = ({ code, reason }) => {
      if (code === 4401) lose("unauthenticated", reason || "the token was refused", { refused: true });
      else if (isFinalClose(code))
        lose("closed_by_hark", `Hark closed the connection (${code}): ${reason}`, { final: true });
      else if (isOpen || code === 1012 || code === 1013 || code >= 4500)
        lose("lost", `the connection ended (${code}) ${reason}`, { violation: isOpen && isViolation(code) });
      else lose("unreachable", `${url} cannot be reached by WebSocket`, { unusable: true });
    };
  }
  return {
    say,
    publish: (id, text) => send2(text, id),
    check: () => pulse.ask(),
    close: over
  };
};

// src/connection.js
var MINUTE_MS = 6e4;
var LONGEST_PROBE_MS = 6e5;
var TRIAL_MS = 12e4;
var TRIAL_ID = -1;
var OPEN = { websocket: openWebSocket, sse: openSse, longpoll: openLongPoll };
var Connection = class {
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
  #links = /* @__PURE__ */ new Set();
  /** How often a line was let go: what was begun before that is not wanted any more. */
  #age = 0;
  /** Ends `#serve`. @type {(loss: Loss) => void} */
  #over = () => {
  };
  /** Ends `#wait` as early as Hark allows. */
  #hurry = () => {
  };
  /** Which transport is tried next. */
  #next = 0;
  /** Which one is tried first: the last that has proven itself. */
  #home = 0;
  /** Of each transport, how many lines in a row were open and lost unproven. @type {number[]} */
  #unproven;
  /** Those that could not be had when they were tried last: no message waits for them. @type {Set<number>} */
  #unusable = /* @__PURE__ */ new Set();
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
      }
    });
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
  /** The token runs out soon: says a new one, if there may be another. */
  async renew() {
    if (!this.#tokens.changes) return;
    const link = this.#link;
    const token = await this.#tokens.get("expiring").catch(() => void 0);
    if (token && link === this.#link) link?.line.say({ type: "auth", token });
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
      if (isFirst || this.state !== "connecting") this.#set("connecting");
      if (this.#isClosed()) return;
      const { error, refused, final, again, retryAfterMs = 0 } = await this.#connect();
      if (this.#isClosed()) return;
      if (final || refused && (!this.#tokens.changes || this.#tokenDoubted)) return this.close(error);
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
    for (; ; ) {
      const { link, losses, ...loss } = await this.#serve();
      const { isOpen: opened, proof } = link ?? {};
      if (proof?.isGiven) this.#outage = now();
      if (loss.again || loss.final || loss.refused) return loss;
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
      const isSlow = transports[at] === "websocket" && losses >= LOSSES_BEFORE_AN_EVENT_STREAM && transports.includes("sse");
      if (isSlow) this.#probeMs = LONGEST_PROBE_MS;
      const isPassed = isSlow || loss.unusable || opened && unproven[at] >= LOSSES_BEFORE_THE_NEXT_TRANSPORT;
      if (!isPassed) return loss;
      this.#next = isSlow ? transports.indexOf("sse") : (at + 1) % transports.length;
      if (this.#next === first || opened && unproven[this.#next] || loss.retryAfterMs) return loss;
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
    const link = (
      /** @type {Link} */
      { at }
    );
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
          if (name === "websocket" || !/^(pong|unsubscribed)$/.test(type)) link.proof.heard(type);
          if (type === "welcome") link.welcome = frame;
          if (isUsed() && (link.isOpen || type !== "welcome")) this.#events.hear(frame, size);
        },
        alive: () => link.proof.heard(),
        lost: (loss) => {
          this.#end(link);
          (isUsed() ? this.#over : failed)(loss);
        }
      }
    );
    try {
      link.line = open();
    } catch (error) {
      return failed({ error: new ConnectionError("unreachable", `${name}: ${error}`), unusable: true });
    }
    this.#links.add(link);
  }
  /** @param {Link} link */
  #proofOf(link) {
    return new Proof(
      () => link.line.say({ type: "ping" }),
      () => this.#isProven(link)
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
    this.#drop({ again: true }, link);
    this.#link = link;
    this.#next = link.at;
    if (link.trial) link.line.say({ type: "unsubscribe", id: TRIAL_ID, topic: link.trial });
    this.#events.ready();
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
    this.#link = this.transport = void 0;
    if (!link) return 0;
    const proven = link.proof.isGiven;
    const saysNothing = !proven && (again || !link.isOpen);
    const had = transports.filter((_, at) => at === link.at || !this.#unusable.has(at));
    const blamed = saysNothing ? void 0 : unanswered;
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
    if (!isWebSocket && !topic) return failed();
    const ready = (link) => {
      this.#probing = later(TRIAL_MS, () => {
        this.#end(link);
        failed();
      });
      link.trial = isWebSocket ? void 0 : topic;
      link.line.say(isWebSocket ? { type: "ping" } : { type: "subscribe", id: TRIAL_ID, topic, from: "now" });
    };
    this.#dial(at, ready, failed);
  }
  /**
   * @param {boolean} doubts whether the line still holds
   * @param {boolean} [online] the network is there again, or gone
   */
  #wake(doubts, online) {
    if (this.#link?.isOpen) {
      if (doubts) this.#link.line.check(!!online);
    } else if (online) {
      this.#next = this.#home;
      this.#over({ again: true });
    }
    if (online !== false) this.#hurry();
  }
  /**
   * @param {number} ms
   * @param {import("./errors.js").HarkError} [error]
   */
  #wait(ms, error) {
    return new Promise((resolve) => {
      let timer = later(ms, resolve);
      this.#hurry = () => {
        clearTimeout(timer);
        timer = later(this.#notBefore - now(), resolve);
      };
      this.#set("waiting", { error, ...ms < Infinity && { retryInMs: Math.ceil(ms) } });
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
};

// src/emitter.js
var Emitter = class {
  /** One item for each registration: a function may be there twice. @type {Map<string, Set<{ listener: Listener }>>} */
  #listeners = /* @__PURE__ */ new Map();
  /** What was posted and not yet emitted. @type {[type: string, event: unknown][]} */
  #posted = [];
  /**
   * @param {string} type
   * @param {Listener} listener
   * @returns {() => void} takes this registration away again
   */
  on(type, listener) {
    const listeners = this.#listeners.get(type) ?? /* @__PURE__ */ new Set();
    const registration = { listener };
    this.#listeners.set(type, listeners.add(registration));
    return () => void listeners.delete(registration);
  }
  /** @param {string} type */
  has(type) {
    return !!this.#listeners.get(type)?.size;
  }
  /** No listener is called any more. */
  clear() {
    for (const listeners of this.#listeners.values()) listeners.clear();
  }
  /**
   * Calls the listeners in turn, none of which waits for another's promise: so each hears of events in their order. A promise when
   * one of them gave a promise; it is fulfilled, never rejected, when all are.
   *
   * @param {string} type
   * @param {unknown} event
   * @returns {Promise<unknown> | undefined}
   */
  emit(type, event) {
    const waits = [];
    const listeners = this.#listeners.get(type) ?? /* @__PURE__ */ new Set();
    for (const registration of [...listeners]) {
      if (!listeners.has(registration)) continue;
      try {
        const result = (
          /** @type {any} */
          registration.listener(event)
        );
        if (typeof result?.then === "function") waits.push(result.then(() => {
        }, report));
      } catch (error) {
        report(error);
      }
    }
    return waits.length ? Promise.all(waits) : void 0;
  }
  /**
   * Emits it behind what was posted before, also when a listener posts.
   *
   * @param {string} type
   * @param {unknown} event
   */
  post(type, event) {
    if (this.#posted.push([type, event]) > 1) return;
    for (; this.#posted.length; this.#posted.shift()) this.emit(...this.#posted[0]);
  }
};
var report = (error) => queueMicrotask(() => {
  throw error;
});

// src/losses.js
var Losses = class {
  /** @type {Map<string, number>} */
  #counts = /* @__PURE__ */ new Map();
  #tries = 0;
  /**
   * @param {Loss} loss
   * @returns {number} how many these are on its transport
   */
  add({ transport, transports, unanswered }) {
    this.#tries++;
    const same = unanswered ? transports.filter((other) => other !== "websocket") : [transport];
    for (const name of same) this.#counts.set(name, this.#countOf(name) + 1);
    return this.#countOf(transport);
  }
  /** On all transports. */
  get tries() {
    return this.#tries;
  }
  /** @param {Loss} loss the last one */
  areTooMany({ transports }) {
    return transports.every((transport) => this.#countOf(transport) >= LOSSES_BEFORE_STUCK);
  }
  /** @param {string} transport */
  #countOf(transport) {
    return this.#counts.get(transport) ?? 0;
  }
};

// src/world.js
var newProducer = () => {
  const bytes = new Uint8Array(16);
  if (globalThis.crypto?.getRandomValues) globalThis.crypto.getRandomValues(bytes);
  else bytes.forEach((_, at) => bytes[at] = Math.random() * 256);
  return bytes.reduce((name, byte) => name + byte.toString(16).padStart(2, "0"), "p");
};
var WORLD = {
  mark,
  elapsedSince,
  later,
  stop: (timer) => clearTimeout(timer),
  random: () => Math.random(),
  newProducer
};

// src/inbox.js
var HOLE_ATTEMPTS = 3;
var Inbox = class {
  /** @type {Map<string, Seat>} */
  #seats = /* @__PURE__ */ new Map();
  /** Which topic an answer is for. @type {Map<number, string>} */
  #requests = /* @__PURE__ */ new Map();
  #connected = false;
  #say;
  #newId;
  #world;
  /**
   * @param {(frame: { type: string, id?: number, topic?: string, from?: unknown }) => void} say
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
   */
  subscribe(subscription, from) {
    const { topic } = subscription;
    const seat = this.#seats.get(topic) ?? /** @type {Seat} */
    { wire: "off", id: 0 };
    if (seat.wanted) {
      throw new SubscribeError("already_subscribed", `subscribed to ${topic} already`, topic);
    }
    const stored = (
      /** @type {any} */
      subscription.load()
    );
    this.#seats.set(topic, seat);
    const wanted = {
      subscription,
      from,
      asked: 0,
      parked: true,
      setbacks: 0,
      hole: ["", 0],
      heard: false
    };
    seat.wanted = wanted;
    const begin = (cursor) => {
      if (isCursor(cursor)) wanted.from = { after: cursor };
      wanted.parked = false;
      this.#reconcile(topic);
    };
    if (stored?.then) stored.then(begin, (error) => begin(report(error)));
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
    seat.wanted = void 0;
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
  connected() {
    this.#connected = true;
    for (const topic of [...this.#seats.keys()]) this.#reconcile(topic);
  }
  /**
   * The connection is gone.
   *
   * @param {Loss} loss
   * @returns {number} the most losses in a row at one cursor, on this transport
   */
  lost(loss) {
    const wires = loss.transport === "longpoll" ? ["on", "asking"] : ["on"];
    const lost2 = [...this.#seats].filter(([, { wire }]) => wires.includes(wire));
    this.#disconnect();
    return Math.max(0, ...lost2.map(([topic, { wanted }]) => wanted ? this.#countLoss(topic, wanted, loss) : 0));
  }
  #disconnect() {
    this.#connected = false;
    this.#requests.clear();
    for (const [topic, seat] of this.#seats) {
      seat.wire = "off";
      if (!seat.wanted) this.#seats.delete(topic);
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
    if (this.#seats.get(topic)?.wanted !== wanted) return 0;
    const { position, heard, stuck } = wanted;
    const from = (
      /** @type {any} */
      wanted.from
    );
    const cursor = position ? formatCursor(position) : from.after;
    const passes = heard || loss.proven && !stuck;
    if (loss.saysNothing && !heard) return 0;
    if (passes || cursor !== wanted.lostAt) wanted.losses = void 0;
    if (passes || !cursor) return 0;
    wanted.lostAt = cursor;
    wanted.losses ??= new Losses();
    const count = wanted.losses.add(loss);
    if (wanted.losses.areTooMany(loss)) {
      wanted.stuck = true;
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
    if (topic === void 0) return false;
    this.#requests.delete(id);
    const seat = this.#seats.get(topic);
    if (!seat || seat.id !== id) return true;
    if (seat.wire === "leaving" ? mayPass(code) : code === "already_subscribed") {
      this.#leave(topic, seat);
      return true;
    }
    const { wanted } = seat;
    if (seat.wire === "asking" && wanted?.asked === id) {
      if (mayPass(code)) {
        const wait = draw(wanted.setbacks++, void 0, void 0, this.#world.random);
        this.#wait(topic, wanted, Math.max(wait, retryAfterMs));
      } else {
        seat.wanted = void 0;
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
    const { type, topic, offset, prev = offset - 1, time, headers = {}, data, text, data_base64, content_type } = frame;
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
      const cursor2 = formatCursor({ epoch: position.epoch, offset: prev });
      this.gap({ type: "gap", topic, reason: "lost", from: position.offset + 1, to: prev, cursor: cursor2 });
    }
    const here = { epoch: position.epoch, offset };
    wanted.position = here;
    const cursor = formatCursor(here);
    const event = {
      type,
      topic,
      offset,
      time,
      data: text ?? (data_base64 === void 0 ? data : readBytes(data_base64, content_type)),
      ...content_type !== void 0 && { contentType: content_type },
      headers,
      cursor
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
    if (wanted?.position) this.#push(topic, { type, topic, cursor: formatCursor(wanted.position) }, 0);
  }
  /**
   * The subscription whose frames count now (rule 4): this is about one of them.
   *
   * @param {string} topic
   */
  #listening(topic) {
    const seat = this.#seats.get(topic);
    const wanted = seat?.wire === "on" ? seat.wanted : void 0;
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
      wanted.timer = void 0;
      this.#reconcile(topic);
    });
  }
  /** @param {Wanted} wanted */
  #stopWaiting(wanted) {
    this.#world.stop(wanted.timer);
    wanted.timer = void 0;
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
    const now2 = wanted && !wanted.parked;
    if (wire === "on" && !now2) this.#leave(topic, seat);
    if (wire !== "off") return;
    if (!wanted) this.#seats.delete(topic);
    if (!now2 || wanted.timer || !this.#connected) return;
    const { position, from } = wanted;
    wanted.heard = false;
    if (!position && typeof from === "object") this.#say({ type: "ping" });
    wanted.asked = this.#ask("asking", seat, topic, {
      type: "subscribe",
      from: position ? { after: formatCursor(position) } : from
    });
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
   * @param {{ type: string, from?: unknown }} frame
   */
  #ask(wire, seat, topic, { type, ...more }) {
    const id = this.#newId();
    seat.wire = wire;
    seat.id = id;
    this.#requests.set(id, topic);
    this.#say({ type, id, topic, ...more });
    return id;
  }
};

// src/options.js
var TRANSPORTS = ["websocket", "sse", "longpoll"];
var OPTIONS = "url token transports WebSocket fetch connectTimeoutMs probeMs window queue".split(" ");
var BOUNDS = ["messages", "bytes"];
var PUBLISH_OPTIONS = ["headers", "contentType", "messageId"];
var SUBSCRIBE_OPTIONS = ["from", "cursor"];
var Unknown = class {
  /** @type {Set<string>} */
  #warned = /* @__PURE__ */ new Set();
  /**
   * Says once which these are.
   *
   * @param {string} where
   * @param {object} given
   * @param {string[]} known
   */
  warn(where, given, known) {
    const names = Object.keys(given).filter((name) => !known.includes(name));
    if (!names.length) return;
    const text = `hark: ${where} has no option ${names.join(", ")}; it has ${known.join(", ")}`;
    if (this.#warned.has(text)) return;
    if (this.#warned.size < 100) this.#warned.add(text);
    console.warn(text);
  }
};
var settle = ({
  url = globalThis.location?.origin,
  token,
  transports = TRANSPORTS,
  WebSocket = globalThis.WebSocket,
  fetch = globalThis.fetch,
  connectTimeoutMs: patienceMs = 6e3,
  probeMs = 15e3,
  window,
  queue,
  ...others
}, unknown) => {
  unknown.warn("connect", others, OPTIONS);
  unknown.warn("window", window ?? {}, BOUNDS);
  unknown.warn("queue", queue ?? {}, BOUNDS);
  const { messages: windowMessages = 1e4, bytes: windowBytes = 1 << 24 } = window ?? {};
  const { messages: queueMessages = 1024, bytes: queueBytes = 1 << 20 } = queue ?? {};
  const usable = transports.filter((name) => name !== "websocket" || WebSocket);
  if (!transports.length || !transports.every((name) => TRANSPORTS.includes(name))) {
    throw new HarkError("no_transport", `transports are websocket, sse and longpoll; not ${transports}`);
  }
  const missing = missingFor({ WebSocket, fetch }, transports);
  return {
    base: baseOf(url),
    token,
    transports: usable.filter((name) => name === "websocket" || !missing),
    WebSocket,
    fetch: (
      /** @type {any} */
      fetch
    ),
    patienceMs,
    probeMs,
    window: { messages: windowMessages, bytes: windowBytes },
    queue: { messages: queueMessages, bytes: queueBytes }
  };
};
var missingFor = ({ WebSocket, fetch }, transports) => {
  const lacks = (things) => Object.keys(things).find((name) => !things[name]);
  const { AbortController: AbortController2, queueMicrotask: queueMicrotask2, setTimeout: setTimeout2 } = globalThis;
  const everywhere = lacks({ setTimeout: setTimeout2, queueMicrotask: queueMicrotask2 });
  const http = lacks({ fetch, AbortController: AbortController2 });
  const missing = transports.map((name) => everywhere ?? (name === "websocket" ? lacks({ WebSocket }) : http));
  if (missing.every((name) => name)) {
    const names = [...new Set(missing)].join(" and no ");
    throw new HarkError(
      "unsupported_runtime",
      `this runtime has no ${names}, which ${transports.join(", ")} would need: fetch and WebSocket may be given as options, the others have to be globals`
    );
  }
  return http;
};
var baseOf = (url) => {
  try {
    const { href } = new URL(url ?? "", globalThis.location?.href);
    const [, s, host, path] = /^(?:ws|http)(s?):\/\/(?:[^/?#@]*@)?([^/?#]+)([^?#]*)/.exec(href) ?? [];
    if (host) return `http${s}://${host}${path.replace(/(\/ws)?\/*$/, "")}`;
  } catch {
  }
  throw new HarkError(
    "bad_url",
    `${url} is no Hark URL, such as ws://127.0.0.1:4275/ws or http://127.0.0.1:4275`
  );
};

// src/outbox.js
var IDLE_LANES = 1e4;
var IN_FLIGHT_BYTES = 1 << 20;
var FRAME_TOPICS = 1024;
var KEY_MS = 1e5;
var Waits = class {
  /** @type {Map<number, number>} by setbacks */
  #drawn = /* @__PURE__ */ new Map();
  /** @type {Map<number, Wait>} by milliseconds */
  #begun = /* @__PURE__ */ new Map();
  #world;
  /** @param {import("./world.js").World} world */
  constructor(world) {
    this.#world = world;
  }
  /** @param {number} setbacks */
  draw(setbacks) {
    const ms = this.#drawn.get(setbacks) ?? draw(setbacks, void 0, void 0, this.#world.random);
    this.#drawn.set(setbacks, ms);
    return ms;
  }
  /**
   * @param {number} ms
   * @param {(lanes: Set<Lane>) => void} isOver
   * @returns {Wait}
   */
  begin(ms, isOver) {
    const wait = this.#begun.get(ms) ?? { lanes: /* @__PURE__ */ new Set() };
    wait.timer ??= this.#world.later(ms, () => isOver(wait.lanes));
    this.#begun.set(ms, wait);
    return wait;
  }
};
var Outbox = class {
  /** @type {Map<string, Lane>} */
  #lanes = /* @__PURE__ */ new Map();
  /** @type {Map<number, Sending>} the living sendings */
  #inFlight = /* @__PURE__ */ new Map();
  /** Their entries. */
  #inFlightCount = 0;
  #inFlightBytes = 0;
  /** @type {Set<Lane>} lanes with something to send, in turn */
  #ready = /* @__PURE__ */ new Set();
  /** @type {Set<Lane>} lanes over whose first message connections may have been lost */
  #doubted = /* @__PURE__ */ new Set();
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
    const together = { lanes: [], unanswered: topics.length, bytes: lengthOf(body) };
    this.#unanswered += topics.length;
    if (topics.length) this.#unansweredBytes += body.length;
    const receipts = topics.map((topic) => {
      const lane = this.#lane(topic);
      const entry = (
        /** @type {Entry} */
        { lane, body, together, seq: 0, keyed, id: 0, sendings: 0 }
      );
      entry.receipt = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
      together.lanes.push(lane);
      lane.entries.push(entry);
      this.#getReady(lane);
      return entry.receipt;
    });
    try {
      this.#pump();
    } catch (error) {
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
      const isCareful = this.#doubted.size > 0;
      const [lane] = isCareful && this.#lanesInFlight() || this.#ready;
      if (!lane || !this.#ready.has(lane)) return;
      const entry = lane.entries[lane.sent];
      if (entry && this.#inFlight.size && this.#inFlightBytes + entry.together.bytes > IN_FLIGHT_BYTES) return;
      this.#ready.delete(lane);
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
        entries = entries.slice(0, isLarger(entry.body, frameBytes) ? 1 : Math.ceil(entries.length / 2));
        text = this.#frame(id, entries);
      }
      if (isLarger(text, frameBytes)) {
        this.#finish(entry, new PublishError("too_large", tooLarge(frameBytes), lane.topic, false));
        continue;
      }
      for (const written of entries) {
        const { lane: lane2 } = written;
        const [producer, seq] = this.#nextNumber(written);
        if (!written.seq && seq) lane2.nextSeq++;
        Object.assign(written, { producer, seq, id, asked: written.asked ?? entry.asked });
        written.sendings++;
        lane2.sent++;
        this.#getReady(lane2);
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
    return [...this.#inFlight.get(id)?.entries ?? []].map(({ lane }) => lane);
  }
  /**
   * What `next` gave last was not written after all, since Hark has said meanwhile that it allows less: it is next again.
   *
   * @param {number} id
   */
  takeBack(id) {
    for (const entry of [...this.#inFlight.get(id)?.entries ?? []]) {
      const { lane } = entry;
      if (!--entry.sendings) {
        if (entry.seq) lane.nextSeq--;
        Object.assign(entry, { seq: 0, asked: void 0 });
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
      const isMissing = (other) => other.producer === entry.producer && other.seq >= expected;
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
    const [suspect] = this.#lanesInFlight() ?? [];
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
        if (code === "closed") receipt.catch(() => {
        });
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
    const entries = [...this.#inFlight.get(id)?.entries ?? []];
    for (const entry of entries) {
      entry.lane.answered = true;
      this.#clear(entry.lane);
      this.#forget(entry);
    }
    return entries;
  }
  /** What came through says that its lane is no cause of losses (rule 9). @param {Lane} lane */
  #clear(lane) {
    lane.entries[0].losses = void 0;
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
      for (const lane2 of lanes) {
        lane2.wait = void 0;
        this.#getReady(lane2);
      }
      this.#pump();
    });
    lane.wait.lanes.add(lane);
  }
  /** @param {Lane} lane */
  #stopWaiting(lane) {
    const { wait } = lane;
    lane.wait = void 0;
    if (wait?.lanes.delete(lane) && !wait.lanes.size) this.#world.stop(wait.timer);
  }
  /** @param {Lane} lane */
  #maySend(lane) {
    const { entries, sent, fence, wait } = lane;
    const isFenced = sent && (sent >= (fence || Infinity) || entries[sent]?.keyed || entries[sent - 1].keyed);
    return sent < entries.length && !isFenced && !wait;
  }
  /** @param {Lane} lane */
  #getReady(lane) {
    if (this.#maySend(lane)) this.#ready.add(lane);
  }
};

// src/proxied.js
var bindAll = (object) => {
  const members = Object.getOwnPropertyDescriptors(Object.getPrototypeOf(object));
  for (const name of Reflect.ownKeys(members)) {
    const { value, get } = members[
      /** @type {string} */
      name
    ];
    if (name !== "constructor") {
      const bound = get ? { get: get.bind(object) } : { value: value.bind(object), writable: true };
      Object.defineProperty(object, name, { configurable: true, ...bound });
    }
  }
  Object.defineProperty(object, "__v_skip", { value: true, configurable: true });
};

// src/backlog.js
var Backlog = class {
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
    const [event, size] = (
      /** @type {[any, number]} */
      this.#items.shift()
    );
    this.#size -= size;
    return event;
  }
  clear() {
    this.#items = [];
    this.#size = 0;
  }
};

// src/store.js
var places = /* @__PURE__ */ new WeakMap();
var Place2 = class _Place {
  /** Whose cursors count: the newest subscription that uses the store. @type {object | undefined} */
  owner;
  #store;
  #stored = "";
  #cursor = "";
  /** @type {Promise<void> | undefined} */
  #saving;
  /**
   * The one place of a store.
   *
   * @param {CursorStore} store
   */
  static of(store) {
    const place = places.get(store) ?? new _Place(store);
    places.set(store, place);
    return place;
  }
  /** @param {CursorStore} store */
  constructor(store) {
    this.#store = store;
  }
  /** What is stored, or its promise: an earlier subscription's cursor may be on its way there, and another behind it. */
  load() {
    return this.#saving ? this.#saving.then(() => this.#saving).then(() => this.#load()) : this.#load();
  }
  #load() {
    this.#stored = "";
    return this.#store.load();
  }
  /** @param {string} cursor */
  save(cursor) {
    this.#cursor = cursor;
    if (!this.#saving) this.#save();
  }
  #save() {
    while (this.#cursor !== this.#stored) {
      this.#stored = this.#cursor;
      try {
        const saved = (
          /** @type {any} */
          this.#store.save(this.#cursor)
        );
        if (typeof saved?.then !== "function") continue;
        this.#saving = saved.then(() => {
        }, report).then(() => {
          this.#saving = void 0;
          this.#save();
        });
        return;
      } catch (error) {
        report(error);
      }
    }
  }
};

// src/subscription.js
var DONE = (
  /** @type {Result} */
  { done: true, value: void 0 }
);
var Subscription = class {
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
  #isReady = () => {
  };
  /** @type {(error: Error) => void} */
  #isNotReady = () => {
  };
  /**
   * @param {string} topic
   * @param {CursorStore | undefined} store
   * @param {{ messages: number, bytes: number }} most
   * @param {{ drained: () => void, left: () => void }} hooks half of a full queue was taken; the application wants no more
   */
  constructor(topic, store, most, hooks) {
    this.#topic = topic;
    this.#place = store && Place2.of(store);
    this.#hooks = hooks;
    this.#backlog = new Backlog(most);
    this.ready = new Promise((resolve, reject) => [this.#isReady, this.#isNotReady] = [resolve, reject]);
    this.ready.catch(() => {
    });
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
    this.#given = void 0;
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
      const { resolve, reject } = (
        /** @type {Taker} */
        this.#takers.shift()
      );
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
    if (place && (!this.#end || place.owner === this)) place.save(cursor);
  }
};

// src/client.js
var LIMITS = { frameBytes: 1 << 20, inFlight: 1024, several: true };
var HTTP_IN_FLIGHT = 5e3;
var FIRST_FRAME_BYTES = 1 << 16;
var Client = class {
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
      ready: () => {
        this.#isReady = true;
        this.#limits = { ...LIMITS };
        this.#inbox.connected();
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
        this.#held = void 0;
        return Math.max(this.#outbox.lost(loss), this.#inbox.lost(loss));
      },
      end: (error) => {
        this.#ended = error ?? new HarkError("closed", "the client is closed");
        this.#outbox.end(this.#ended);
        this.#inbox.end(error);
      },
      state: (change) => this.#emitter.post("state", change)
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
    const topics = /* @__PURE__ */ new Set();
    const errors = /* @__PURE__ */ new Map();
    try {
      const list = typeof names === "string" ? void 0 : names;
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
            return { topic, .../** @type {import("../hark").Receipt} */
            await results.get(topic) };
          } catch (error) {
            return { topic, error: (
              /** @type {PublishError} */
              error
            ) };
          }
        })
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
    const { from = "now", cursor: store } = options;
    const topic = nameOf(name);
    const subscription = new Subscription(topic, store, this.#options.queue, {
      drained: () => this.#inbox.drained(subscription),
      left: () => this.#inbox.unsubscribe(subscription)
    });
    let start;
    try {
      checkTopic(name, false);
      start = readFrom(from);
    } catch (error) {
      const { code, message } = (
        /** @type {HarkError} */
        error
      );
      subscription.finish(new SubscribeError(code, message, topic));
      return subscription;
    }
    this.#inbox.subscribe(subscription, start);
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
      this.#held = void 0;
      if (isLarger(text, frameBytes) || isForSeveral && !several) this.#outbox.takeBack(id);
      else this.#connection.publish(id, text);
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
        return this.#outbox.published(frame);
      case "published_all":
        return this.#outbox.publishedAll(frame);
      case "subscribed":
        return void this.#inbox.subscribed(frame);
      case "unsubscribed":
        return this.#inbox.unsubscribed(frame);
      case "caught_up":
        return this.#inbox.caughtUp(frame);
      case "lagging":
        return this.#inbox.lagging(frame);
      case "gap":
        return this.#inbox.gap(frame);
      case "error":
        if (frame.code === "expiring") return void this.#connection.renew();
        if (!this.#inbox.refused(frame)) this.#outbox.refused(frame);
        return;
      case "welcome":
        Object.assign(this.#limits, { frameBytes: frame.max_message_bytes, inFlight: frame.max_inflight });
    }
  }
};
var takesSeveral = (version = "") => {
  const [, major, minor] = /^(\d+)\.(\d+)\./.exec(version) ?? [];
  return Number(major) > 0 || Number(minor) >= 2;
};
var nameOf = (name) => typeof name === "string" ? name : "";
var asPublishError = (error, topic) => {
  if (error instanceof PublishError) return error;
  const { code, message } = error instanceof HarkError ? error : new HarkError("bad_frame", String(error));
  return new PublishError(code, message, topic, false);
};
var rejected = (error) => {
  const promise = Promise.reject(error);
  if (error.code === "closed") promise.catch(() => {
  });
  return promise;
};

// src/index.js
var connect = (options = {}) => new Client(options);

// @ts-check
// What `connect` was given, checked and completed. Owns every default; what each means to an application is said in hark.d.ts.

import { HarkError } from "./errors.js";

/** @typedef {import("../hark").Options} Options */
/** @typedef {import("../hark").Transport} Transport */

/** @type {Transport[]} */
const TRANSPORTS = ["websocket", "sse", "longpoll"];

/**
 * @typedef {object} Settled
 * @property {string} base
 * @property {Options["token"]} token
 * @property {Transport[]} transports
 * @property {Options["WebSocket"]} WebSocket
 * @property {typeof globalThis.fetch} fetch
 * @property {number} patienceMs
 * @property {number} probeMs
 * @property {{ messages: number, bytes: number }} window
 * @property {{ messages: number, bytes: number }} queue
 */

const OPTIONS = "url token transports WebSocket fetch connectTimeoutMs probeMs window queue".split(" ");
const BOUNDS = ["messages", "bytes"];
export const PUBLISH_OPTIONS = ["headers", "contentType", "messageId"];
export const SUBSCRIBE_OPTIONS = ["from", "cursor", "token"];

/** The options of one client that it does not know: a name that is written wrong changes nothing, without a sign. */
export class Unknown {
  /** @type {Set<string>} */
  #warned = new Set();

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
    // As many as there may be by mistake: beyond that the names are the application's data.
    if (this.#warned.size < 100) this.#warned.add(text);
    console.warn(text);
  }
}

/**
 * @param {Options} options
 * @param {Unknown} unknown
 * @returns {Settled}
 */
export const settle = (
  {
    url = globalThis.location?.origin,
    token,
    transports = TRANSPORTS,
    WebSocket = globalThis.WebSocket,
    fetch = globalThis.fetch,
    connectTimeoutMs: patienceMs = 6000,
    probeMs = 15_000,
    window,
    queue,
    ...others
  },
  unknown,
) => {
  unknown.warn("connect", others, OPTIONS);
  unknown.warn("window", window ?? {}, BOUNDS);
  unknown.warn("queue", queue ?? {}, BOUNDS);
  const { messages: windowMessages = 10_000, bytes: windowBytes = 1 << 24 } = window ?? {};
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
    fetch: /** @type {any} */ (fetch),
    patienceMs,
    probeMs,
    window: { messages: windowMessages, bytes: windowBytes },
    queue: { messages: queueMessages, bytes: queueBytes },
  };
};

/**
 * What this runtime does not have, and HTTP needs. Throws where nothing is left that the client could do.
 *
 * @param {{ WebSocket: unknown, fetch: unknown }} given
 * @param {Transport[]} transports
 */
const missingFor = ({ WebSocket, fetch }, transports) => {
  const lacks = (/** @type {Record<string, unknown>} */ things) => Object.keys(things).find((name) => !things[name]);
  const { AbortController, queueMicrotask, setTimeout } = globalThis;
  const everywhere = lacks({ setTimeout, queueMicrotask });
  const http = lacks({ fetch, AbortController });
  const missing = transports.map((name) => everywhere ?? (name === "websocket" ? lacks({ WebSocket }) : http));
  if (missing.every((name) => name)) {
    const names = [...new Set(missing)].join(" and no ");
    throw new HarkError(
      "unsupported_runtime",
      `this runtime has no ${names}, which ${transports.join(", ")} would need: fetch and WebSocket may be given as options, the others have to be globals`,
    );
  }
  return http;
};

/**
 * `http(s)://host[/prefix]` of any form of URL that is allowed.
 *
 * @param {string | undefined} url
 */
const baseOf = (url) => {
  try {
    // Only its text: in some runtimes nothing else of a URL is there.
    const { href } = new URL(url ?? "", globalThis.location?.href);
    const [, s, host, path] = /^(?:ws|http)(s?):\/\/(?:[^/?#@]*@)?([^/?#]+)([^?#]*)/.exec(href) ?? [];
    if (host) return `http${s}://${host}${path.replace(/(\/ws)?\/*$/, "")}`;
  } catch {
    // Said below.
  }
  throw new HarkError(
    "bad_url",
    `${url} is no Hark URL, such as ws://127.0.0.1:4275/ws or http://127.0.0.1:4275`,
  );
};

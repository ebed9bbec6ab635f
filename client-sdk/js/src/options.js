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

/**
 * @param {Options} options
 * @returns {Settled}
 */
export const settle = ({
  url = globalThis.location?.origin,
  token,
  transports = TRANSPORTS,
  WebSocket = globalThis.WebSocket,
  fetch = globalThis.fetch,
  connectTimeoutMs: patienceMs = 6000,
  probeMs = 15_000,
  window = {},
  queue = {},
}) => {
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
    fetch,
    patienceMs,
    probeMs,
    window: { messages: 10_000, bytes: 1 << 24, ...window },
    queue: { messages: 1024, bytes: 1 << 20, ...queue },
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

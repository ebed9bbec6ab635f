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
  if (!usable.length || !usable.every((name) => TRANSPORTS.includes(name))) {
    const sentence = `transports are sse, longpoll and, with a WebSocket class, websocket; not ${transports}`;
    throw new HarkError("no_transport", sentence);
  }
  return {
    base: baseOf(url),
    token,
    transports: usable,
    WebSocket,
    fetch,
    patienceMs,
    probeMs,
    window: { messages: 10_000, bytes: 1 << 24, ...window },
    queue: { messages: 1024, bytes: 1 << 20, ...queue },
  };
};

/**
 * `http(s)://host[/prefix]` of any form of URL that is allowed.
 *
 * @param {string | undefined} url
 */
const baseOf = (url) => {
  try {
    const { protocol, host, pathname } = new URL(url ?? "", globalThis.location?.href);
    if (/^(ws|http)s?:$/.test(protocol)) {
      return protocol.replace("ws", "http") + "//" + host + pathname.replace(/(\/ws)?\/*$/, "");
    }
  } catch {
    // Said below.
  }
  throw new HarkError(
    "bad_url",
    `${url} is no Hark URL, such as ws://127.0.0.1:4275/ws or http://127.0.0.1:4275`,
  );
};

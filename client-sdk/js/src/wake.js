// @ts-check
// When the world may have changed behind a connection's back: the network came or went, a page is looked at again, put away into the
// browser's cache or taken out of it. Owns the listening; what is done about it is the connection's. Node has none of these events.

import { elapsedSince, mark } from "./clock.js";
import { HEARTBEAT_MS } from "./line.js";

/**
 * @typedef {object} Wake
 * @property {(online: boolean) => unknown} network it is there again, or gone
 * @property {(afterLong: boolean) => void} looked the page is there again, after longer than a heartbeat or not
 * @property {() => void} left the page is put away, or ends: an open WebSocket would keep it out of the browser's cache
 */

/**
 * @param {Wake} wake
 * @returns {() => void} ends it
 */
export const watchWake = ({ network, looked, left }) => {
  const { window, document, self } = globalThis;
  let hidden = mark();
  const look = () => {
    if (document.visibilityState === "visible") looked(elapsedSince(hidden) > HEARTBEAT_MS);
    else hidden = mark();
  };
  /** @type {[EventTarget | undefined, string, () => void][]} */
  const watched = [
    [window ?? self, "online", () => network(true)],
    [window ?? self, "offline", () => network(false)],
    [window, "pagehide", left],
    // Also a page's first one, with which nothing has happened yet.
    [window, "pageshow", () => looked(false)],
    [document, "visibilitychange", look],
  ];
  for (const [target, type, listener] of watched) target?.addEventListener?.(type, listener);
  return () => {
    for (const [target, type, listener] of watched) target?.removeEventListener?.(type, listener);
  };
};

// @ts-check
// When the world may have changed behind a connection's back: the network came or went, a page is looked at again or comes out
// of the browser's cache. Owns the listening; what is done about it is the connection's. Node has none of these events.

/**
 * @param {(online: boolean) => void} woke told whether the network has just come back
 * @returns {() => void} ends it
 */
export const watchWake = (woke) => {
  /** @type {[EventTarget | undefined, string, () => void][]} */
  const watched = [
    [globalThis.window ?? globalThis.self, "online", () => woke(true)],
    [globalThis.window ?? globalThis.self, "offline", () => woke(false)],
    [globalThis.window, "pageshow", () => woke(false)],
    [globalThis.document, "visibilitychange", () => document.visibilityState === "visible" && woke(false)],
  ];
  for (const [target, type, listener] of watched) target?.addEventListener?.(type, listener);
  return () => {
    for (const [target, type, listener] of watched) target?.removeEventListener?.(type, listener);
  };
};

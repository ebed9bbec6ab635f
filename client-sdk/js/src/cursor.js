// @ts-check
// Cursors: `epoch:offset`, "I have everything up to here". Owns their text and where an application may keep one; positions are
// the inbox's.

/**
 * @typedef {{ epoch: string, offset: number }} Position
 */

/**
 * @param {string} cursor
 * @returns {Position}
 */
export const parseCursor = (cursor) => {
  const colon = cursor.lastIndexOf(":");
  return { epoch: cursor.slice(0, colon), offset: +cursor.slice(colon + 1) };
};

/** @param {Position} position */
export const formatCursor = ({ epoch, offset }) => `${epoch}:${offset}`;

/** @param {unknown} text */
export const isCursor = (text) => typeof text === "string" && /^[^\s:]+:\d+$/.test(text);

/** One for each key, so that two subscriptions know that they have the same. @type {Map<string, import("../hark").CursorStore>} */
const locals = new Map();

/**
 * A place in the browser's `localStorage`, so that a page goes on after a reload. Where there is none, or it is full or
 * forbidden, nothing is kept: the page then starts as it would the first time.
 *
 * @param {string} key
 * @returns {import("../hark").CursorStore}
 */
export const localCursor = (key) => {
  // Named so that nobody's other data is taken for a cursor.
  const name = `hark:${key}`;
  const local = locals.get(name) ?? {
    load() {
      try {
        return localStorage.getItem(name);
      } catch {
        return null;
      }
    },
    save(/** @type {string} */ cursor) {
      try {
        localStorage.setItem(name, cursor);
      } catch {
        // Said above.
      }
    },
  };
  locals.set(name, local);
  return local;
};

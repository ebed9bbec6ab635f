// @ts-check
// Bytes to base64 and back (RFC 4648, section 4), with what browsers and Node both have.

/**
 * @param {Uint8Array} bytes
 * @returns {string}
 */
export const toBase64 = (bytes) => {
  let text = "";
  // In pieces: a call takes only so many arguments.
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text);
};

/**
 * @param {string} base64
 * @returns {Uint8Array}
 */
export const fromBase64 = (base64) => Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));

/**
 * Whether a text has more bytes in UTF-8 than `limit`. Counted only where it could.
 *
 * @param {string} text
 * @param {number} limit
 */
export const isLarger = (text, limit) => text.length * 3 > limit && new TextEncoder().encode(text).length > limit;

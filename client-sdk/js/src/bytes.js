// @ts-check
// Bytes to base64 and back (RFC 4648, section 4), which bytes are text, and how many a text has. With nothing but the language: not every runtime has
// `btoa`, `atob`, `TextEncoder` and `TextDecoder`.

const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/** What each digit stands for, by its code. */
const VALUES = new Uint8Array(128);
for (let value = 0; value < 64; value++) VALUES[DIGITS.charCodeAt(value)] = value;

/**
 * @param {Uint8Array} bytes
 * @returns {string}
 */
export const toBase64 = (bytes) => {
  let text = "";
  for (let at = 0; at < bytes.length; at += 3) {
    // Beyond the end there is nothing, which here counts as zero.
    const three = (bytes[at] << 16) | (bytes[at + 1] << 8) | bytes[at + 2];
    text += DIGITS[three >> 18] + DIGITS[(three >> 12) & 63] + DIGITS[(three >> 6) & 63] + DIGITS[three & 63];
  }
  const missing = (3 - (bytes.length % 3)) % 3;
  return text.slice(0, text.length - missing) + "==".slice(0, missing);
};

/**
 * @param {string} text
 * @returns {Uint8Array<ArrayBuffer>}
 */
const fromBase64 = (text) => {
  const digits = text.indexOf("=") < 0 ? text.length : text.indexOf("=");
  const bytes = new Uint8Array((digits * 3) >> 2);
  let value = 0;
  for (let at = 0, bits = 0, filled = 0; at < digits; at++) {
    value = (value << 6) | VALUES[text.charCodeAt(at)];
    bits += 6;
    if (bits >= 8) bytes[filled++] = value >> (bits -= 8);
  }
  return bytes;
};

/**
 * Whether content of this type is text, if it is UTF-8: `text/…` of no charset, or of `utf-8` or `us-ascii`.
 *
 * @param {string} contentType
 */
export const saysText = (contentType) =>
  /^text\/[^;]*(;\s*charset\s*=\s*"*(utf-8|us-ascii)"*\s*|;(?!\s*charset\s*=)[^;]*)*$/i.test(contentType);

/**
 * The bytes that this is, also of another realm (an iframe, a vm context), whose classes are others; or nothing.
 *
 * @param {any} data
 */
export const bytesOf = (data) =>
  ArrayBuffer.isView(data)
    ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
    : /^\[object (Shared)?ArrayBuffer\]$/.test(Object.prototype.toString.call(data))
      ? new Uint8Array(data)
      : undefined;

/**
 * What was published as bytes: text where it is text. (In JSON it comes as `text`, unless that would be longer.)
 *
 * @param {string} base64
 * @param {string} [contentType]
 */
export const readBytes = (base64, contentType = "") => {
  const bytes = fromBase64(base64);
  if (!saysText(contentType)) return bytes;
  let text = "";
  for (const byte of bytes) text += "%" + byte.toString(16).padStart(2, "0");
  try {
    // Takes UTF-8 only, and leaves a mark of the byte order where it is.
    return decodeURIComponent(text);
  } catch {
    return bytes;
  }
};

/**
 * Whether a text has more bytes in UTF-8 than `limit`. Counted only where it could.
 *
 * @param {string} text
 * @param {number} limit
 */
export const isLarger = (text, limit) => text.length * 3 > limit && lengthOf(text) > limit;

/** How many bytes a text has in UTF-8. @param {string} text */
export const lengthOf = (text) => {
  let length = text.length;
  for (let at = 0; at < text.length; at++) {
    const unit = text.charCodeAt(at);
    // Each half of a character that takes two units has two of its four bytes.
    if (unit > 0x7f) length += unit > 0x7ff && (unit < 0xd800 || unit > 0xdfff) ? 2 : 1;
  }
  return length;
};

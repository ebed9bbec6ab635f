// @ts-check
// Bytes to base64 and back (RFC 4648, section 4), with what browsers and Node both have, and which bytes are text.

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
  const bytes = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
  if (!saysText(contentType)) return bytes;
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
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
export const isLarger = (text, limit) => text.length * 3 > limit && new TextEncoder().encode(text).length > limit;

// @ts-check
// What Hark can read, looked at before it is sent: ten frames in a row that it cannot end the client. Owns the limits of
// protocol/README.md, but for the size of a frame; each check throws a `HarkError` with Hark's own code.

import { isLarger, saysText } from "./bytes.js";
import { isCursor } from "./cursor.js";
import { HarkError } from "./errors.js";

/**
 * @param {unknown} isBad
 * @param {string} code
 * @param {string} message
 */
const refuse = (isBad, code, message) => {
  if (isBad) throw new HarkError(code, message);
};

/**
 * @param {unknown} text
 * @param {RegExp} [bad] halves of characters, which UTF-8 does not have
 */
const isText = (text, bad = /\p{Cs}/u) => typeof text === "string" && !bad.test(text);

/**
 * @param {string} name
 * @param {any} text
 * @param {number} least
 * @param {number} most
 */
const checkName = (name, text, least, most) =>
  refuse(
    !isText(text, /[\p{Cs}\p{Cc}]/u) || text.length < least || isLarger(text, most),
    "bad_frame",
    `${name} has ${least} to ${most} bytes and no control characters`,
  );

/**
 * @param {unknown} topic
 * @param {boolean} publishes
 */
export const checkTopic = (topic, publishes) =>
  refuse(
    typeof topic !== "string" ||
      topic.length > 255 || !/^\$?[\w:@-]+(\.[\w:@-]+)*$/.test(topic) || (publishes && topic[0] === "$"),
    "bad_topic",
    "a topic has 1 to 255 of A-Z a-z 0-9 _ - : @ with dots between; those that begin with $ are Hark's",
  );

/**
 * Whether JSON would say `{}` of it whatever it holds (a Map, a Set, a Blob, Headers, an Error, a Promise …), or the numbers of bytes.
 *
 * @param {any} value
 */
const isOpaque = (value) =>
  typeof value === "object" &&
  !/^\[object (Object|Array|Null|Number|String|Boolean)\]$/.test(Object.prototype.toString.call(value)) &&
  (ArrayBuffer.isView(value) || !Object.keys(value).length);

/**
 * What JSON can say, as JSON; all of it, since what it would leave out is lost without a sign.
 *
 * @param {unknown} data
 */
export const writeJson = (data) => {
  let text;
  try {
    text = JSON.stringify(data, (_, value) => {
      if (isOpaque(value)) throw new TypeError(`${Object.prototype.toString.call(value)} has no JSON`);
      return value;
    });
  } catch (error) {
    // A circle, a BigInt, a `toJSON` that throws.
    refuse(true, "bad_data", `the data is nothing that JSON can say: ${error}`);
  }
  // A function, `undefined`.
  refuse(text === undefined, "bad_data", `the data is nothing that JSON can say: ${typeof data}`);
  return /** @type {string} */ (text);
};

/** @param {import("../hark").PublishOptions} options */
export const checkPublish = ({ headers, contentType, messageId }) => {
  const pairs = Object.entries((headers ??= {}));
  refuse(
    typeof headers !== "object" || Array.isArray(headers) || isOpaque(headers) || "" in headers || !pairs.flat().every((text) => isText(text)),
    "bad_frame",
    "headers are an object of texts, all with names",
  );
  refuse(
    pairs.length > 32 || isLarger(pairs.flat().join(""), 4096),
    "too_large",
    "at most 32 headers and 4096 bytes of them",
  );
  checkName("contentType", contentType ?? "", 0, 255);
  checkName("messageId", messageId ?? "-", 1, 64);
};

/**
 * What goes with a content type and is no bytes.
 *
 * @param {unknown} text
 * @param {string} contentType
 */
export const checkText = (text, contentType) =>
  refuse(
    !isText(text) || !saysText(contentType),
    "bad_frame",
    "contentType goes with bytes, or, as text/… of no other charset than utf-8, with a string of whole characters",
  );

/**
 * Where to start, as the wire says it. Whether a `since` can be read is Hark's to say.
 *
 * @param {any} from
 */
export const readFrom = (from) => {
  if (from === "now" || from === "earliest") return from;
  const { after, last, since } = from ?? {};
  // A `Date` of any realm, or what else knows its time.
  if (isCursor(after)) return { after };
  if (Number.isSafeInteger(last) && last >= 0) return { last };
  const time = since?.toJSON?.() ?? since;
  refuse(
    typeof time !== "string",
    "bad_cursor",
    "from is now, earliest, { after: cursor }, { last: 50 } or { since: time }",
  );
  return { since: time };
};

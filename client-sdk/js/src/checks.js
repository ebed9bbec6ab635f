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
 * @param {string} topic
 * @param {boolean} publishes
 */
export const checkTopic = (topic, publishes) =>
  refuse(
    topic.length > 255 || !/^\$?[\w:@-]+(\.[\w:@-]+)*$/.test(topic) || (publishes && topic[0] === "$"),
    "bad_topic",
    "a topic has 1 to 255 of A-Z a-z 0-9 _ - : @ with dots between; those that begin with $ are Hark's",
  );

/** @param {import("../hark").PublishOptions} options */
export const checkPublish = ({ headers, contentType, messageId }) => {
  const pairs = Object.entries((headers ??= {}));
  refuse(
    typeof headers !== "object" || Array.isArray(headers) || "" in headers || !pairs.flat().every((text) => isText(text)),
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
  if (isCursor(after)) return { after };
  if (Number.isSafeInteger(last) && last >= 0) return { last };
  const time = since instanceof Date ? since.toJSON() : since;
  refuse(
    typeof time !== "string",
    "bad_cursor",
    "from is now, earliest, { after: cursor }, { last: 50 } or { since: time }",
  );
  return { since: time };
};

// @ts-check
// What an application publishes, as a `publish` frame says it. Owns which data is bytes, text or JSON.

import { bytesOf, toBase64 } from "./bytes.js";
import { checkPublish, checkText, writeJson } from "./checks.js";

/**
 * A `publish` frame's fields but for type, id, topic and number.
 *
 * @param {unknown} data
 * @param {import("../hark").PublishOptions} options
 */
export const writeBody = (data, options) => {
  checkPublish(options);
  const { headers, contentType, messageId } = options;
  const bytes = bytesOf(data);
  const json = bytes ? `"${toBase64(bytes)}"` : writeJson(data);
  const isText = contentType != null && !bytes;
  if (isText) checkText(data, contentType);
  const more = { content_type: contentType ?? undefined, headers, message_id: messageId ?? undefined };
  const rest = JSON.stringify(more).slice(1, -1);
  return `"${bytes ? "data_base64" : isText ? "text" : "data"}":${json}${rest && ","}${rest}`;
};

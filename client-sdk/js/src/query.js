// @ts-check
// Topics and places in the query of a request, as protocol/README.md writes them.

/**
 * `from` as in a query.
 *
 * @param {any} from
 * @returns {string}
 */
export const inQuery = (from) => {
  if (typeof from === "string") return from;
  const [[word, value]] = Object.entries(from);
  return word === "after" ? value : `${word}:${value}`;
};

export const queryOf = (/** @type {string} */ topic, /** @type {string} */ from) =>
  `topic=${encodeURIComponent(topic)}&from=${encodeURIComponent(from)}`;

/**
 * `topic=…&from=…` for each topic.
 *
 * @param {import("./streams.js").Topics} topics
 */
export const queryOfAll = (topics) => [...topics].map(([topic, { from }]) => queryOf(topic, from)).join("&");

// @ts-check
// Reads topics page by page. Owns what a page means in frames, and when the next one is asked for: each request waits at Hark
// until there is something, or, where a browser has no connection to spare for that, asks now and then.

import { now } from "./clock.js";
import { formatCursor, parseCursor } from "./cursor.js";
import { queryOfAll } from "./query.js";
import { later } from "./timer.js";

// As many as Hark gives: on a long line every round trip counts.
const LIMIT = 1000;
// Below what proxies allow a request.
const WAIT_MS = 25_000;
// For the way there and back, and between two pieces of a page.
const PATIENCE_MS = 15_000;
// A page with nothing in it that came at once: not faster than this.
const PAUSE_MS = 1000;

/** @type {import("./streams.js").Read} */
export const readPages = async (line, run) => {
  const { signal } = run.stop;
  for (;;) {
    const began = now();
    // Who waits for `subscribed` is told at once where delivery starts, and must not wait for a message.
    const isAsked = [...run.topics.values()].some(({ placed, ask }) => !placed || ask);
    const waitMs = isAsked || run.isBrief ? 0 : WAIT_MS;
    let heard = 0;
    const poll = () =>
      line.get(run, pathOf(queryOfAll(run.topics), waitMs), waitMs, PATIENCE_MS, async (answer) => {
        const text = await answer.text();
        const { pages } = line.parse(text);
        // Asked again, it would answer at once again.
        const isOurs = Array.isArray(pages) && (!run.topics.size || pages.some(({ topic }) => run.topics.has(topic)));
        if (!isOurs) throw line.foreign(text);
        for (const page of pages) heard += hearPage(line, run, page, text.length);
      });
    const goesOn = await (run.isBrief ? line.sharing.turn(signal, poll) : poll());
    if (!goesOn || signal.aborted) return;
    const isFast = now() - began < PAUSE_MS;
    if (!heard && (run.isBrief || (waitMs && isFast))) await pause(PAUSE_MS, signal);
  }
};

/**
 * @param {string} query
 * @param {number} waitMs
 */
const pathOf = (query, waitMs) => `/v1/messages?${query}&limit=${LIMIT}${waitMs ? `&wait=${waitMs / 1000}` : ""}`;

/**
 * @param {number} ms
 * @param {AbortSignal} signal ends it early
 */
const pause = (ms, signal) =>
  new Promise((/** @type {(nothing: void) => void} */ resolve) => {
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = later(ms, end);
    signal.addEventListener("abort", end);
  });

/**
 * @param {import("./http.js").HttpLine} line
 * @param {import("./streams.js").Run} run
 * @param {any} page
 * @param {number} size
 * @returns {number} how much there was in it
 */
const hearPage = (line, run, { topic: name, messages, cursor, caught_up, gap }, size) => {
  const topic = run.topics.get(name);
  if (!topic) return 0;
  // Of each page: it may be of another epoch than the one before.
  line.hear(run, { type: "subscribed", topic: name, ...startOf(topic, messages[0], cursor, gap) }, 0);
  if (gap) line.hear(run, gap, 0);
  // One text holds them all; each weighs an equal part.
  for (const message of messages) line.hear(run, message, size / messages.length);
  if (caught_up && !topic.live) line.hear(run, { type: "caught_up", topic: name, cursor }, 0);
  topic.live ||= caught_up;
  topic.from = cursor;
  return messages.length + (gap ? 1 : 0);
};

/**
 * Where delivery starts, as a `subscribed` frame would say it.
 *
 * @param {import("./streams.js").Topic} topic
 * @param {{ offset: number, prev?: number } | undefined} first
 * @param {string} cursor behind the page
 * @param {{ cursor: string } | undefined} gap
 */
const startOf = ({ placed, from }, first, cursor, gap) => {
  if (gap) return { cursor: placed ? from : gap.cursor, resumed: false };
  if (!first) return { cursor, resumed: placed };
  const offset = placed ? parseCursor(from).offset : (first.prev ?? first.offset - 1);
  return { cursor: formatCursor({ ...parseCursor(cursor), offset }), resumed: placed };
};

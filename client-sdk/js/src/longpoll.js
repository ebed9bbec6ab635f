// @ts-check
// Reads a stream page by page, where nothing else gets through: each request waits at Hark until there is something. Owns what a
// page means in frames.

import { formatCursor, parseCursor } from "./cursor.js";
import { HttpLine } from "./http.js";

// Below what proxies allow a request.
const WAIT_S = 25;
// Beyond the wait, for the way there and back.
const PATIENCE_MS = 15_000;
// A page with nothing in it came at once, which Hark does not do: not faster than this.
const PAUSE_MS = 1000;

/** @type {import("./http.js").Read} */
const read = async (line, run) => {
  while (!run.stop.signal.aborted) {
    const began = Date.now();
    // Without a cursor it is a first request: its answer says where delivery starts, and must not wait for a message.
    const wait = [...run.topics.values()].every(({ placed }) => placed) ? WAIT_S : 0;
    const path = `/v1/messages?${line.queryOf(run)}${wait ? `&wait=${wait}` : ""}`;
    const response = await line.get(run, path, wait * 1000 + PATIENCE_MS);
    if (!response) return;
    const text = await response.text();
    const { pages } = JSON.parse(text);
    let heard = 0;
    for (const page of pages) heard += hearPage(line, run, page, text.length);
    if (wait && !heard && Date.now() - began < PAUSE_MS) await new Promise((done) => setTimeout(done, PAUSE_MS));
  }
};

/**
 * @param {HttpLine} line
 * @param {import("./http.js").Run} run
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
 * @param {import("./http.js").Topic} topic
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

/** @type {import("./line.js").Open} */
export const openLongPoll = (dial, listener) => new HttpLine(dial, listener, read);

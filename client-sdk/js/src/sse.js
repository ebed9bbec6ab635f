// @ts-check
// Reads a stream as server-sent events, through `fetch`: an `EventSource` takes no token and tells nothing of a refusal. Owns the
// text of events as Hark writes it; the ids in it are for others, since the frames say the same.

import { mayPass } from "./errors.js";
import { HttpLine, linesOf, lost } from "./http.js";

/** @type {import("./http.js").Read} */
const read = async (line, run) => {
  const response = await line.get(run, `/v1/events?${line.queryOf(run)}`, line.patienceMs);
  if (!response) return;
  /** @type {number | undefined} */
  let retryAfterMs;
  let welcomed = false;
  let data = "";
  // What keeps the events to itself until there are more, as some proxies do, is of no use.
  const timer = setTimeout(() => welcomed || line.lose(held(line).loss), line.patienceMs);
  try {
    for await (const text of linesOf(response)) {
      // Comments too.
      run.heard = Date.now();
      if (text.startsWith("data:")) data += text.slice(5);
      // The one at the start is for an `EventSource`.
      if (text.startsWith("retry:")) retryAfterMs = welcomed ? retryAfterMs : +text.slice(6);
      if (text || !data) continue;
      const frame = JSON.parse(data);
      const { type, code, message } = frame;
      const size = data.length;
      data = "";
      if (type === "welcome") {
        welcomed = true;
        retryAfterMs = undefined;
      }
      if (type === "goodbye") retryAfterMs = frame.retry_after_ms;
      if (type !== "error") line.hear(run, frame, size);
      else if (code === "unauthenticated") throw lost(code, message, { refused: true });
      else if (mayPass(code)) throw lost(code, message, { retryAfterMs: frame.retry_after_ms });
      else return await line.findRefused(run, code, message);
    }
  } finally {
    clearTimeout(timer);
  }
  throw welcomed || retryAfterMs !== undefined ? lost("lost", "the stream ended", { retryAfterMs }) : held(line);
};

const held = (/** @type {HttpLine} */ line) =>
  lost("unreachable", "no welcome on the event stream in time", { unusable: !line.heard });

/** @type {import("./line.js").Open} */
export const openSse = (dial, listener) => new HttpLine(dial, listener, read);

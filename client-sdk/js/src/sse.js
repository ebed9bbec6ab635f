// @ts-check
// Reads a stream as server-sent events, through `fetch`: an `EventSource` takes no token and tells nothing of a refusal. Owns the
// text of events as Hark writes it, and what silence on a stream means; the ids in it are for others, since the frames say the
// same.

import { mayPass } from "./errors.js";
import { lost } from "./exchange.js";
import { ANSWER_WITHIN_MS } from "./figures.js";
import { HttpLine } from "./http.js";
import { HEARTBEAT_MS } from "./line.js";
import { queryOfAll } from "./query.js";
import { Silent } from "./streams.js";

/** @type {import("./streams.js").Read} */
const readEvents = async (line, run) => {
  let isWelcome = false;
  // What keeps the events to itself until there are more, as some proxies do, is of no use: nothing that comes without a
  // `welcome` gives it more time.
  const late = () => (isWelcome ? new Silent() : held(line));
  await line.get(
    run,
    `/v1/events?${queryOfAll(run.topics)}`,
    0,
    0,
    async (answer) => {
      if (!answer.streams) throw lost("unreachable", "this fetch cannot stream", { unusable: true });
      /** @type {number | undefined} */
      let retryAfterMs;
      let data = "";
      for await (const text of answer.lines()) {
        if (text.startsWith("data:")) data += text.slice(5);
        // The one at the start is for an `EventSource`.
        if (text.startsWith("retry:")) retryAfterMs = isWelcome ? retryAfterMs : +text.slice(6);
        if (text || !data) continue;
        const frame = JSON.parse(data);
        const { type, code, message } = frame;
        const size = data.length;
        data = "";
        if (type === "welcome") {
          isWelcome = true;
          retryAfterMs = undefined;
          run.quietMs = (frame.heartbeat_ms || HEARTBEAT_MS) + ANSWER_WITHIN_MS;
          answer.allow(run.quietMs);
        }
        if (type === "goodbye") retryAfterMs = frame.retry_after_ms;
        if (type !== "error" || code === "expiring") line.hear(run, frame, size);
        else if (code === "unauthenticated") throw lost(code, message, { refused: true });
        else if (mayPass(code)) throw lost(code, message, { retryAfterMs: frame.retry_after_ms });
        else return { code, message };
      }
      throw isWelcome || retryAfterMs !== undefined ? lost("lost", "the stream ended", { retryAfterMs }) : held(line);
    },
    late,
  );
};

const held = (/** @type {HttpLine} */ line) =>
  lost("unreachable", "no welcome on the event stream in time", { unusable: !line.heard });

/** @type {import("./line.js").Open} */
export const openSse = (dial, listener) => new HttpLine(dial, listener, readEvents);

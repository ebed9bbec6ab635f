// A client whose sockets' other ends are the test, and whose time moves only when the test says so.

import { connect } from "../../src/index.js";
import { fakeClock, settled } from "./clock.js";
import { scriptedWebSocket } from "./socket.js";

export { settled };

/** `made`: is told of each socket, such as `(socket) => socket.accept()`. */
export const start = async (t, { made, ...options } = {}) => {
  const clock = fakeClock(t);
  const { WebSocket, sockets } = scriptedWebSocket(made);
  const hark = connect({ url: "https://hark.test/prefix/", WebSocket, transports: ["websocket"], ...options });
  const changes = [];
  hark.on("state", (change) => changes.push(change));
  t.after(() => hark.close());
  await settled();
  const { pass, sleep, setWall } = clock;
  /** By what it was connected, or how it was not. */
  const steps = () => changes.map(({ state, transport }) => transport ?? state);
  const waits = () => changes.filter(({ state }) => state === "waiting").map(({ retryInMs }) => retryInMs);
  return { hark, sockets, changes, steps, waits, clock, pass, sleep, setWall };
};

/** A browser's window and document, as far as they are listened to. */
export const browser = (t) => {
  const window = new EventTarget();
  const document = Object.assign(new EventTarget(), { visibilityState: "visible" });
  Object.assign(globalThis, { window, document });
  t.after(() => {
    delete globalThis.window;
    delete globalThis.document;
  });
  return {
    /** @param {string} type */
    happens: (type) => window.dispatchEvent(new Event(type)),
    /** @param {"visible" | "hidden"} visibilityState */
    shows(visibilityState) {
      document.visibilityState = visibilityState;
      document.dispatchEvent(new Event("visibilitychange"));
    },
  };
};

/**
 * A Hark behind a `fetch`. `state.is`: "there", "away" (no connection), "foreign" (a proxy's page), or "silent" (no answer);
 * `streams`: the event streams, oldest first, each with `event`, `write`, `end` and `closed`; each has a comment every 25 s.
 */
export const harkFetch = () => {
  const state = { is: "there" };
  const requests = [];
  const streams = [];
  const fetch = async (url, { method = "GET", body, signal } = {}) => {
    const { pathname, searchParams } = new URL(url);
    const what = `${method} ${pathname.replace("/prefix", "")}`;
    requests.push(what);
    if (state.is === "away") throw new TypeError("fetch failed");
    if (state.is === "silent") {
      return new Promise((_, reject) => signal.addEventListener("abort", () => reject(new Error("aborted"))));
    }
    if (state.is === "foreign") return new Response("<html>", { status: 404 });
    const topics = searchParams.getAll("topic");
    if (method === "POST") {
      const receipts = body
        .split("\n")
        .filter(Boolean)
        .map((line) => JSON.parse(line))
        .map(({ id, topic, seq }) => JSON.stringify({ id, topic, cursor: `e:${seq}`, duplicate: false }) + "\n");
      return new Response(receipts.join(""), { headers: { "content-type": "application/x-ndjson" } });
    }
    if (what !== "GET /v1/events") {
      const pages = topics.map((topic) => ({ topic, messages: [], cursor: "e:0", caught_up: true }));
      return Response.json({ pages, cursor: "e:0" });
    }
    const stream = {};
    const beat = setInterval(() => stream.write(":\n\n"), 25_000);
    const readable = new ReadableStream({
      start(out) {
        stream.write = (text) => out.enqueue(new TextEncoder().encode(text));
        stream.event = (frame) => stream.write(`event: ${frame.type}\ndata: ${JSON.stringify(frame)}\n\n`);
        stream.end = () => (clearInterval(beat), out.close());
        signal?.addEventListener("abort", () => {
          stream.closed = true;
          clearInterval(beat);
          try {
            out.error(new Error("aborted"));
          } catch {
            // It had ended.
          }
        });
      },
    });
    streams.push(stream);
    stream.event({ type: "welcome", heartbeat_ms: 25_000, max_message_bytes: 1 << 20, max_inflight: 1024 });
    for (const topic of topics) stream.event({ type: "subscribed", topic, cursor: "e:0", head: 0, resumed: true });
    return new Response(readable, { headers: { "content-type": "text/event-stream" } });
  };
  return { fetch, requests, streams, state };
};

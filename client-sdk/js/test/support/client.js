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
 * A `fetch` whose answers the test gives, with the requests in their order. `answer(body)`: a body that is there, or none for one
 * that the test writes on with `write` and ends with `end`.
 */
export const scriptedFetch = () => {
  const requests = [];
  const fetch = (url, { method = "GET", signal, body } = {}) =>
    new Promise((resolve, reject) => {
      const request = {
        what: `${method} ${new URL(url).pathname}`,
        query: new URL(url).searchParams,
        body,
        signal,
        answer: (text = "", status = 200) => resolve(new Response(text, { status })),
        fail: () => reject(new TypeError("fetch failed")),
        stream() {
          let out;
          resolve(new Response(new ReadableStream({ start: (controller) => (out = controller) })));
          signal?.addEventListener("abort", () => out.error(new Error("aborted")));
          this.write = (text) => out.enqueue(new TextEncoder().encode(text));
          this.end = () => out.close();
        },
      };
      signal?.addEventListener("abort", () => reject(new Error("aborted")));
      requests.push(request);
    });
  return { fetch, requests };
};

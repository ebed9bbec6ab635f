// @ts-check
// A line over one WebSocket (`hark.v1.json`). Owns what is said first, and what its end means; whether it still holds is found out
// in pulse.js.
//
// Nothing can be said before the upgrade is answered (RFC 6455, 4.1). Then the token, and all else that there is to say, goes at
// once: nobody waits for `welcome`.

import { lengthOf } from "./bytes.js";
import { elapsedSince, mark } from "./clock.js";
import { ConnectionError, isFinalClose, isViolation } from "./errors.js";
import { Pulse } from "./pulse.js";
import { later } from "./timer.js";

// An attempt that ends so much later than it should has slept through its time, which says nothing against the transport.
const LATE_MS = 1000;

/** @type {import("./line.js").Open} */
export const openWebSocket = ({ base, token, WebSocket, patienceMs }, listener) => {
  const url = `${base.replace(/^http/, "ws")}/ws`;
  const began = mark();
  let isOpen = false;
  let isOver = false;
  /** @type {import("../hark").WebSocketLike | undefined} */
  let socket;
  /** @type {number | undefined} */
  let retryAfterMs;

  const over = () => {
    if (isOver) return true;
    isOver = true;
    clearTimeout(patience);
    pulse.stop();
    socket?.close(1000);
  };
  /**
   * @param {string} code
   * @param {string} message
   * @param {Partial<import("./line.js").Loss>} [more]
   */
  const lose = (code, message, more) => {
    if (!over()) listener.lost({ error: new ConnectionError(code, message), retryAfterMs, ...more });
  };
  const pulse = new Pulse(
    () => say({ type: "ping" }),
    () => socket?.bufferedAmount ?? 0,
    (reason) => lose("lost", reason),
  );
  /**
   * @param {string} text
   * @param {number} [id] of a command
   */
  const send = (text, id) => {
    const write = () => {
      try {
        socket?.send(text);
      } catch {
        // A close follows, and says as much as there is to say.
      }
    };
    pulse.say(write, lengthOf(text), id);
  };
  const say = (/** @type {any} */ frame) => {
    if (frame.type === "auth") frame = { id: 0, ...frame };
    send(JSON.stringify(frame), frame.type === "ping" ? undefined : frame.id);
  };

  try {
    socket = new /** @type {NonNullable<typeof WebSocket>} */ (WebSocket)(url, "hark.v1.json");
  } catch (error) {
    // As every other way to end: not before the line has been handed out.
    later(0, () => lose("unreachable", String(error), { unusable: true }));
  }
  const patience = later(patienceMs, () =>
    lose("unreachable", `no welcome from ${url} in time`, { unusable: elapsedSince(began) < patienceMs + LATE_MS }),
  );
  if (socket) {
    socket.onopen = () => {
      if (isOver) return;
      if (token) say({ type: "auth", token });
      listener.ready();
    };
    socket.onmessage = ({ data }) => {
      let frame;
      try {
        frame = JSON.parse(data);
      } catch {
        // Of a newer Hark, perhaps. If it was a message, the next one shows the hole.
      }
      if (isOver) return;
      pulse.heard(frame?.id);
      if (!frame) return;
      if (frame.type === "error" && frame.code === "unauthenticated" && !(frame.id > 0)) {
        lose(frame.code, frame.message, { refused: true });
      } else if (frame.type === "error" && frame.code === "unsupported" && token && !(frame.id > 0)) {
        // No authentication is configured there: nobody would know who the application says it is.
        lose(frame.code, frame.message, { final: true });
      } else if (isOpen) {
        if (frame.type === "goodbye") retryAfterMs = frame.retry_after_ms;
        listener.hear(frame, data.length);
      } else if (frame.type === "welcome") {
        isOpen = true;
        clearTimeout(patience);
        pulse.heartbeatMs = frame.heartbeat_ms || pulse.heartbeatMs;
        pulse.start();
        listener.hear(frame, 0);
        listener.open(frame.version);
      }
    };
    // A close follows, and says as much as there is to say.
    socket.onerror = () => {};
    socket.onclose = ({ code, reason }) => {
      if (code === 4401) lose("unauthenticated", reason || "the token was refused", { refused: true });
      else if (isFinalClose(code))
        lose("closed_by_hark", `Hark closed the connection (${code}): ${reason}`, { final: true });
      else if (isOpen || code === 1012 || code === 1013 || code >= 4500)
        lose("lost", `the connection ended (${code}) ${reason}`, { violation: isOpen && isViolation(code) });
      else lose("unreachable", `${url} cannot be reached by WebSocket`, { unusable: true });
    };
  }

  return {
    say,
    publish: (id, text) => send(text, id),
    check: () => pulse.ask(),
    close: over,
  };
};

// @ts-check
// A line over one WebSocket (`hark.v1.json`). Owns what its end means, and finding out that it is dead: a page cannot see
// WebSocket pings, so the client sends `ping` frames when nothing was heard for a heartbeat.

import { ConnectionError, isFinalClose } from "./errors.js";
import { CHECK_MS, HEARTBEAT_MS, SILENT_HEARTBEATS, startBeat } from "./line.js";

/** @type {import("./line.js").Open} */
export const openWebSocket = ({ base, token, WebSocket, patienceMs }, listener) => {
  const url = `${base.replace(/^http/, "ws")}/ws`;
  let isOpen = false;
  let isOver = false;
  let heard = 0;
  let heartbeatMs = HEARTBEAT_MS;
  /** @type {import("../hark").WebSocketLike | undefined} */
  let socket;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  let pulse;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let deadline;
  /** @type {number | undefined} */
  let retryAfterMs;

  const over = () => {
    if (isOver) return true;
    isOver = true;
    clearInterval(pulse);
    clearTimeout(deadline);
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
  const say = (/** @type {any} */ frame) => socket?.send(JSON.stringify(frame));

  const check = () => {
    say({ type: "ping" });
    clearTimeout(deadline);
    deadline = setTimeout(() => lose("lost", "no answer to a check"), CHECK_MS);
  };
  const beat = (/** @type {boolean} */ jumped) => {
    const silentMs = Date.now() - heard;
    if (jumped) check();
    else if (silentMs >= heartbeatMs * SILENT_HEARTBEATS) lose("lost", `nothing heard for ${silentMs} ms`);
    else if (silentMs >= heartbeatMs) say({ type: "ping" });
  };

  try {
    socket = new /** @type {NonNullable<typeof WebSocket>} */ (WebSocket)(url, "hark.v1.json");
    deadline = setTimeout(() => lose("unreachable", `no welcome from ${url} in time`, { unusable: true }), patienceMs);
  } catch (error) {
    // As every other way to end: not before the line has been handed out.
    deadline = setTimeout(() => lose("unreachable", String(error), { unusable: true }), 0);
  }
  if (socket) {
    socket.onopen = () => token && say({ type: "auth", token });
    socket.onmessage = ({ data }) => {
      heard = Date.now();
      // Of a check: whatever comes, it holds.
      if (isOpen) clearTimeout(deadline);
      let frame;
      try {
        frame = JSON.parse(data);
      } catch {
        // Of a newer Hark, perhaps. If it was a message, the next one shows the hole.
        return;
      }
      if (isOver) return;
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
        clearTimeout(deadline);
        heartbeatMs = frame.heartbeat_ms;
        pulse = startBeat(beat, Math.min(heartbeatMs / 2, CHECK_MS));
        listener.open(frame.version);
        listener.hear(frame, 0);
      }
    };
    // A close follows, and says as much as there is to say.
    socket.onerror = () => {};
    socket.onclose = ({ code, reason }) => {
      if (code === 4401) lose("unauthenticated", reason || "the token was refused", { refused: true });
      else if (isFinalClose(code))
        lose("closed_by_hark", `Hark closed the connection (${code}): ${reason}`, {
          final: isOpen || code >= 4400,
          unusable: !isOpen,
        });
      else if (isOpen || code === 1012 || code === 1013 || code >= 4500)
        lose("lost", `the connection ended (${code}) ${reason}`);
      else lose("unreachable", `${url} cannot be reached by WebSocket`, { unusable: true });
    };
  }

  return {
    say,
    publish: (_, text) => socket?.send(text),
    check,
    close: over,
  };
};

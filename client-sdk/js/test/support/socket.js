// A WebSocket whose other end is the test: it sees what the client says, and says what Hark would.

/** A class for the option `WebSocket`, with the sockets that were made of it. */
export const scriptedWebSocket = () => {
  const sockets = [];
  class ScriptedWebSocket {
    sent = [];
    constructor(url, protocol) {
      Object.assign(this, { url, protocol });
      sockets.push(this);
    }
    send(text) {
      this.sent.push(text);
    }
    close(code) {
      this.closedWith = code;
    }
    /** The connection stands. */
    accept(welcome = {}) {
      this.onopen?.();
      this.say({
        type: "welcome",
        session: "s1",
        version: "1",
        heartbeat_ms: 25000,
        max_message_bytes: 1 << 20,
        max_inflight: 1024,
        ...welcome,
      });
    }
    say(frame) {
      this.onmessage?.({ data: typeof frame === "string" ? frame : JSON.stringify(frame) });
    }
    end(code = 1006, reason = "") {
      this.onclose?.({ code, reason });
    }
    /** The frames of one type that the client has said. */
    said(type) {
      return this.sent.map((text) => JSON.parse(text)).filter((frame) => frame.type === type);
    }
  }
  return { WebSocket: ScriptedWebSocket, sockets };
};

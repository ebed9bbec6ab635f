// A WebSocket whose other end is the test: it sees what the client says, and says what Hark would.

/**
 * A class for the option `WebSocket`, with the sockets that were made of it.
 *
 * @param {(socket: any) => void} [made] is told of each
 */
export const scriptedWebSocket = (made) => {
  const sockets = [];
  class ScriptedWebSocket {
    sent = [];
    /** What has not left yet. */
    bufferedAmount = 0;
    /** Each `ping` has its `pong` at once, each `subscribe` its `subscribed`. */
    answers = false;
    constructor(url, protocol) {
      Object.assign(this, { url, protocol });
      sockets.push(this);
      queueMicrotask(() => made?.(this));
    }
    send(text) {
      this.sent.push(text);
      const { type, id, topic } = JSON.parse(text);
      if (!this.answers || this.closedWith) return;
      if (type === "ping") queueMicrotask(() => this.say({ type: "pong", id }));
      if (type === "subscribe") queueMicrotask(() => this.subscribed(topic));
    }
    close(code) {
      this.closedWith = code;
    }
    /** The upgrade is answered. */
    upgrade() {
      this.onopen?.();
    }
    /** Hark greets. */
    welcome(welcome = {}) {
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
    /** The connection stands. */
    accept(welcome) {
      this.upgrade();
      this.welcome(welcome);
    }
    say(frame) {
      this.onmessage?.({ data: typeof frame === "string" ? frame : JSON.stringify(frame) });
    }
    /** Answers the last `subscribe` to the topic. */
    subscribed(topic = "a", cursor = "e:0") {
      const { id } = this.said("subscribe").findLast((frame) => frame.topic === topic);
      this.say({ type: "subscribed", id, topic, cursor, head: 0, resumed: false });
    }
    /** Receipts for all that was published and has none. */
    receipts() {
      const published = this.said("publish").slice(this.receiptCount ?? 0);
      this.receiptCount = (this.receiptCount ?? 0) + published.length;
      for (const { id, topic, seq } of published) {
        this.say({ type: "published", id, topic, cursor: `e:${seq}`, duplicate: false });
      }
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

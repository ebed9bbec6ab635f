// Never runs: an application of hark.d.ts, which the oldest TypeScript that it may have, and the newest, take without anybody else's
// types.

import { connect, localCursor } from "../hark.js";
import type { FetchLike, Hark, HarkEvent, Options, PublishError, Subscription, WebSocketLike } from "../hark.js";

declare class Socket implements WebSocketLike {
  constructor(url: string, protocol?: string);
  onopen: ((event: { type: string }) => void) | null;
  onmessage: ((event: { data: string }) => void) | null;
  onerror: ((event: unknown) => void) | null;
  onclose: ((event: { code: number }) => void) | null;
  send(text: string | ArrayBuffer): void;
  close(code?: number, reason?: string): void;
}
declare const fetch: FetchLike;

export async function use(): Promise<number> {
  const options: Options = { url: "ws://127.0.0.1:4275/ws", token: async (reason) => reason, window: { bytes: undefined } };
  const hark: Hark = connect(options);
  connect({ WebSocket: Socket, fetch, transports: ["sse"], queue: { messages: 5 } });
  const map = new Map<string, string>();
  hark.subscribe("a", { cursor: { load: () => map.get("a"), save: (cursor) => map.set("a", cursor) } });
  const receipt = await hark.publish("orders.eu", { any: "json" }, { headers: { trace: "1" } });
  receipt.cursor.charAt(0);
  await hark.publish("orders.eu", new DataView(new ArrayBuffer(5)));
  await hark.publish("orders.eu", "hello", { contentType: "text/plain" });
  for (const result of await hark.publishAll(new Set(["a", "b"]), 1)) {
    if ("error" in result) mayRepeat(result.error);
    else result.cursor.charAt(0);
  }
  const subscription = hark.subscribe("orders.eu", { from: { last: 50 }, cursor: localCursor("orders") });
  const off: () => void = subscription.on("stuck", ({ tries }) => tries.toFixed());
  off();
  hark.on("state", ({ state, retryInMs }) => [state.length, retryInMs?.toFixed()]);
  for await (const event of subscription) {
    if (event.type === "message") [event.data.anything, event.identity?.subject.charAt(0)];
    else if (event.type === "gap") event.reason.charAt(0);
    else if (event.type === "lagging") event.behind?.toFixed();
    else if (event.type === "stuck") event.tries.toFixed();
    else event.cursor.charAt(0);
  }
  // @ts-expect-error: there is no such place to start from
  hark.subscribe("orders.eu", { from: "yesterday" });
  // @ts-expect-error: a topic is a text
  hark.publish(undefined, 1);
  return count(subscription);
}

async function count(events: Subscription): Promise<number> {
  const iterator: AsyncIterableIterator<HarkEvent> = events;
  const { done, value } = await iterator.next();
  return done ? 0 : value.cursor.length;
}

const mayRepeat = ({ code, maybeKept, topic }: PublishError) => code === "busy" && !maybeKept && topic !== "a";

// Never runs: `npm run check` compares what the sources export with what hark.d.ts promises, in both directions.

import * as sources from "../src/index.js";
import { WebSocket as NodeWebSocket } from "ws";
import type * as promised from "../hark.js";

export const isPromised: typeof promised = sources;
export const isSaid: Record<keyof typeof sources, true> = {
  connect: true,
  localCursor: true,
  HarkError: true,
  ConnectionError: true,
  PublishError: true,
  SubscribeError: true,
} satisfies Record<keyof typeof promised, true>;

export async function use({ connect, localCursor }: typeof promised) {
  const hark = connect({ url: "ws://127.0.0.1:4275/ws", token: async (reason) => reason });
  connect({ WebSocket: NodeWebSocket });
  connect({ WebSocket: globalThis.WebSocket });
  const map = new Map<string, string>();
  hark.subscribe("a", { cursor: { load: () => map.get("a"), save: (cursor) => map.set("a", cursor) } });
  const receipt = await hark.publish("orders.eu", { any: "json" }, { headers: { trace: "1" } });
  receipt.cursor.at(0);
  await hark.publish("orders.eu", "hello", { contentType: "text/plain" });
  const subscription = hark.subscribe("orders.eu", { from: { last: 50 }, cursor: localCursor("orders") });
  for await (const event of subscription) {
    if (event.type === "message") event.data.anything;
    else if (event.type === "gap") event.reason.at(0);
    else if (event.type === "lagging") event.behind?.toFixed();
    else event.cursor.at(0);
  }
  // @ts-expect-error: there is no such place to start from
  hark.subscribe("orders.eu", { from: "yesterday" });
}

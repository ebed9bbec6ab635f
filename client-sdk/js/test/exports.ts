// Never runs: `npm run check` compares what the sources export with what hark.d.ts promises, in both directions, and what it asks of a
// platform with what platforms have.

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

export const platforms = ({ connect }: typeof promised) => [
  connect({ WebSocket: NodeWebSocket }),
  connect({ WebSocket: globalThis.WebSocket, fetch: globalThis.fetch }),
  connect({ fetch: async (url, init) => globalThis.fetch(url, init) }),
];

export const iterates = (subscription: promised.Subscription): AsyncIterableIterator<promised.HarkEvent, undefined> =>
  subscription;

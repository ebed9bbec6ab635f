// The Hark client for browsers and Node 20 and newer: its public face. The sources are checked against this file (`npm run check`).

/** How a client reaches Hark. */
export type Transport = "websocket" | "sse" | "longpoll";

/** `waiting`: there was a connection, or an attempt, and the next one is due in `retryInMs`. `closed`: for good. */
export type State = "connecting" | "open" | "waiting" | "closed";

/** What `hark.on("state", …)` is told. */
export interface StateChange {
  state: State;
  /** While `open`. */
  transport: Transport | undefined;
  /** While `waiting`; not when the page was put away: then the client waits until it is back. */
  retryInMs?: number;
  /** Why it is `waiting`, or `closed` for another reason than `close()`. */
  error?: HarkError;
}

/**
 * Why a token is asked for: for a new connection, because the one in use runs out, because it was refused (once; if the next
 * one is refused too, the client ends), or to subscribe to a topic with.
 */
export type TokenReason = "connect" | "expiring" | "refused" | "subscribe";

/** What the client uses of a `WebSocket`: browsers' own, that of Node 22, and that of the package `ws` all have it. */
export interface WebSocketLike {
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  readonly bufferedAmount?: number;
  send(text: string): void;
  close(code: number): void;
}

/** What the client uses of `fetch` and its answers. */
export type FetchLike = (url: string, init?: any) => Promise<ResponseLike>;

export interface ResponseLike {
  readonly ok: boolean;
  readonly status: number;
  readonly headers: { get(name: string): string | null };
  readonly body: unknown;
  text(): Promise<string>;
}

/** An option of another name is ignored, and `console.warn` says so; one that is `undefined` has its default. */
export interface Options {
  /** `ws(s)://host/ws` or `http(s)://host[/prefix]`. In a browser the page's own origin by default. */
  url?: string | undefined;
  /** A token, or what gives one. Not called while a call is waited for, which is `connectTimeoutMs` at
   * most; if it fails or takes longer, the client waits and calls again. */
  token?: string | ((reason: TokenReason) => string | undefined | Promise<string | undefined>) | undefined;
  /** In the order in which they are tried. Default: `["websocket", "sse", "longpoll"]`. */
  transports?: Transport[] | undefined;
  /** A WebSocket class, for Node before 22 (such as that of the package `ws`). Default: the global one. */
  WebSocket?: (new (url: string, protocol: string) => WebSocketLike) | undefined;
  /** Default: the global one. */
  fetch?: FetchLike | undefined;
  /** How long one attempt by one transport may take, and the `token` function. Default: 6,000. */
  connectTimeoutMs?: number | undefined;
  /** After a fallback: about how long until a better transport is tried again. Doubles with each failure up to 10 minutes. Default: 15,000. */
  probeMs?: number | undefined;
  /** How much may be published and unanswered; beyond it `publish` fails with `window_full`. Default: 10,000 messages, 16 MiB. */
  window?: Bounds | undefined;
  /**
   * How much may wait in a subscription for the application. When it is full the client leaves the topic and comes back,
   * at the same place, when half of it was taken: nothing is missed. Default: 1,024 messages, 1 MiB.
   */
  queue?: Bounds | undefined;
}

export interface Bounds {
  messages?: number | undefined;
  bytes?: number | undefined;
}

/**
 * Connects, and stays connected: it goes on with every subscription exactly where it was, and sends again what was not answered.
 * Returns at once; nothing has to be waited for.
 */
export function connect(options?: Options): Hark;

export interface Hark {
  readonly state: State;
  /** By what it is connected just now. */
  readonly transport: Transport | undefined;
  /**
   * Publishes any JSON value, bytes (an `ArrayBuffer` or a view of one, such as a `Uint8Array`), or text: a string with a `contentType`
   * such as `text/plain`. Fulfilled when Hark has kept the message; while there is no connection it waits. One client's messages to a
   * topic are kept in the order of the calls, each once.
   *
   * Rejected with a {@link PublishError}: `bad_data` for what is neither (`undefined`, a `Blob`, a `Map`, also within the data), `lost`
   * when connection after connection was lost over the message. Nobody has to look at the failures that `close()` makes.
   */
  publish(topic: string, data: unknown, options?: PublishOptions): Promise<Receipt>;
  /**
   * Publishes one message to several topics, none of them twice: the content goes to Hark once, and each topic keeps it by itself, as if
   * it had been published there alone. Fulfilled when all have answered, with a result for each, in the order of the topics; where
   * one failed, it failed there alone.
   *
   * Rejected with a {@link PublishError} only for what is wrong with the message itself. (To a Hark before 0.2.0, and where
   * none has said its version yet, as by HTTP without an event stream, it goes to each topic for itself.)
   */
  publishAll(topics: Iterable<string>, data: unknown, options?: PublishOptions): Promise<TopicResult[]>;
  /** Subscribes to a topic; one subscription to a topic at a time. Throws where there is one already, or the client is closed. */
  subscribe(topic: string, options?: SubscribeOptions): Subscription;
  /** Listens. The function it returns ends that. */
  on(type: "state", listener: (change: StateChange) => void): () => void;
  /** Connects anew at once, beginning with the best transport. */
  reconnect(): void;
  /** Ends the client: subscriptions end, and what has no receipt fails with `closed`. Await the receipts before. */
  close(): void;
}

export interface PublishOptions {
  /** At most 32, and 4,096 bytes. */
  headers?: Record<string, string> | undefined;
  /** Of bytes; or of text, when it is `text/…` and `data` a string, which without it is a JSON string. */
  contentType?: string | undefined;
  /**
   * A key of your own, of 1 to 64 bytes: a second message with it is a duplicate, within two minutes. For what is published again
   * after the page was loaded again. It takes the place of the client's own numbering, which needs no key and forgets nothing: it
   * waits for the receipts of those before it, those behind it wait for its own, and if it has none within those two minutes it
   * fails with `lost` and `maybeKept`, since sent again it could be kept twice.
   */
  messageId?: string | undefined;
}

export interface Receipt {
  /** The message's place. For a duplicate whose place Hark does not know any more it ends in `:0`, which is no message's. */
  cursor: string;
  /** It had been kept before. */
  duplicate: boolean;
}

/** What became of a message in one of its topics: the receipt, or why it has none. */
export type TopicResult = ({ topic: string } & Receipt) | { topic: string; error: PublishError };

/** Where a subscription starts. `since`: a time, or how long ago (`"5m"`, `"1h 30m"`, `"7d"`). */
export type From = "now" | "earliest" | { after: string } | { last: number } | { since: string | Date };

/**
 * Where a cursor is kept between two lives of an application. `load` may be asynchronous, `save` too: if it gives a promise, neither is
 * called again before that is settled, and then `save` with the newest cursor. What is not settled within 10 s counts as failed: where
 * `load` has, the subscription starts at `from`. A subscription that has ended saves nothing once another one uses the store.
 */
export interface CursorStore {
  load(): string | null | undefined | Promise<string | null | undefined>;
  save(cursor: string): unknown;
}

/** A cursor kept in the browser's `localStorage` under `key`. */
export function localCursor(key: string): CursorStore;

export interface SubscribeOptions {
  /** Default: `"now"`. */
  from?: From | undefined;
  /** A cursor that is found there wins over `from`. It is written whenever a message has been taken. */
  cursor?: CursorStore | undefined;
  /**
   * A token that lets this connection read this topic, signed by the back end, or what gives one: asked each time before the topic is, also
   * when the last one has run out, and once more when it was refused. Shown over WebSockets; by HTTP the client's own token has to grant the topic.
   */
  token?: string | ((reason: TokenReason) => string | undefined | Promise<string | undefined>) | undefined;
}

export interface Message {
  type: "message";
  topic: string;
  offset: number;
  /** When it was kept, in milliseconds since 1970. */
  time: number;
  /**
   * The JSON value; a string of what was published as text (its `contentType` tells it from a JSON string), a `Uint8Array` of what was
   * published as bytes.
   */
  data: any;
  /** Of text, and of bytes if it was given. Published again with it, the data is what it was. */
  contentType?: string;
  /** Who published it, as Hark says: in topics where that is told, of those who were not anonymous. Two are the same if both parts are. */
  identity?: { issuer: string; subject: string };
  headers: Record<string, string>;
  /** The place after this message. */
  cursor: string;
}

/** Something that this subscriber cannot have. The subscription goes on behind it. */
export interface Gap {
  type: "gap";
  topic: string;
  /** `expired`, `lost`, `other_epoch`, `ahead`, `deleted` or `skipped`; a newer Hark may say more. */
  reason: string;
  /** The first and the last offset that are missing, where they can be named. */
  from?: number | undefined;
  to?: number | undefined;
  /** The place behind the gap. */
  cursor: string;
}

/** What was kept has been given; from here on it is live. Comes again after every reconnect. */
export interface CaughtUp {
  type: "caught_up";
  topic: string;
  cursor: string;
}

/**
 * More is published than this connection takes, so that what comes is late. Nothing is missed. Said when that begins, and again while
 * it lasts, at most every 10 s.
 */
export interface Lagging {
  type: "lagging";
  topic: string;
  cursor: string;
  /** How many messages are kept behind `cursor`, if Hark knows. */
  behind?: number | undefined;
}

/**
 * Connection after connection was lost before anything behind `cursor` came, by every transport: something on the way does not let it
 * through. It is tried again about once a minute, and said again each time that fails.
 */
export interface Stuck {
  type: "stuck";
  topic: string;
  cursor: string;
  /** How many connections that were. */
  tries: number;
}

export type HarkEvent = Message | Gap | CaughtUp | Lagging | Stuck;

/**
 * Iterate over it, or set callbacks; not both. A message counts as taken, and the cursor is stored, when the next one is asked for,
 * or when the callbacks have returned (a promise: when it is settled). Events wait until there is a callback for `message`. Leaving the
 * loop closes it.
 */
export interface Subscription {
  readonly topic: string;
  /** The place up to which everything was taken. */
  readonly cursor: string | undefined;
  /** Fulfilled with the cursor where delivery starts, as soon as Hark has said it. */
  readonly ready: Promise<string>;
  on(type: "message", listener: (message: Message) => unknown): () => void;
  on(type: "gap", listener: (gap: Gap) => unknown): () => void;
  on(type: "caught_up", listener: (event: CaughtUp) => unknown): () => void;
  on(type: "lagging", listener: (event: Lagging) => unknown): () => void;
  on(type: "stuck", listener: (event: Stuck) => unknown): () => void;
  /** The subscription has ended. Without a listener the error is reported as an uncaught one. */
  on(type: "error", listener: (error: HarkError) => unknown): () => void;
  /** No callback is called any more, and what was not taken is dropped. */
  close(): void;
  next(): Promise<IteratorResult<HarkEvent, undefined>>;
  return(): Promise<IteratorResult<HarkEvent, undefined>>;
  [Symbol.asyncIterator](): this;
}

/**
 * What went wrong. `code` is for programs: one of Hark's (`forbidden`, `bad_topic`, `too_large`, …), or one of the client's own:
 * `closed`, `window_full`, `bad_data`, `bad_url`, `no_transport`, `no_token`, `unreachable`, `lost`, `closed_by_hark`,
 * `unsupported_runtime`, `store_late`.
 */
export class HarkError extends Error {
  constructor(code: string, message: string);
  readonly code: string;
}

/** Why there is no connection. */
export class ConnectionError extends HarkError {}

/** Why a message has no receipt. */
export class PublishError extends HarkError {
  constructor(code: string, message: string, topic: string, maybeKept: boolean);
  readonly topic: string;
  /** It had been sent, so it may have been kept all the same. */
  readonly maybeKept: boolean;
}

/** Why a subscription has ended. */
export class SubscribeError extends HarkError {
  constructor(code: string, message: string, topic: string);
  readonly topic: string;
}

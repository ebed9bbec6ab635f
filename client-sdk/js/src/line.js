// @ts-check
// What a transport is to the rest: a line. It says and hears the frames of protocol/README.md, whatever it carries them by, so that
// nothing above it knows which one it is. Owns the types.
//
// A line is opened by a function that gets a dial and a listener. It calls `listener.ready` at most once, when what there is to say
// may be said, though nobody has answered yet; `listener.open` once, when Hark has; `listener.hear` for each frame that comes; `listener.alive`
// when something else has come; and `listener.lost` once, as the last thing, unless `close` came first: then it calls nothing any
// more. It calls none of them before it has been handed out.

/**
 * What a line is opened with.
 *
 * @typedef {object} Dial
 * @property {string} base `http(s)://host[/prefix]`, without a slash at the end
 * @property {string | undefined} token
 * @property {import("../hark").Options["WebSocket"]} WebSocket
 * @property {typeof globalThis.fetch} fetch
 * @property {number} patienceMs how long opening may take
 */

/**
 * @typedef {object} Listener
 * @property {() => void} ready a line that does not call it is ready when it is open
 * @property {(version?: string) => void} open with Hark's version, where a line is told
 * @property {(frame: any, size: number) => void} hear a frame and how many characters it had
 * @property {() => void} alive bytes came that are no frame, or no whole one yet (by HTTP: part of an answer, a comment)
 * @property {(loss: Loss) => void} lost
 */

/**
 * How a line ended.
 *
 * @typedef {object} Loss
 * @property {import("./errors.js").HarkError} [error] none: it was not lost but given up
 * @property {boolean} [unusable] another transport may do: this one cannot be had here
 * @property {boolean} [refused] the token is no good
 * @property {boolean} [final] connecting again makes no sense
 * @property {boolean} [violation] the other end says that a protocol was broken: connecting again makes no sense if it always ends so
 * @property {number[]} [unanswered] a request that held these messages brought no receipt: that is why it was lost
 * @property {boolean} [again] at once
 * @property {number} [retryAfterMs] what Hark asked for
 */

/**
 * @typedef {object} Line
 * @property {(frame: any) => void} say a command, or `ping`, which a line over HTTP passes over in silence: there nothing is asked
 * @property {(id: number, text: string) => void} publish
 * @property {(online: boolean) => void} check something may have happened: finds out soon whether the line still holds;
 *   `online`: the network was away
 * @property {() => void} close
 */

/** @typedef {(dial: Dial, listener: Listener) => Line} Open */

/** Hark's heartbeat until it has said another. */
export const HEARTBEAT_MS = 25_000;

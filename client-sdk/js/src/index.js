// @ts-check
// The Hark client for browsers and Node: what a module that imports it sees. hark.d.ts says what each is for.

import { Client } from "./client.js";

export { localCursor } from "./cursor.js";
export { ConnectionError, HarkError, PublishError, SubscribeError } from "./errors.js";

/**
 * @param {import("../hark").Options} [options]
 * @returns {import("../hark").Hark}
 */
export const connect = (options = {}) => new Client(options);

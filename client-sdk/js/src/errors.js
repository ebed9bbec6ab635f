// @ts-check
// What can go wrong, for programs (`code`) and for people (the sentence). Owns which codes and close codes are worth trying again.

export class HarkError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   */
  constructor(code, message) {
    super(message);
    // Written out: a minified class has no name worth reading.
    this.name = "HarkError";
    this.code = code;
  }
}

/** Why there is no connection, or why the client has ended. */
export class ConnectionError extends HarkError {
  name = "ConnectionError";
}

/** Why a message has no receipt. */
export class PublishError extends HarkError {
  name = "PublishError";
  /**
   * @param {string} code
   * @param {string} message
   * @param {string} topic
   * @param {boolean} maybeKept
   */
  constructor(code, message, topic, maybeKept) {
    super(code, message);
    this.topic = topic;
    this.maybeKept = maybeKept;
  }
}

/** Why there is no subscription, or no longer. */
export class SubscribeError extends HarkError {
  name = "SubscribeError";
  /**
   * @param {string} code
   * @param {string} message
   * @param {string} topic
   */
  constructor(code, message, topic) {
    super(code, message);
    this.topic = topic;
  }
}

/** @param {number} bytes */
export const tooLarge = (bytes) => `the message makes a frame of more than ${bytes} bytes`;

const PASSING = ["busy", "log_unavailable", "rate_limited", "internal"];
// Anything between may say so too; it is believed when it is all that ever comes.
const VIOLATIONS = [1002, 1003, 1007, 1009];

/**
 * Whether the same command may succeed when it is sent again unchanged.
 *
 * @param {string} code
 */
export const mayPass = (code) => PASSING.includes(code);

/**
 * Whether a WebSocket's close code says that connecting again makes no sense. Only Hark can say so, not what is between.
 *
 * @param {number} code
 */
export const isFinalClose = (code) => code >= 4400 && code < 4500;

/**
 * Whether it says that the client broke a protocol.
 *
 * @param {number} code
 */
export const isViolation = (code) => VIOLATIONS.includes(code);

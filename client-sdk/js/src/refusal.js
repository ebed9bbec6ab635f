// @ts-check
// What an HTTP status other than 200 means. Owns telling Hark's refusals from what something in between says, which never ends a
// client for good, and for how long to stay away.

import { mayPass } from "./errors.js";
import { lost } from "./exchange.js";
import { LONGEST_RETRY_AFTER_MS } from "./figures.js";

/** All that are in protocol/README.md. */
export const CODES = `
  bad_frame bad_topic bad_cursor too_large unauthenticated forbidden expiring not_subscribed already_subscribed
  too_many_subscriptions too_many_topics out_of_sequence rate_limited busy log_unavailable unsupported internal`
  .trim()
  .split(/\s+/);

/**
 * Hark's code and sentence, of what is not to be asked again. What may pass, asks for another token, or is not of Hark at all, is
 * thrown as the line's end.
 *
 * @param {import("./exchange.js").Answer} answer
 * @param {string} base
 * @param {Partial<import("./line.js").Loss>} foreign what it says of the transport if somebody else answered
 * @param {boolean} hasToken a token was shown
 * @returns {Promise<{ code: string, message: string }>}
 */
export const refusalOf = async (answer, base, foreign, hasToken) => {
  const { status } = answer;
  const text = await answer.text();
  const { code, message } = read(text);
  const retryAfterMs = retryAfterOf(answer);
  if (!code) {
    // Perhaps of a proxy that finds no Hark just now, which another transport would not either.
    const passes = status === 429 || status >= 500;
    const sentence = `${base} is no Hark: status ${status}: ${text.slice(0, 200)}`;
    throw lost("unreachable", sentence, passes ? { retryAfterMs } : { ...foreign, retryAfterMs });
  }
  if (status === 401) throw lost("unauthenticated", message, { refused: true });
  // No authentication is configured there: a token will not be looked at the next time either.
  if (status === 501 && code === "unsupported" && hasToken) throw lost(code, message, { final: true });
  // Of a request that came too slowly (RFC 9110, 15.5.9): it says nothing about what is in it.
  if (mayPass(code) || status === 408) throw lost(code, message, { retryAfterMs });
  return { code, message };
};

/**
 * @param {string} text
 * @returns {{ code: string, message: string }} without a code if it is not Hark's
 */
const read = (text) => {
  try {
    const { code, message } = JSON.parse(text);
    if (CODES.includes(code)) return { code, message: String(message) };
  } catch {
    // A proxy's page.
  }
  return { code: "", message: "" };
};

/**
 * What `Retry-After` asks for: seconds, or a date (RFC 9110, 10.2.3), which is looked at beside the answer's own: the two are of
 * one clock.
 *
 * @param {import("./exchange.js").Answer} answer
 * @returns {number | undefined}
 */
const retryAfterOf = (answer) => {
  const value = answer.header("retry-after").trim();
  const ms = /^\d+$/.test(value)
    ? Number(value) * 1000
    : Date.parse(value) - (Date.parse(answer.header("date")) || Date.now());
  return ms > 0 ? Math.min(ms, LONGEST_RETRY_AFTER_MS) : undefined;
};

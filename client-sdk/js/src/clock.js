// @ts-check
// How long something took. Owns that nobody can set it: no wait and no deadline goes by a date.

/** Milliseconds by a clock that nobody sets, for waits and deadlines. It may stand while the machine sleeps. */
export const now = () => performance.now();

/** @typedef {{ monotonicMs: number, wallMs: number }} Mark */

/** @returns {Mark} this moment, for `elapsedSince` */
export const mark = () => ({ monotonicMs: now(), wallMs: Date.now() });

/**
 * How long ago it was, a sleep of the machine with it: for noticing that sleep, and for what Hark's own clock decides (how long
 * it knows a key). The larger of both clocks, since each may stand or be set back.
 *
 * @param {Mark} mark
 */
export const elapsedSince = ({ monotonicMs, wallMs }) => Math.max(0, now() - monotonicMs, Date.now() - wallMs);

// @ts-check
// Every timer of the client. Owns that a length is one: browsers take it modulo 2^32, so that what is too long, or negative, comes
// at once or after weeks.

const LONGEST_MS = 2 ** 31 - 1;

const clamp = (/** @type {number} */ ms) => Math.min(Math.max(ms, 0) || 0, LONGEST_MS);

/**
 * Runs it once, after so long; `clearTimeout` prevents it.
 *
 * @param {number} ms what is not between 0 and 2^31 - 1 is taken for the nearer of the two, what is no number for 0
 * @param {() => void} run
 */
export const later = (ms, run) => setTimeout(run, clamp(ms));

/**
 * Gives up a promise that takes too long: then it fails with what `late` makes. What becomes of the work is not its business.
 *
 * @template T
 * @param {Promise<T>} work
 * @param {number} ms
 * @param {() => Error} late
 * @returns {Promise<T>}
 */
export const within = async (work, ms, late) => {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  const tooLate = new Promise((/** @type {(never: never) => void} */ _, reject) => (timer = later(ms, () => reject(late()))));
  try {
    return await Promise.race([work, tooLate]);
  } finally {
    clearTimeout(timer);
  }
};

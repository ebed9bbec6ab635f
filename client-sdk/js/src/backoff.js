// @ts-check
// How long to wait before trying again: full jitter, so that a thousand clients do not come back in the same moment.

/**
 * Draws a wait between zero and a bound that starts at `first` and doubles with every failure up to `longest`. Drawn from the
 * whole range, it spreads a crowd best, and the mean is still half the bound.
 *
 * @param {number} failures
 * @param {number} [firstMs] unless said otherwise, the bounds are those for a command that Hark did not take just now
 * @param {number} [longestMs] as for a broker whose log is closed until a restart
 * @param {() => number} [random]
 */
export const draw = (failures, firstMs = 50, longestMs = 5000, random = Math.random) =>
  random() * Math.min(longestMs, firstMs * 2 ** failures);

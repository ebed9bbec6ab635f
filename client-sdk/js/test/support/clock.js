// Time that moves only when the test says so: the timers, the clock that nobody sets, and the wall's.

/** Lets everything that is due now happen: promises, and what Node does between two timers. */
export const settled = async () => {
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
};

/**
 * Takes the place of `setTimeout`, `performance.now` and `Date.now` until the test ends.
 *
 * @param {import("node:test").TestContext} t
 */
export const fakeClock = (t) => {
  let monotonic = 5_000;
  let wall = 1_800_000_000_000;
  let lastId = 0;
  /** @type {Map<number, { at: number, run: () => void, every?: number }>} */
  const timers = new Map();
  /** What the timers were set to: a length, or it would be a date. @type {number[]} */
  const lengths = [];
  const add = (every) => (run, ms = 0, ...more) => {
    lengths.push(ms);
    timers.set(++lastId, { at: monotonic + Math.max(ms, 1), run: () => run(...more), every: every && ms });
    return lastId;
  };
  const remove = (id) => void timers.delete(id);
  t.mock.method(globalThis, "setTimeout", add(false));
  t.mock.method(globalThis, "setInterval", add(true));
  t.mock.method(globalThis, "clearTimeout", remove);
  t.mock.method(globalThis, "clearInterval", remove);
  t.mock.method(performance, "now", () => monotonic);
  t.mock.method(Date, "now", () => wall);

  return {
    lengths,
    /** Both clocks move; what is due on the way runs, in its order. */
    async pass(ms) {
      await settled();
      const end = monotonic + ms;
      for (;;) {
        const [first] = [...timers].filter(([, { at }]) => at <= end).sort(([, a], [, b]) => a.at - b.at);
        if (!first) break;
        const [id, { at, run, every }] = first;
        wall += Math.max(0, at - monotonic);
        monotonic = Math.max(monotonic, at);
        if (every) timers.set(id, { at: at + every, run, every });
        else timers.delete(id);
        run();
        await settled();
      }
      wall += end - monotonic;
      monotonic = end;
      await settled();
    },
    /** The machine sleeps: the wall's clock goes on, the other one or not, and no timer runs before it wakes. */
    sleep(ms, monotonicToo = false) {
      wall += ms;
      if (monotonicToo) monotonic += ms;
    },
    /** Somebody sets the wall's clock. */
    setWall(ms) {
      wall += ms;
    },
  };
};

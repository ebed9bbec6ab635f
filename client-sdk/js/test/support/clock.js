// Time that moves only when the test says so: the timers, the clock that nobody sets, and the wall's.

/** Lets everything that is due now happen: promises, and what Node does between two timers. */
export const settled = async () => {
  for (let turn = 0; turn < 4; turn++) await new Promise(setImmediate);
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
  /** @type {Map<number, { at: number, run: () => void, everyMs?: number }>} */
  const timers = new Map();
  /** What timers were set to: lengths, never dates. @type {number[]} */
  const lengths = [];
  const add = (isRepeated, run, ms = 0) => {
    lengths.push(ms);
    timers.set(++lastId, { at: monotonic + Math.max(ms, 1), run, everyMs: isRepeated ? Math.max(ms, 1) : undefined });
    return lastId;
  };
  const remove = (id) => void timers.delete(id);
  t.mock.method(globalThis, "setTimeout", (run, ms) => add(false, run, ms));
  t.mock.method(globalThis, "setInterval", (run, ms) => add(true, run, ms));
  t.mock.method(globalThis, "clearTimeout", remove);
  t.mock.method(globalThis, "clearInterval", remove);
  t.mock.method(performance, "now", () => monotonic);
  t.mock.method(Date, "now", () => wall);
  const nextDue = (end) => {
    let next;
    for (const [id, timer] of timers) if (timer.at <= end && !(timer.at >= next?.at)) next = { id, ...timer };
    return next;
  };

  return {
    lengths,
    /** How many timers are set. */
    get waiting() {
      return timers.size;
    },
    /** Both clocks move; what is due on the way runs, in its order. */
    async pass(ms) {
      await settled();
      const end = monotonic + ms;
      for (let due; (due = nextDue(end)); await settled()) {
        const { id, at, run, everyMs } = due;
        wall += Math.max(0, at - monotonic);
        monotonic = Math.max(monotonic, at);
        if (everyMs) timers.set(id, { at: at + everyMs, run, everyMs });
        else timers.delete(id);
        run();
      }
      wall += end - monotonic;
      monotonic = end;
      await settled();
    },
    /** The machine sleeps: no timer runs before it wakes. The clock that nobody sets stands meanwhile, or goes on too. */
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

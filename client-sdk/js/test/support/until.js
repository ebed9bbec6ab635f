// Waiting for something to become true, with a deadline: no test waits for a time to pass.

/** How long anything may take before it counts as hanging: it tells a client that hangs from a busy machine, and measures nothing. */
const DEADLINE_MS = 60_000;

/**
 * @param {string} what for the message when it does not come
 * @param {() => unknown} condition
 */
export const until = async (what, condition, deadlineMs = DEADLINE_MS) => {
  const deadline = Date.now() + deadlineMs;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`waited ${deadlineMs} ms in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
};

/** Takes events from an iterator until `isLast`; with a deadline. */
export const take = async (events, isLast, deadlineMs = DEADLINE_MS) => {
  const taken = [];
  let timer;
  const late = new Promise((_, reject) => {
    const complain = () => reject(new Error(`waited ${deadlineMs} ms in vain; so far: ${JSON.stringify(taken)}`));
    timer = setTimeout(complain, deadlineMs);
  });
  try {
    for (;;) {
      const { done, value } = await Promise.race([events.next(), late]);
      if (done) throw new Error(`it ended after ${JSON.stringify(taken)}`);
      taken.push(value);
      if (isLast(value, taken)) return taken;
    }
  } finally {
    clearTimeout(timer);
  }
};

/** The data of the next `count` messages. */
export const messages = async (events, count) => {
  let seen = 0;
  const taken = await take(events, ({ type }) => type === "message" && ++seen === count);
  return taken.filter(({ type }) => type === "message").map(({ data }) => data);
};

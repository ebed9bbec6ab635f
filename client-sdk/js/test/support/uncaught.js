// What nobody catches, in the place of the runner, who would fail the test for it.

/** The messages of errors that nothing caught. */
export const uncaught = (t) => {
  const failures = [];
  const listeners = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException");
  process.on("uncaughtException", (error) => failures.push(error.message));
  t.after(() => {
    process.removeAllListeners("uncaughtException");
    for (const listener of listeners) process.on("uncaughtException", listener);
  });
  return failures;
};

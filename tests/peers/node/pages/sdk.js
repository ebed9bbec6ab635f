// What a page needs to follow TOPIC and publish to it with Hark's SDK. Leaves the events in `seen`, its receipts in `receipts`, what went wrong in
// `failed`, and each state of the connection in `states`.
window.seen = [];
window.receipts = [];
window.failed = [];
window.states = [];
window.ready = import("/hark.js").then(({ connect, localCursor }) => {
  window.hark = connect(OPTIONS);
  hark.on("state", (state) => states.push({ state: state.state, transport: state.transport }));
  window.subscription = hark.subscribe("TOPIC", { from: "earliest", cursor: STORED ? localCursor("test") : undefined });
  for (const kind of ["message", "gap"]) subscription.on(kind, (event) => void seen.push(event));
});

/** Publishes `count` messages of a name, numbered, one every 5 ms, without waiting for their receipts; ends when all are answered. */
window.publishNumbered = async (name, count) => {
  const answers = [];
  for (let n = 1; n <= count; n++) {
    answers.push(hark.publish("TOPIC", { name, n }).then(
      (receipt) => receipts.push({ name, n, ...receipt }),
      (error) => failed.push(`${name} ${n}: ${error.code} ${error.message}`),
    ));
    await new Promise((next) => setTimeout(next, 5));
  }
  await Promise.all(answers);
};

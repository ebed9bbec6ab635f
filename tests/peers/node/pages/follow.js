// What a page and each kind of worker do with the SDK: follow a topic from its first message on, and publish to it. Says everything to `tell`.
import { connect } from "/hark.js";

export function follow({ topic, ...options }, tell) {
  const hark = connect(options);
  hark.on("state", ({ state, transport }) => tell("states", { state, transport }));
  const subscription = hark.subscribe(topic, { from: "earliest" });
  for (const kind of ["message", "gap", "error"]) {
    subscription.on(kind, (event) => tell("seen", { type: event.type ?? event.code, offset: event.offset, data: event.data }));
  }
  /** Messages of a name, numbered; their receipts are not waited for. */
  const publish = (name, count) => {
    for (let n = 1; n <= count; n++) {
      hark.publish(topic, { name, n }).then(
        ({ cursor, duplicate }) => tell("receipts", { name, n, cursor, duplicate }),
        (error) => tell("failed", `${name} ${n}: ${error.code} ${error.message}`),
      );
    }
  };
  return { hark, publish };
}

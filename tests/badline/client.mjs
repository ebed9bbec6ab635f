// The JavaScript client at the near end of a bad line, driven by its arguments. Says what happens on stdout, a line each, and ends when it has
// done what it was asked for. TRANSPORT is `websocket`, `sse`, `longpoll`, or `all` for whichever works.
//
//     node client.mjs URL TRANSPORT first TOPIC         connects and says `first MS`: how long the first replayed message took
//     node client.mjs URL TRANSPORT publish TOPIC N     connects, publishes N messages at once, and says `all MS`
//     node client.mjs URL TRANSPORT upload TOPIC BYTES  publishes one message of so many bytes, and says `all MS`
//     node client.mjs URL TRANSPORT listen TOPIC        says `open`, and then each message as `N OFFSET`, until it is killed
//     node client.mjs URL TRANSPORT ask TOPIC           says `open`, and for each line of stdin publishes it, and says `kept MS`

import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { connect } from "../../client-sdk/js/src/index.js";

const ws = createRequire(new URL("../../client-sdk/js/package.json", import.meta.url))("ws");
const [url, transport, task, topic, count = "0"] = process.argv.slice(2);
const began = performance.now();
const since = (start = began) => Math.round(performance.now() - start);
const say = (text) => process.stdout.write(`${text}\n`);
const transports = transport === "all" ? undefined : [transport];
const hark = connect({ url, transports, WebSocket: ws, connectTimeoutMs: 15_000 });
hark.on("state", ({ state, error }) => process.stderr.write(`${since()} ms: ${state} ${error ?? ""}\n`));

const open = () =>
  new Promise((resolve) => {
    if (hark.state === "open") return resolve();
    const off = hark.on("state", ({ state }) => {
      if (state !== "open") return;
      off();
      resolve();
    });
  });

if (task === "first") {
  for await (const event of hark.subscribe(topic, { from: "earliest" })) {
    if (event.type !== "message") continue;
    say(`first ${since()}`);
    break;
  }
  hark.close();
} else if (task === "publish") {
  await open();
  const start = performance.now();
  const receipts = [];
  for (let n = 0; n < +count; n++) {
    // The window holds 10,000.
    if (n >= 9_000) await receipts[n - 9_000];
    receipts.push(hark.publish(topic, n));
  }
  await Promise.all(receipts);
  say(`all ${since(start)}`);
  hark.close();
} else if (task === "upload") {
  await open();
  const start = performance.now();
  await hark.publish(topic, "u".repeat(+count));
  say(`all ${since(start)}`);
  hark.close();
} else if (task === "listen") {
  const subscription = hark.subscribe(topic, { from: "earliest" });
  await subscription.ready;
  say("open");
  let n = 0;
  for await (const event of subscription) if (event.type === "message") say(`${++n} ${event.offset}`);
} else {
  await open();
  say("open");
  for await (const line of createInterface(process.stdin)) {
    const start = performance.now();
    await hark.publish(topic, line);
    say(`kept ${since(start)}`);
  }
  hark.close();
}

// A subscriber with Hark's JavaScript SDK in Node, from a cursor (or another place, such as `earliest`) on. Prints every event as one line of JSON,
// and ends when it has COUNT messages.
//
// Usage: sdk_subscriber.mjs URL TOPIC COUNT CURSOR [TRANSPORT]
import { connect } from "../../../client-sdk/js/dist/hark.js";
import { packages, say } from "./packages.mjs";

const [url, topic, count, cursor, ...transports] = process.argv.slice(2);
const { WebSocket } = packages("ws");
const hark = connect({ url, WebSocket, ...(transports.length && { transports }) });
hark.on("state", (state) => console.error(JSON.stringify(state)));
const subscription = hark.subscribe(topic, { from: cursor.includes(":") ? { after: cursor } : cursor });
let left = Number(count);
for await (const event of subscription) {
  say(event);
  if (event.type === "message" && --left === 0) break;
}
hark.close();

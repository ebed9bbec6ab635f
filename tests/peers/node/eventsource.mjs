// A subscriber with npm's eventsource, which comes back by itself with Last-Event-ID. Prints the data of every event, one a line: Hark's frames; and
// {"type":"gave_up"} if it will not try again.
//
// Usage: eventsource.mjs URL
import { packages, say } from "./packages.mjs";

const { EventSource } = packages("eventsource");
const source = new EventSource(process.argv[2]);

// Frames are one line each, so they are passed on as they are.
const pass = (event) => process.stdout.write(event.data + "\n");
source.onmessage = pass;
for (const kind of ["welcome", "subscribed", "caught_up", "lagging", "gap", "goodbye"]) {
  source.addEventListener(kind, pass);
}
source.addEventListener("error", (event) => {
  // Hark's own `error` events carry data; the source's do not.
  if (event.data !== undefined) pass(event);
  else console.error(`state ${source.readyState}: ${event.message}`);
  if (source.readyState === EventSource.CLOSED) say({ type: "gave_up", reason: event.message });
});

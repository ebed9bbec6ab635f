// A small page's script, for bundlers: publishes one message and prints it when it comes back. `harkUrl` says where Hark is.
import { connect } from "hark-client";

const hark = connect({ url: globalThis.harkUrl });
const events = hark.subscribe("bundled", { from: "earliest" });
hark.publish("bundled", "there and back").then(async () => {
  for await (const event of events) {
    if (event.type === "message") {
      console.log(event.data);
      break;
    }
  }
  hark.close();
});

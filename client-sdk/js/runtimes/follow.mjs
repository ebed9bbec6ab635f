// What each framework's component does in its effect: connects, publishes one message to a topic of the framework's, and tells what comes back.
import { connect } from "hark-client";

export const follow = (topic, tell) => {
  const hark = connect({ url: process.argv[2] });
  hark.subscribe(topic, { from: "earliest" }).on("message", ({ data }) => tell(data));
  hark.publish(topic, `by ${topic}`).catch((error) => error.code === "closed" || console.error(error));
  return hark;
};

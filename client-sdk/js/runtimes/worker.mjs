// The smoke test as a worker of workerd's: asked for anything, it does it and answers with the transports that did it, or with what went wrong.
import { connect } from "hark-client";
import { restartBy, smoke } from "./smoke.mjs";

export default {
  async fetch(_, { url, restart }) {
    try {
      return new Response(`${(await smoke({ connect, url, restart: restartBy(restart) })).join(" ")}\n`);
    } catch (error) {
      return new Response(String(error.stack), { status: 500 });
    }
  },
};

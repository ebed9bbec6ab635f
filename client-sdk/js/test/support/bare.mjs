// The smoke test in a runtime that lacks something: the globals that are named are taken away, or made as others have them, before the client is loaded.
//
// Usage: bare.mjs URL RESTART TRANSPORTS|- WHAT…
import { WebSocket } from "ws";
import { restartBy, smoke } from "../../runtimes/smoke.mjs";

const [url, restart, transports, ...lacking] = process.argv.slice(2);
const { fetch, URL } = globalThis;

let within = (make) => make();

class HalfURL {
  #text;
  constructor(text) {
    this.#text = new URL(text).href;
  }
  get href() {
    return this.#text;
  }
  toString() {
    return this.#text;
  }
}
for (const part of ["protocol", "host", "hostname", "port", "pathname", "origin", "search", "searchParams"]) {
  Object.defineProperty(HalfURL.prototype, part, {
    get() {
      throw new Error("not implemented");
    },
  });
}

const halves = {
  /** As in React Native: all but its text throws. While the client is made only, since Node's own `fetch` wants a whole one. */
  "half a URL": () => {
    within = (make) => {
      globalThis.URL = HalfURL;
      try {
        return make();
      } finally {
        globalThis.URL = URL;
      }
    };
  },
  /** As in workerd before it learned it. */
  "fetch with cache": () => {
    globalThis.fetch = (target, init) => {
      if (init?.cache) throw new Error("The 'cache' field on 'RequestInitializerDict' is not implemented.");
      return fetch(target, init);
    };
  },
  /** As in React Native: an answer is there when it is whole. */
  "bodies that stream": () => {
    globalThis.fetch = async (target, init) => {
      const response = await fetch(target, init);
      // Node's own would look for a TextDecoder.
      const text = async () => Buffer.from(await response.arrayBuffer()).toString();
      return Object.defineProperties(response, { body: { value: undefined }, text: { value: text } });
    };
  },
};
// Node's own parts are loaded when they are used first, and look for what is taken away.
await (await fetch(restart)).text();
for (const name of lacking) {
  if (halves[name]) halves[name]();
  else if (!delete globalThis[name]) throw new Error(`${name} stays`);
}

const client = await import("../../src/index.js");
const connect = (options) => within(() => client.connect(options));
// A global one, where it is not missing: before Node 22 there is none.
if (!lacking.includes("WebSocket")) globalThis.WebSocket ??= WebSocket;
try {
  // With nothing said, it finds out by itself what there is.
  connect({ url }).close();
  const how = { connect, url, restart: restartBy(restart, fetch), transports: transports === "-" ? undefined : transports.split(",") };
  console.log((await smoke(how)).join(" "));
} catch (error) {
  console.log(`${error.code}: ${error.message}`);
}

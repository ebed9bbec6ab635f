// The smoke test as a program, for runtimes that have files and arguments. Prints the transports that did it.
//
// Usage: main.mjs URL RESTART
import { connect } from "hark-client";
import { restartBy, smoke } from "./smoke.mjs";

const [url, restart] = process.argv.slice(2);
const WebSocket = globalThis.WebSocket ?? (await import("ws")).WebSocket;
console.log((await smoke({ connect, WebSocket, url, restart: restartBy(restart) })).join(" "));

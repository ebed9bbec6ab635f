// Runtimes that lack something the client would like to have: it does without, or says at once, by one clear error, what is missing.

import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { connect } from "../src/index.js";
import { readBytes, toBase64, isLarger } from "../src/bytes.js";
import { restartable, run } from "./support/smoke.js";

const bare = fileURLToPath(new URL("support/bare.mjs", import.meta.url));

const without = async (t, lacking, transports = "-") => {
  const { url, restart } = await restartable(t);
  const { stdout, stderr, code } = await run(process.execPath, [bare, url, restart, transports, ...lacking]);
  assert.deepEqual([stderr, code], ["", 0]);
  return stdout.trim();
};

for (const lacking of [
  ["crypto"],
  ["btoa", "atob"],
  ["half a URL"],
  ["fetch with cache"],
]) {
  test(`does without ${lacking.join(" and ")}`, async (t) => {
    assert.equal(await without(t, lacking), "websocket sse longpoll");
  });
}

// Node's own fetch is not.
test("does without TextEncoder and TextDecoder", async (t) => {
  assert.equal(await without(t, ["TextEncoder", "TextDecoder"], "websocket"), "websocket");
});

// There, and nowhere else, an event stream cannot be read: it ends only with the connection.
test("does without bodies that stream, and whatever else React Native lacks", async (t) => {
  const lacking = ["crypto", "btoa", "atob", "TextDecoder", "half a URL", "bodies that stream"];
  assert.equal(await without(t, lacking, "websocket,longpoll"), "websocket longpoll");
});

test("without fetch there is the WebSocket, and without both an error that says so", async (t) => {
  assert.equal(await without(t, ["fetch"]), "websocket");
  const missing = /^unsupported_runtime: this runtime has no WebSocket and no fetch,/;
  assert.match(await without(t, ["fetch", "WebSocket"]), missing);
});

for (const name of ["fetch", "AbortController"]) {
  test(`event streams without ${name} are an error at once`, (t) => {
    const was = globalThis[name];
    globalThis[name] = undefined;
    t.after(() => (globalThis[name] = was));
    assert.throws(() => connect({ url: "http://127.0.0.1:9", transports: ["sse"] }), {
      name: "HarkError",
      code: "unsupported_runtime",
      message: new RegExp(`no ${name}, which sse would need`),
    });
  });
}

test("base64 and lengths in bytes are the platform's", () => {
  const bytes = Uint8Array.from({ length: 1000 }, (_, at) => (at * 151) % 256);
  for (let length = 0; length < 300; length++) {
    const part = bytes.subarray(length, 2 * length);
    const text = Buffer.from(part).toString("base64");
    assert.equal(toBase64(part), text);
    assert.deepEqual(readBytes(text), part);
  }
  const valid = "aé☃🎺\ufeff\u{10ffff}";
  assert.equal(readBytes(Buffer.from(`\ufeff${valid}`).toString("base64"), "text/plain"), `\ufeff${valid}`);
  const halves = Uint8Array.of(0xed, 0xa0, 0x80);
  assert.deepEqual(readBytes(toBase64(halves), "text/plain"), halves);
  for (const text of ["", "a", "é", "☃", "🎺", valid.repeat(9)]) {
    const length = Buffer.byteLength(text);
    assert.deepEqual([isLarger(text, length), isLarger(text, length - 1)], [false, true]);
  }
});

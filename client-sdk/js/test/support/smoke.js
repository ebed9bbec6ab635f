// Runs the smoke test of runtimes/smoke.mjs in a runtime of its own, from the packed package, with a broker that it can start again.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { copyFileSync } from "node:fs";
import http from "node:http";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Broker } from "./broker.js";
import { installPackage } from "./installed.js";

export const runtimes = fileURLToPath(new URL("../../runtimes/", import.meta.url));

/** A program's end: what it has said, and how it went. It has a minute. */
export const run = (program, words, options = {}) =>
  new Promise((resolve) => {
    execFile(program, words, { timeout: 60_000, killSignal: "SIGKILL", encoding: "utf8", ...options }, (error, stdout, stderr) =>
      resolve({ stdout, stderr, code: error ? (error.code ?? error.signal) : 0 }),
    );
  });

/** A broker, and a URL that starts it again when it is asked by POST. */
export const restartable = async (t) => {
  const broker = await Broker.start();
  const server = http.createServer(async (request, response) => {
    if (request.method === "POST") {
      await broker.kill();
      await broker.restart();
    }
    response.end();
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  t.after(async () => {
    server.closeAllConnections();
    server.close();
    await broker.delete();
  });
  return { url: broker.url, restart: `http://127.0.0.1:${server.address().port}/` };
};

/** The package in a folder with the smoke test beside it. What is installed for the runtimes, or for the client's own tests, is seen there. */
export const installSmoke = () => {
  const installed = installPackage(runtimes);
  for (const file of ["smoke.mjs", "main.mjs", "worker.mjs"]) copyFileSync(join(runtimes, file), join(installed.folder, file));
  return installed;
};

/**
 * Asserts that a runtime does it by these transports, says nothing else, and ends by itself.
 *
 * @param {any} t
 * @param {string} program
 * @param {string[]} words before the program's own
 */
export const passesSmoke = async (t, installed, program, words = [], transports = ["websocket", "sse", "longpoll"]) => {
  const { url, restart } = await restartable(t);
  const ended = await run(program, [...words, "main.mjs", url, restart], { cwd: installed.folder });
  assert.deepEqual(ended, { stdout: `${transports.join(" ")}\n`, stderr: "", code: 0 });
};

// The smoke test in every runtime that npm has: each speaks to the broker by every transport it has, says nothing on standard error, and ends by itself.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { buildSync } from "esbuild";
import { installSmoke, passesSmoke, restartable } from "../test/support/smoke.js";

/** The program in the first of these packages that was installed for this machine: each has its own. */
const programOf = (name, packages, path) => {
  for (const each of packages) {
    const folder = fileURLToPath(new URL(`node_modules/${each}`, import.meta.url));
    if (existsSync(join(folder, path))) return join(folder, path);
  }
  assert.fail(`${name} cannot be had for ${process.platform} on ${process.arch}: npm installed none of ${packages.join(", ")}`);
};

let installed;
before(() => (installed = installSmoke()));
after(() => installed.delete());

// Node 20 and 24 are `npm test`'s.
test("Node 22", async (t) => {
  await passesSmoke(t, installed, programOf("Node 22", ["node22-x64", "node22-arm64"], "bin/node"));
});

test("Deno", async (t) => {
  const program = programOf("Deno", ["@deno/linux-x64-glibc", "@deno/linux-arm64-glibc"], "deno");
  await passesSmoke(t, installed, program, ["run", "--allow-all", "--no-remote", "--node-modules-dir=manual"]);
});

test("Bun", async (t) => {
  const program = programOf("Bun", ["@oven/bun-linux-x64", "@oven/bun-linux-aarch64"], "bin/bun");
  await passesSmoke(t, installed, program, ["run", "--no-install"]);
});

// Its `fetch` has learned `cache` on a day; before that it throws.
for (const compatibilityDate of ["2024-10-01", "2026-06-01"]) {
  test(`workerd of ${compatibilityDate}`, async (t) => {
    const program = programOf("workerd", ["@cloudflare/workerd-linux-64", "@cloudflare/workerd-linux-arm64"], "bin/workerd");
    const { url, restart } = await restartable(t);
    const { folder } = installed;
    buildSync({
      entryPoints: [join(folder, "worker.mjs")],
      outfile: join(folder, "bundle.js"),
      bundle: true,
      format: "esm",
      conditions: ["workerd", "worker"],
    });
    writeFileSync(
      join(folder, "config.capnp"),
      `using Workerd = import "/workerd/workerd.capnp";
       const config :Workerd.Config = (services = [
         (name = "smoke", worker = (
           modules = [(name = "bundle.js", esModule = embed "bundle.js")],
           compatibilityDate = "${compatibilityDate}",
           bindings = [(name = "url", text = "${url}"), (name = "restart", text = "${restart}")],
         )),
         (name = "internet", network = (allow = ["public", "private"])),
       ], sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "smoke")]);`,
    );
    // It serves for ever, and says on a third stream where.
    const workerd = spawn(program, ["serve", "config.capnp", "--control-fd=3"], { cwd: folder, stdio: ["ignore", "pipe", "pipe", "pipe"] });
    t.after(() => workerd.kill("SIGKILL"));
    let said = "";
    for (const stream of [workerd.stdout, workerd.stderr]) stream.on("data", (text) => (said += text));
    const port = await new Promise((resolve, reject) => {
      workerd.once("exit", (code) => reject(new Error(`workerd ended with ${code}: ${said}`)));
      createInterface({ input: workerd.stdio[3] }).on("line", (line) => resolve(JSON.parse(line).port));
    });
    const answer = await fetch(`http://127.0.0.1:${port}/`, { signal: AbortSignal.timeout(60_000) });
    assert.equal(await answer.text(), "websocket sse longpoll\n");
    assert.equal(said, "");
  });
}

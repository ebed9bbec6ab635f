// hark.d.ts for applications: it asks for no newer TypeScript than it says, and for nobody else's types.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "node:test";
import { fileURLToPath } from "node:url";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
/**
 * What `tsc` says of types.ts.
 *
 * @param {import("node:test").TestContext} t
 */
const compile = (t, folder, lib) =>
  new Promise((resolve, reject) => {
    const project = mkdtempSync(join(tmpdir(), "hark-types-"));
    t.after(() => rmSync(project, { recursive: true }));
    const compilerOptions = {
      ...{ target: "es2018", module: "esnext", moduleResolution: "bundler", lib, types: [] },
      ...{ noEmit: true, strict: true, noUnusedLocals: true },
    };
    writeFileSync(join(project, "tsconfig.json"), JSON.stringify({ compilerOptions, files: [here("types.ts")] }));
    const { bin } = JSON.parse(readFileSync(here(`../node_modules/${folder}/package.json`), "utf8"));
    const child = spawn(process.execPath, [here(`../node_modules/${folder}/${bin.tsc}`), "--project", project]);
    let said = "";
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (said += text));
    child.on("error", reject);
    child.on("exit", (code) => resolve({ code, said }));
  });

for (const folder of ["typescript-5.2", "typescript"]) {
  for (const lib of [["es2018"], ["es2022", "dom", "dom.iterable"]]) {
    test(`${folder} with ${lib}`, async (t) => assert.deepEqual(await compile(t, folder, lib), { code: 0, said: "" }));
  }
}

test("and what is missing is found", async (t) => {
  const { code, said } = await compile(t, "typescript-5.2", ["es2015"]);
  assert.notEqual(code, 0);
  assert.match(said, /asyncIterator/);
});

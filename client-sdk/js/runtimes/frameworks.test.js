// Frameworks with the packed package: a server imports and renders the component where there is no window, and mounted in jsdom it connects in its effect,
// shows what comes, and lets go when it is unmounted: the process ends by itself. And jest, which takes the package by `require`.

import assert from "node:assert/strict";
import { copyFileSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { compile } from "svelte/compiler";
import { installPackage } from "../test/support/installed.js";
import { restartable, run, runtimes } from "../test/support/smoke.js";

let installed;
before(() => {
  installed = installPackage(runtimes);
  for (const file of ["window", "follow", "react", "vue", "svelte", "framework"])
    copyFileSync(join(runtimes, `${file}.mjs`), join(installed.folder, `${file}.mjs`));
  const source = readFileSync(join(runtimes, "Line.svelte"), "utf8");
  for (const generate of ["server", "client"])
    installed.write({ [`Line.${generate}.js`]: compile(source, { generate, name: "Line" }).js.code });
  installed.write({ "package.json": JSON.stringify({ name: "application", private: true, type: "module" }) });
});
after(() => installed.delete());

for (const framework of ["react", "vue", "svelte"]) {
  test(`${framework} renders where there is no window`, async () => {
    const ended = await run(process.execPath, ["framework.mjs", "http://127.0.0.1:9", framework, "render"], { cwd: installed.folder });
    assert.match(ended.stdout, /<p>nothing yet<\/p>/);
    assert.deepEqual([ended.stderr, ended.code], ["", 0]);
  });

  test(`${framework} connects when it is mounted`, async (t) => {
    const { url } = await restartable(t);
    const ended = await run(process.execPath, ["--conditions=browser", "framework.mjs", url, framework, "mount"], { cwd: installed.folder });
    assert.deepEqual(ended, { stdout: `by ${framework}\n`, stderr: "", code: 0 });
  });
}

for (const environment of ["node", "jsdom"]) {
  test(`jest requires it, with the environment ${environment}`, async (t) => {
    const { url } = await restartable(t);
    const { folder } = installed;
    installed.write({
      "jest.config.json": JSON.stringify({
        rootDir: folder,
        testMatch: ["**/jest.cjs"],
        testEnvironment: environment,
        // jsdom's pages are of an origin: here of the broker's own.
        testEnvironmentOptions: environment === "jsdom" ? { url } : {},
        watchman: false,
      }),
      "jest.cjs": `
        const { connect } = require("hark-client");
        test("there and back", async () => {
          const hark = connect({ url: ${JSON.stringify(url)} });
          await hark.publish("jest", { n: 1 });
          const events = hark.subscribe("jest", { from: "earliest" });
          expect((await events.next()).value.data).toEqual({ n: 1 });
          hark.close();
        });`,
    });
    const jest = join(runtimes, "node_modules/jest/bin/jest.js");
    const { stdout, stderr, code } = await run(process.execPath, [jest, "--config", "jest.config.json", "--ci"], { cwd: folder });
    assert.equal(code, 0, stdout + stderr);
    assert.match(stderr, /1 passed/);
  });
}

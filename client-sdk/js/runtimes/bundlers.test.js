// What bundlers make of a page that imports the packed package: it runs, and one message goes there and back.

import assert from "node:assert/strict";
import { copyFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { nodeResolve } from "@rollup/plugin-node-resolve";
import esbuild from "esbuild";
import { rollup } from "rollup";
import { build as viteBuild } from "vite";
import webpack from "webpack";
import { installPackage } from "../test/support/installed.js";
import { restartable, run, runtimes } from "../test/support/smoke.js";

const REQUIRES = `const { connect } = require("hark-client");`;

let installed;
before(() => {
  installed = installPackage(runtimes);
  copyFileSync(join(runtimes, "bundled.mjs"), join(installed.folder, "bundled.mjs"));
  installed.write({
    "required.cjs": `${REQUIRES}
      const hark = connect({ url: globalThis.harkUrl });
      hark.publish("required", 1).then(() => {
        console.log("there and back");
        hark.close();
      });`,
    "run.mjs": `globalThis.harkUrl = process.argv[3];
      await import(process.argv[2]);`,
  });
});
after(() => installed.delete());

const webpacked = (entry) => async (folder, out) => {
  const compiler = webpack({ mode: "production", entry: join(folder, entry), output: { path: out, filename: "out.js" } });
  await new Promise((resolve, reject) => {
    compiler.run((error, stats) => (error || stats.hasErrors() || stats.hasWarnings() ? reject(error ?? stats.toString()) : resolve()));
  });
  await new Promise((done) => compiler.close(done));
};

const bundlers = {
  esbuild: (folder, out) =>
    esbuild.build({ entryPoints: [join(folder, "bundled.mjs")], outdir: out, bundle: true, minify: true, platform: "browser" }),
  "esbuild, of require": (folder, out) =>
    esbuild.build({ entryPoints: [join(folder, "required.cjs")], outdir: out, bundle: true, minify: true, platform: "browser" }),
  rollup: async (folder, out) => {
    const bundle = await rollup({ input: join(folder, "bundled.mjs"), plugins: [nodeResolve({ browser: true })] });
    await bundle.write({ dir: out, format: "iife" });
    await bundle.close();
  },
  webpack: webpacked("bundled.mjs"),
  "webpack, of require": webpacked("required.cjs"),
  vite: (folder, out) =>
    viteBuild({
      root: folder,
      logLevel: "warn",
      configFile: false,
      build: { outDir: out, rollupOptions: { input: join(folder, "bundled.mjs") } },
    }),
  // In a process of its own: its workers would not let this one end.
  parcel: async (folder, out) => {
    const program = join(runtimes, "node_modules/parcel/lib/bin.js");
    const words = ["build", "bundled.mjs", "--dist-dir", out, "--no-cache", "--no-source-maps", "--log-level", "warn"];
    const { stdout, stderr, code } = await run(process.execPath, [program, ...words], { cwd: folder });
    assert.equal(code, 0, stdout + stderr);
  },
};

for (const [name, bundle] of Object.entries(bundlers)) {
  test(name, async (t) => {
    const { url } = await restartable(t);
    const out = join(installed.folder, `out ${name}`.replace(/\W+/g, "-"));
    await bundle(installed.folder, out);
    const [file] = readdirSync(out, { recursive: true }).filter((each) => /\.m?js$/.test(each));
    const ended = await run(process.execPath, ["run.mjs", join(out, file), url], { cwd: installed.folder });
    assert.deepEqual(ended, { stdout: "there and back\n", stderr: "", code: 0 });
  });
}

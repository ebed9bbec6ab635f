// The package as npm packs it: what is in it, that `import` and `require` both find it, and that TypeScript finds its types in every way it looks.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { Broker } from "./support/broker.js";
import { installPackage } from "./support/installed.js";

const NAMES = ["ConnectionError", "HarkError", "PublishError", "SubscribeError", "connect", "localCursor"];
const tsc = (name) => join(dirname(createRequire(import.meta.url).resolve(`${name}/package.json`)), "bin/tsc");

let installed;
before(() => (installed = installPackage()));
after(() => installed.delete());

test("it holds what it names, the sources and the types, and nothing else", () => {
  const { files, folder } = installed;
  assert.deepEqual(
    files.filter((file) => !/^src\/\w+\.js$/.test(file)).sort(),
    ["README.md", "cjs/hark.cjs", "cjs/hark.d.cts", "dist/hark.js", "hark.d.ts", "package.json"],
  );
  const inside = join(folder, "node_modules/hark-client");
  const { main, module, types, exports } = JSON.parse(readFileSync(join(inside, "package.json"), "utf8"));
  const named = JSON.stringify([main, module, types, exports]).match(/\.\/[\w./]+/g);
  for (const file of named) assert.ok(existsSync(join(inside, file)), `${file} is named and not there`);
});

const SENDS = `
  const hark = connect({ url: process.argv[2] });
  const subscription = hark.subscribe("a", { from: "earliest" });
  hark.publish("a", 1).then(async ({ cursor }) => {
    for await (const { type, data } of subscription) if (type === "message" && data === 1) break;
    hark.close();
    console.log(JSON.stringify(Object.keys(whole).filter((name) => name !== "module.exports").sort()));
  });
`;

for (const [way, name, first] of [
  ["import", "main.mjs", `import * as whole from "hark-client"; import { connect } from "hark-client";`],
  ["require", "main.cjs", `const whole = require("hark-client"); const { connect } = whole;`],
]) {
  test(`${way} finds it, and it works`, async (t) => {
    const broker = await Broker.start();
    t.after(() => broker.delete());
    installed.write({ [name]: first + SENDS });
    const said = execFileSync(process.execPath, [name, broker.url], { cwd: installed.folder, encoding: "utf8" });
    assert.deepEqual(JSON.parse(said), NAMES);
  });
}

const USES = `
  const hark: Hark = connect({ url: "http://127.0.0.1:4275" });
  hark.publish("a", 1).then(({ cursor }) => cursor.at(0), (error: PublishError) => error.maybeKept);
  // @ts-expect-error: the types are there, and not any
  hark.publish(1);
`;
const NAMED = `{ connect, type Hark, type PublishError }`;

for (const [compiler, module, moduleResolution, files] of [
  ["typescript", "node16", "node16", ["main.mts", "main.cts"]],
  ["typescript", "esnext", "bundler", ["main.ts"]],
  ["typescript-5.2", "node16", "node16", ["main.mts", "main.cts"]],
  ["typescript-5.2", "esnext", "bundler", ["main.ts"]],
  ["typescript-5.2", "commonjs", "node10", ["main.ts"]],
]) {
  test(`${compiler} finds the types by ${moduleResolution}`, () => {
    const compilerOptions = {
      ...{ module, moduleResolution, target: "es2022", lib: ["es2022", "dom"], types: [] },
      ...{ strict: true, noEmit: true, skipLibCheck: false },
    };
    const uses = `import ${NAMED} from "hark-client";${USES}`;
    installed.write({
      "main.ts": uses,
      "main.mts": uses,
      "main.cts": uses.replace("types are there", "types of the CommonJS build are there"),
      "tsconfig.json": JSON.stringify({ compilerOptions, files }),
    });
    try {
      execFileSync(process.execPath, [tsc(compiler)], { cwd: installed.folder, encoding: "utf8" });
    } catch ({ stdout }) {
      assert.fail(stdout);
    }
  });
}

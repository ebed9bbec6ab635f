// Makes dist/hark.js, which the broker serves as /hark.js: one minified ES module. `build` is exported for the test that
// compares the committed file with what it would be.

import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { buildSync } from "esbuild";

const here = (/** @type {string} */ path) => fileURLToPath(new URL(path, import.meta.url));

export const build = () => {
  const result = buildSync({
    entryPoints: [here("src/index.js")],
    bundle: true,
    format: "esm",
    minify: true,
    target: "es2022",
    charset: "utf8",
    legalComments: "none",
    banner: { js: "// hark-client: built from client-sdk/js/src by `npm run build`." },
    write: false,
  });
  return result.outputFiles[0].text;
};

if (process.argv[1] === fileURLToPath(import.meta.url)) writeFileSync(here("dist/hark.js"), build());

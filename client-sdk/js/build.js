// Makes what is in dist/: hark.js, one minified ES module, which the broker serves as /hark.js; and hark.cjs with its types, for `require`. `build` is
// exported for the test that compares the committed files with what they would be.

import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { buildSync } from "esbuild";

const here = (/** @type {string} */ path) => fileURLToPath(new URL(path, import.meta.url));

// Names of properties that only the sources use, so that they may be shortened. None of them may be a field on the wire, a name in
// hark.d.ts or one of the platform's: a test looks.
export const INNER_NAMES =
  `answered areTooMany asked begin caughtUp changes connected drained elapsedSince fence finish frameBytes hear
  heard hole inFlight isEmpty isFull isHalfEmpty keyed lose loss losses lostAt monotonicMs newProducer nextSeq parked patienceMs placed queryOf renew
  retryAfterMs sendings setbacks settle several together unanswered unusable wallMs wanted wire`.split(/\s+/);

/** @param {import("esbuild").BuildOptions} options */
const bundle = (options) => {
  const { outputFiles } = buildSync({
    entryPoints: [here("src/index.js")],
    bundle: true,
    target: "es2022",
    charset: "utf8",
    banner: { js: "// hark-client, made of client-sdk/js/src by `npm run build`." },
    write: false,
    ...options,
  });
  return /** @type {import("esbuild").OutputFile[]} */ (outputFiles)[0].text;
};

/** Each file of dist/, with its text. */
export const build = () => ({
  "hark.js": bundle({ format: "esm", minify: true, mangleProps: new RegExp(`^(${INNER_NAMES.join("|")})$`) }),
  "hark.cjs": bundle({ format: "cjs" }),
  // What TypeScript takes for a CommonJS module's types is told by its name.
  "hark.d.cts": readFileSync(here("hark.d.ts"), "utf8"),
});

if (process.argv[1] === fileURLToPath(import.meta.url))
  for (const [name, text] of Object.entries(build())) writeFileSync(here(`dist/${name}`), text);

// Makes what the sources are bundled to: dist/hark.js, one minified ES module, which the broker serves as /hark.js (`npm run build`); and, when the
// package is packed, cjs/hark.cjs with its types, for `require`. `FOLDERS` is exported for the test that compares the committed file with what it
// would be.

import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
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

/**
 * Each file of each folder, with its text.
 *
 * @type {Record<string, () => Record<string, string>>}
 */
export const FOLDERS = {
  // Committed: the broker is built with it.
  dist: () => ({
    "hark.js": bundle({ format: "esm", minify: true, mangleProps: new RegExp(`^(${INNER_NAMES.join("|")})$`) }),
  }),
  // Made when the package is packed.
  cjs: () => ({
    "hark.cjs": bundle({ format: "cjs" }),
    // What TypeScript takes for a CommonJS module's types is told by its name.
    "hark.d.cts": readFileSync(here("hark.d.ts"), "utf8"),
  }),
};

/** Each file is there as a whole, or as it was: the package may be packed twice at a time. */
const make = (/** @type {string} */ folder) => {
  mkdirSync(here(folder), { recursive: true });
  const beside = mkdtempSync(here("making-"));
  for (const [name, text] of Object.entries(FOLDERS[folder]())) {
    writeFileSync(join(beside, name), text);
    renameSync(join(beside, name), here(`${folder}/${name}`));
  }
  rmdirSync(beside);
};

if (process.argv[1] === fileURLToPath(import.meta.url)) make(process.argv[2] ?? "dist");

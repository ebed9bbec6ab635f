// Makes dist/hark.js, which the broker serves as /hark.js: one minified ES module. `build` is exported for the test that
// compares the committed file with what it would be.

import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { buildSync } from "esbuild";

const here = (/** @type {string} */ path) => fileURLToPath(new URL(path, import.meta.url));

// Names of properties that only the sources use, so that they may be shortened. None of them may be a field on the wire, a name in
// hark.d.ts or one of the platform's: a test looks.
export const INNER_NAMES =
  `answered areTooMany asked begin caughtUp changes connected drained elapsedSince fence findRefused finish frameBytes hear
  heard hole inFlight isEmpty isFull isHalfEmpty keyed lose loss losses lostAt monotonicMs newProducer nextSeq opened parked patienceMs placed queryOf renew
  retryAfterMs sendings setbacks settle several together unanswered unusable wallMs wanted wire`.split(/\s+/);

export const build = () => {
  const { outputFiles } = buildSync({
    entryPoints: [here("src/index.js")],
    bundle: true,
    format: "esm",
    minify: true,
    target: "es2022",
    charset: "utf8",
    mangleProps: new RegExp(`^(${INNER_NAMES.join("|")})$`),
    banner: { js: "// hark-client, made of client-sdk/js/src by `npm run build`." },
    write: false,
  });
  return outputFiles[0].text;
};

if (process.argv[1] === fileURLToPath(import.meta.url)) writeFileSync(here("dist/hark.js"), build());

// The packed package in the oldest Node that it is for and in a newer one, each a program of its own. `make runtimes` does the same with others.

import { after, before, test } from "node:test";
import assert from "node:assert/strict";
import { installSmoke, passesSmoke, run } from "./support/smoke.js";

let installed;
before(() => (installed = installSmoke()));
after(() => installed.delete());

for (const major of [20, 24]) {
  test(`Node ${major}`, async (t) => {
    const program = `node${major}`;
    const { stdout } = await run(program, ["--version"]);
    assert.match(stdout, new RegExp(`^v${major}\\.`), `there is no ${program}: run tests/peers/setup.sh, and have target/peers/bin in PATH`);
    await passesSmoke(t, installed, program);
  });
}

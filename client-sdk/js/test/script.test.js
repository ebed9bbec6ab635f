// The scripts that hold every client to the same rules (../../script): each around an outbox and an inbox, and those that may with the
// whole client over a real socket.

import assert from "node:assert/strict";
import test from "node:test";
import { BareStage, SocketStage, play, scripts } from "./support/script.js";

const all = scripts();

test("the scripts are there", () => {
  assert.ok(all.length >= 20, `${all.length} scripts`);
  assert.ok(all.filter(({ head }) => head.socket).length >= 10, "of which some have a socket");
});

for (const script of all) {
  const { file, head } = script;
  test(`${file}: ${head.script}`, async (t) => {
    const stage = new BareStage(head);
    t.after(() => stage.close());
    await play(script, stage);
  });
  if (!head.socket) continue;
  test(`${file}, over a socket`, async (t) => {
    const stage = await SocketStage.start();
    t.after(() => stage.close());
    await play(script, stage);
  });
}

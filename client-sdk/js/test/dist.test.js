// What is in dist/ is what the sources make; and hark.js, which the broker serves, is small, and it works.

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import test from "node:test";
import { gzipSync } from "node:zlib";
import { WebSocket } from "ws";
import * as dist from "../dist/hark.js";
import * as sources from "../src/index.js";
import { FOLDERS, INNER_NAMES } from "../build.js";
import { Broker } from "./support/broker.js";
import { messages } from "./support/until.js";

const MOST_BYTES = 20_480;
const read = (path) => readFileSync(new URL(path, import.meta.url), "utf8");

test("it is what `npm run build` makes", () => {
  const files = FOLDERS.dist();
  assert.deepEqual(readdirSync(new URL("../dist/", import.meta.url)).sort(), Object.keys(files).sort());
  for (const [name, text] of Object.entries(files))
    assert.ok(read(`../dist/${name}`) === text, `dist/${name} is not up to date: npm run build`);
});

test("it is small", () => {
  const bytes = gzipSync(read("../dist/hark.js"), { level: 9 }).length;
  assert.ok(bytes < MOST_BYTES, `${bytes} bytes gzipped, and may have ${MOST_BYTES}`);
});

test("it exports the same names", () => {
  assert.deepEqual(Object.keys(dist).sort(), Object.keys(sources).sort());
});

test("no name that is shortened is seen outside", () => {
  const golden = new URL("../../../protocol/golden/", import.meta.url);
  const frames = readdirSync(golden).map((file) => readFileSync(new URL(file, golden), "utf8"));
  const types = read("../hark.d.ts").replace(/\/\*.*?\*\/|\/\/.*/gs, (comment) =>
    comment.startsWith("//") ? "" : " ",
  );
  const outside = new Set(
    [...types.matchAll(/\w+/g), ...frames.join(" ").matchAll(/(?<=\\")\w+(?=\\":)/g)].map(([name]) => name),
  );
  assert.ok(outside.has("headers") && outside.has("expected_seq"), "the names were found");
  assert.deepEqual(
    INNER_NAMES.filter((name) => outside.has(name)),
    [],
  );
});

for (const transport of ["websocket", "sse", "longpoll"]) {
  test(`it works over ${transport}`, async (t) => {
    const broker = await Broker.start();
    t.after(() => broker.delete());
    const hark = dist.connect({ url: broker.url, WebSocket, transports: [transport] });
    t.after(() => hark.close());
    const events = hark.subscribe("a", { from: "earliest" });
    const receipts = await Promise.all([1, 2, 3].map((n) => hark.publish("a", n)));
    assert.deepEqual(
      receipts.map(({ duplicate }) => duplicate),
      [false, false, false],
    );
    await broker.kill();
    await broker.restart();
    await hark.publish("a", 4);
    assert.deepEqual(await messages(events, 4), [1, 2, 3, 4]);
    await assert.rejects(
      hark.publish("a..b", 1),
      (error) => error instanceof dist.PublishError && error.code === "bad_topic",
    );
  });
}

// What can drift is compared: the figures of protocol/README.md with those of the sources; and who may set a timer or ask for a date.

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import test from "node:test";
import { elapsedSince, mark, now } from "../src/clock.js";
import * as figures from "../src/figures.js";
import { later, within } from "../src/timer.js";
import { fakeClock, settled } from "./support/clock.js";

const read = (path) => readFileSync(new URL(path, import.meta.url), "utf8");
const UNITS = { ms: 1, s: 1000 };
// Of a client that chooses its own addresses, as a browser does not.
const NOT_HERE = ["address_head_start"];

test("the figures are those of protocol/README.md", () => {
  const section = read("../../../protocol/README.md").split("## How a client keeps its connection")[1].split("\n## ")[0];
  const page = {};
  for (const [, name, value, unit] of section.matchAll(/^\| `(\w+)` \| (\d+)(?: (ms|s))? \|$/gm)) {
    if (!NOT_HERE.includes(name)) page[name.toUpperCase() + (unit ? "_MS" : "")] = value * (UNITS[unit] ?? 1);
  }
  assert.ok(page.PROOF_MS && page.STUCK_RETRY_MS, "the table was read");
  assert.deepEqual({ ...figures }, page);
});

const sources = readdirSync(new URL("../src/", import.meta.url)).map((name) => [name, read(`../src/${name}`)]);
const whoSays = (pattern) => sources.filter(([, text]) => pattern.test(text)).map(([name]) => name);

test("each timer is set by timer.js, which knows how long one may be", () => {
  assert.deepEqual(whoSays(/\bset(Timeout|Interval)\(/), ["timer.js"]);
});

test("no wait and no deadline goes by a date", () => {
  // But for one: `Retry-After` may be one.
  const said = whoSays(/\bDate\.now\(|new Date\(\)/).filter((name) => name !== "refusal.js");
  assert.deepEqual(said, ["clock.js"]);
  assert.deepEqual(whoSays(/\bperformance\b/), ["clock.js"]);
});

test("no figure of the page is written twice", () => {
  const names = Object.keys(figures).join("|");
  assert.deepEqual(whoSays(new RegExp(`(const|let) (${names}) =`)), ["figures.js"]);
});

test("a timer's length is between 0 and 2^31 - 1", async (t) => {
  const { lengths, pass } = fakeClock(t);
  for (const ms of [-1, -Date.now(), NaN, undefined, 0, 7, 2 ** 31 - 1, 2 ** 31, Infinity]) later(ms, () => {});
  assert.deepEqual(lengths, [0, 0, 0, 0, 0, 7, 2 ** 31 - 1, 2 ** 31 - 1, 2 ** 31 - 1]);
  let isOver = false;
  later(5, () => (isOver = true));
  await pass(5);
  assert.ok(isOver);
});

test("what takes too long is given up, and what does not leaves no timer", async (t) => {
  const clock = fakeClock(t);
  const late = () => new Error("late");
  assert.equal(await within(Promise.resolve(1), 100, late), 1);
  await assert.rejects(within(Promise.reject(new Error("by itself")), 100, late), /by itself/);
  assert.equal(clock.waiting, 0);
  const given = assert.rejects(within(new Promise(() => {}), 100, late), /late/);
  await clock.pass(100);
  await given;
  await settled();
  assert.equal(clock.waiting, 0);
});

test("elapsed is the larger of both clocks, and never negative", async (t) => {
  const { pass, sleep, setWall } = fakeClock(t);
  const began = mark();
  await pass(1000);
  assert.equal(elapsedSince(began), 1000);
  setWall(-3_600_000);
  assert.equal(elapsedSince(began), 1000, "set back");
  setWall(3_600_000);
  sleep(60_000);
  assert.equal(elapsedSince(began), 61_000, "the other clock stood meanwhile");
  const before = { monotonicMs: now() + 5, wallMs: Date.now() + 5 };
  assert.equal(elapsedSince(before), 0);
});

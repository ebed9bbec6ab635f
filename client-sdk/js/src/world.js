// @ts-check
// What the outbox and the inbox have of the world: time, chance and names of their own. Given to them, so that a script can be all
// three.

import { elapsedSince, mark } from "./clock.js";
import { later } from "./timer.js";

// Some 128 random bits: two clients never draw the same name. It is no secret, so that any source of them will do.
const newProducer = () => {
  const bytes = new Uint8Array(16);
  if (globalThis.crypto?.getRandomValues) globalThis.crypto.getRandomValues(bytes);
  else bytes.forEach((_, at) => (bytes[at] = Math.random() * 256));
  return bytes.reduce((name, byte) => name + byte.toString(16).padStart(2, "0"), "p");
};

/**
 * @typedef {object} World
 * @property {() => import("./clock.js").Mark} mark
 * @property {(mark: import("./clock.js").Mark) => number} elapsedSince
 * @property {(ms: number, run: () => void) => any} later
 * @property {(timer: any) => void} stop
 * @property {() => number} random
 * @property {() => string} newProducer
 */

/** @type {World} */
export const WORLD = {
  mark,
  elapsedSince,
  later,
  stop: (timer) => clearTimeout(timer),
  random: () => Math.random(),
  newProducer,
};

// Where the scripts beside this one have npm's packages from: the folder that tests/peers/setup.sh filled, named by HARK_PEERS.
import { createRequire } from "node:module";
import { join } from "node:path";

export const packages = createRequire(join(process.env.HARK_PEERS, "node", "package.json"));

/** Prints a value as one line of JSON. */
export function say(value) {
  process.stdout.write(JSON.stringify(value) + "\n");
}

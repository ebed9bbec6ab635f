// The package as somebody has it who installed it: packed, and unpacked by npm into a folder of its own.

import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const sources = fileURLToPath(new URL("../..", import.meta.url));

/**
 * @param {string} [parent] packages that are installed there are seen too
 */
export const installPackage = (parent = tmpdir()) => {
  const folder = mkdtempSync(join(parent, "hark-installed-"));
  const npm = (/** @type {string[]} */ ...words) =>
    execFileSync("npm", [...words, "--silent", "--offline", "--no-audit", "--no-fund", "--no-update-notifier"], {
      cwd: folder,
      encoding: "utf8",
    });
  const [packed] = JSON.parse(npm("pack", sources, "--json"));
  writeFileSync(join(folder, "package.json"), JSON.stringify({ name: "application", private: true }));
  npm("install", `./${packed.filename}`);
  return {
    folder,
    /** What was packed. */
    files: packed.files.map((/** @type {{ path: string }} */ { path }) => path),
    /** @param {Record<string, string>} texts */
    write(texts) {
      for (const [name, text] of Object.entries(texts)) writeFileSync(join(folder, name), text);
    },
    delete: () => rmSync(folder, { recursive: true }),
  };
};

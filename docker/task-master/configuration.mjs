// Where Task Master's configuration comes from. The project's own .taskmaster/config.json counts whole and alone;
// without one, /shared/taskmaster/config.json, which agents share, over the image's own. A file that cannot be used is
// told in one line and left as it is. patches.mjs puts these functions where Task Master reads its files itself.

import { existsSync, readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const SHARED = "/shared/taskmaster/config.json";
const OF_IMAGE = join(dirname(fileURLToPath(import.meta.url)), "assets", "config.json");

const told = new Set();

/** The path of what counts where the project has no file. */
export function pathWithoutProject() {
  return existsSync(SHARED) ? SHARED : OF_IMAGE;
}

/** The configuration that counts where the project has no file. */
export function withoutProject() {
  const own = JSON.parse(readFileSync(OF_IMAGE, "utf8"));
  const shared = existsSync(SHARED) ? usable(SHARED) : undefined;
  return shared ? { ...own, ...shared, models: { ...own.models, ...shared.models } } : own;
}

/** The configuration in a file that exists, at either path above or in a project. */
export function read(path) {
  if (path === SHARED || path === OF_IMAGE) return withoutProject();
  return usable(path) ?? withoutProject();
}

/** Whether a file is there that cannot be used: to write over it would lose what somebody meant. */
export function isBroken(path) {
  return existsSync(path) && !usable(path);
}

/** The object in a JSON file, or one line about why there is none. */
function usable(path) {
  let reason;
  try {
    // a pipe, which another agent may have put into /shared, would be waited for
    if (!statSync(path).isFile()) throw new Error("it is no file");
    const value = JSON.parse(readFileSync(path, "utf8"));
    if (value && typeof value === "object" && !Array.isArray(value)) return value;
    reason = "it holds no object";
  } catch (error) {
    reason = error instanceof SyntaxError ? `no JSON: ${error.message.replace(/\s+/g, " ")}` : error.message;
  }
  if (!told.has(path)) console.error(`task-master: ${path} is left out (${reason}); mend it, or remove it`);
  told.add(path);
  return undefined;
}

// Runs one command of the bundle and leaves V8's compiled form of all that ran: node FLAGS compile.cjs LIB PROGRAM ARG…
// What former runs have compiled is in it too, so a few typical commands one after the other make a full cache.
//
// The caller's FLAGS fix the seeds, so that the same runs leave the same bytes. But V8 takes a cache only under the
// flags that it was made with: whenever it looks at them, they must be the usual ones.
"use strict";

const { writeFileSync } = require("node:fs");
const { join } = require("node:path");
const v8 = require("node:v8");

const INSTALLED = "/usr/local/lib/task-master/lib/task-master.cjs"; // in the image, wherever it is built

const [lib, program, ...args] = process.argv.slice(2);
const { compile, run } = require(join(lib, "start.cjs"));

setFlags("--hash-seed=0", "--random-seed=0");
const script = compile(INSTALLED);
setFlags("--no-flush-bytecode"); // else the collector decides what is in the cache

process.argv = [process.argv[0], join(lib, "..", "bin", "task-master"), ...args];
process.on("exit", () => {
  setFlags("--flush-bytecode");
  writeFileSync(join(lib, "task-master.cache"), script.createCachedData());
});
run(script)[program]();

function setFlags(...flags) {
  flags.forEach((flag) => v8.setFlagsFromString(flag));
}

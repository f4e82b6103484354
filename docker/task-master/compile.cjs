// Runs one command of the bundle and leaves V8's compiled form of all that ran: node compile.cjs LIB PROGRAM ARG…
// What a former run has compiled is in it too, so a few typical commands one after the other make a full cache.
"use strict";

const { writeFileSync } = require("node:fs");
const { join } = require("node:path");
const v8 = require("node:v8");

const [lib, program, ...args] = process.argv.slice(2);
const { compile, run } = require(join(lib, "start.cjs"));

v8.setFlagsFromString("--no-flush-bytecode"); // else the collector decides what is in the cache
const script = compile();
process.argv = [process.argv[0], join(lib, "..", "bin", "task-master"), ...args];
process.on("exit", () => {
  v8.setFlagsFromString("--flush-bytecode"); // the flags are part of what V8 compares
  writeFileSync(join(lib, "task-master.cache"), script.createCachedData());
});
run(script)[program]();

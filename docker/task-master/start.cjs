// Runs the bundle beside this file, compiled ahead of time where the compiled form fits this Node.
"use strict";

const { readFileSync } = require("node:fs");
const { createRequire } = require("node:module");
const { join } = require("node:path");
const { Script } = require("node:vm");

const BUNDLE = join(__dirname, "task-master.cjs");
const CACHE = join(__dirname, "task-master.cache");

/** Starts "cli" or "mcp". */
exports.start = (program) => run(compile())[program]();

/**
 * The bundle as a script; `cachedDataRejected` says whether V8 could use the cache. `filename` is what stack traces call
 * it: the cache carries the one that it was made with.
 */
function compile(filename = BUNDLE) {
  // The bundle is ASCII. Read so, V8 keeps one byte a character.
  const source = readFileSync(BUNDLE, "latin1");
  return new Script(`(function(exports,require,module,__filename,__dirname){${source}\n})`, {
    filename,
    cachedData: cache(),
  });
}
exports.compile = compile;

function run(script) {
  const module = { exports: {} };
  const require = createRequire(BUNDLE);
  script.runInThisContext().call(module.exports, module.exports, require, module, BUNDLE, __dirname);
  return module.exports;
}
exports.run = run;

function cache() {
  try {
    return readFileSync(CACHE);
  } catch {
    return undefined; // ignored because the bundle runs without it, only slower
  }
}

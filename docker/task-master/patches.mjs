// The few places where a bundle in an image cannot do what a plain install does. Each edit must find its text, and one
// without the flag `g` exactly once: after an upgrade that moved it the build stops here, not the user's command.

import { readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const CONFIGURATION = JSON.stringify(join(dirname(fileURLToPath(import.meta.url)), "configuration.mjs"));

const CLAUDE_MISSING =
  "claude is not on PATH; put it there, or name it as claudeCode.pathToClaudeCodeExecutable in .taskmaster/config.json";
const CLAUDE_SILENT = "claude does not answer; 'claude --version' says why";
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
    // What stands in for a project's configuration (configuration.mjs). And a project's own is written by those commands
    // alone that are asked to: upstream also adds a user id, the same for everybody, with the first call of a model.
    file: /^task-master-ai\/dist\/config-manager-DTKWXIqv\.js$/,
    edits: [
      [/^/, `import * as __configuration from ${CONFIGURATION};`],
      [/if\(!\(Yr\(\)\|\|t\?\.storageType===`api`\)\)\{let e=`config_warning_.*?return null\}(?=var J=)/, "return __configuration.pathWithoutProject()}"],
      [/\(s\.existsSync\(c\.join\(r,Yn\)\)\|\|s\.existsSync\(c\.join\(r,z\)\)\)&&\((o=Wr\(null,\{projectRoot:r,storageType:a\}\))\)(?=,o\))/, "$1"],
      [/let t=s\.readFileSync\(o,`utf-8`\),r=JSON\.parse\(t\);(?=l=\{models:)/, "let r=__configuration.read(o);"],
      [/async loadLocalConfig\(\)\{.*?\}(?=async loadGlobalConfig)/, "async loadLocalConfig(){return await this.hasLocalConfig()?__configuration.read(this.localConfigPath):null}"],
      [/async loadGlobalConfig\(\)\{return null\}/, "async loadGlobalConfig(){return await this.hasLocalConfig()?null:__configuration.withoutProject()}"],
      [/return (s\.existsSync\(r\)\|\|s\.mkdirSync\(r,\{recursive:!0\}\),s\.writeFileSync\(a,JSON\.stringify\(e,null,2\)\),Kr=e,!0)/, "return !__configuration.isBroken(a)&&($1)"],
      [/t\.global\|\|=\{\},t\.global\.userId\|\|\(t\.global\.userId=`1234567890`,.*?\),t\.global\.userId\}/, "t.global?.userId||`1234567890`}"],
    ],
  },
  {
    // `init` gives a project the same configuration for a file of its own.
    file: /^task-master-ai\/dist\/profiles-\w+\.js$/,
    edits: [
      [/^/, `import * as __configuration from ${CONFIGURATION};`],
      [/function L\(e,t=`utf8`\)\{/, "$&if(e===`config.json`)return JSON.stringify(__configuration.withoutProject(),null,2);"],
    ],
  },
  {
    // Reads `encode` of a package that exports none, and so always counts characters: 5.6 MB of tables for nothing. And
    // where `init` has made no folder for it, throws away a report that a model was asked for.
    file: /^task-master-ai\/dist\/dependency-manager-\w+\.js$/,
    premise: async () => !("encode" in (await import("gpt-tokens")).default),
    edits: [
      [/import yt from"gpt-tokens";/, ""],
      [/\{encode:(\w+)\}=yt\b/, "{encode:$1}={}"],
      [/(\w+)\.writeFileSync\((\w+)(?=,JSON\.stringify\(\w+,null,`\t`\),`utf8`\),\w+\(`Task complexity analysis complete)/g, "$1.mkdirSync($2.replace(/[^/]*$/,``)||`.`,{recursive:!0}),$&"],
    ],
  },
  {
    // The SDK would run the CLI inside its own package. The image's `claude`, on PATH, is the one that reaches the host.
    file: /^@anthropic-ai\/claude-agent-sdk\/sdk\.mjs$/,
    edits: [
      [/join4\(dirname2, "cli\.js"\)/, "__claudeOnPath()"],
      [/join5\(dirname2, "cli\.js"\)/, "__claudeOnPath()"],
      // It has exited when all that it said has been read as well: the reason is on its stderr. And a long prompt that
      // it no longer reads must not end this process.
      [
        /const mappedProcess = \{/,
        `let __over = false;
    childProcess.once("close", () => { __over = true; });
    childProcess.stdin.on("error", () => {});
    $&`,
      ],
      [/return childProcess\.exitCode;/, "return __over ? childProcess.exitCode : null;"],
      [
        /\b(on|once|off): childProcess\.\1\.bind\(childProcess\)/g,
        '$1: (event, hear) => childProcess.$1(event === "exit" ? "close" : event, hear)',
      ],
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
    // Tells the exit code and keeps to itself what was said on stderr: the bridge's sentence, with what to type.
    file: /^ai-sdk-provider-claude-code\/dist\/index\.js$/,
    edits: [
      [
        /handleClaudeCodeError\(error, messagesPrompt, collectedStderr\) \{/,
        `$&
    if (/exited with code 12[567]\\b/.test(error?.message)) {
      const lines = (collectedStderr ?? "").split("\\n").filter((line) => line.startsWith("bridge: "));
      const first = lines.findLastIndex((line) => !line.startsWith("bridge:   "));
      const [sentence, ...steps] = lines.slice(first).map((line) => line.replace("bridge:   ", ""));
      if (sentence) return Object.assign(new Error([sentence, ...steps].join("; ")), { name: "BridgeError" });
    }`,
      ],
    ],
  },
  {
    // That sentence once, and not once for each role that the same bridge would serve, with the whole prompt beside it.
    file: /^task-master-ai\/dist\/ai-services-unified-CsFt27lZ\.js$/,
    edits: [
      [/handleError\(e,t\)\{(?=let n=t\.message)/, "$&if(t.name===`BridgeError`)throw t;"],
      [/catch\(e\)\{(?=if\(S\(`warn`,`Attempt )/, "$&if(e.name===`BridgeError`)throw e;"],
      [/let T=null,(?=E=`AI service call failed)/, "let __bridge,T=null,"],
      [/if\((r=E\.provider,u=E\.modelId),/, "$1;if(__bridge&&r===`claude-code`)continue;if("],
      [/catch\(n\)\{(?=let i=vt\(n\);)/, "$&if(n.name===`BridgeError`){__bridge=n;T=n;continue}"],
      [/throw (S\(`error`,`All roles in the sequence.*?failed\.`\)),Error\(E\)/, "throw $1,__bridge??Error(E)"],
      [/Claude Code CLI not detected\. Install it with: npm install -g @anthropic-ai\/claude-code/, CLAUDE_SILENT],
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
    // Says on stdout, with each command, that it reports nothing: among JSON, and in the MCP server's protocol.
    file: /^task-master-ai\/dist\/sentry-\w+\.js$/,
    edits: [[/console\.log\(`✓ Anonymous telemetry disabled[^`]*`\);/, ""]],
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

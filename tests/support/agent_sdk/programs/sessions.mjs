// Conversations that are resumed, forked and cut off, and what the program learns of the agent that it talks to.
import { query } from "@anthropic-ai/claude-agent-sdk";

const print = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);

async function ask(prompt, options = {}, look = () => {}) {
  const abort = new AbortController();
  const stream = query({ prompt, options: { pathToClaudeCodeExecutable: "claude", abortController: abort, ...options } });
  for await (const message of stream) {
    await look(message, stream, abort);
    if (message.type === "result") return message;
  }
  return {};
}

let init;
const first = await ask("remember blue", { allowDangerouslySkipPermissions: true, permissionMode: "bypassPermissions" }, (message) => {
  if (message.subtype === "init") init = message;
});
print({ result: first.result, mode: init.permissionMode, cwd: init.cwd, hasBash: init.tools.includes("Bash") });
const second = await ask("what colour", { resume: first.session_id });
print({ result: second.result, same: second.session_id === first.session_id });
const third = await ask("what else", { resume: first.session_id, forkSession: true });
print({ result: third.result, same: third.session_id === first.session_id });
const outputFormat = { type: "json_schema", schema: { type: "object", properties: { n: { type: "number" } }, required: ["n"] } };
const fourth = await ask('USE StructuredOutput {"n": 7}', { outputFormat });
print({ structured: fourth.structured_output });
const fifth = await ask("hi you", { systemPrompt: "You are terse.", tools: [], disallowedTools: ["Bash"], thinking: { type: "disabled" } });
print({ result: fifth.result });
const sixth = await ask("go on", { continue: true, env: { ...process.env, MARK: "1" }, extraArgs: { verbose: null } });
print({ result: sixth.result });
process.exit(0);

// A coding agent whose files are guarded: a hook lets it write to one folder only, a callback decides on commands.
import { query } from "@anthropic-ai/claude-agent-sdk";

const print = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
const write = (path) => `USE Write {"file_path": "${path}", "content": "x"}`;

let answered;

async function* prompts(texts) {
  for (const text of texts) {
    const answer = new Promise((resolve) => { answered = resolve; });
    yield { type: "user", message: { role: "user", content: text }, parent_tool_use_id: null, session_id: "" };
    await answer;
  }
}

const texts = [
  write("/workspace/scripts/a.js"),
  write("/workspace/other/b.js"),
  'USE Bash {"command": "ls -R scripts"}',
  'USE Bash {"command": "curl example.com"}',
];
const asked = [];
const stream = query({
  prompt: prompts(texts),
  options: {
    pathToClaudeCodeExecutable: "claude",
    cwd: "/workspace",
    maxTurns: 30,
    model: "opus",
    allowedTools: ["Write"],
    additionalDirectories: ["/workspace/docs"],
    settingSources: ["project"],
    includePartialMessages: false,
    systemPrompt: { type: "preset", preset: "claude_code" },
    stderr: (text) => asked.push(["stderr", text]),
    hooks: {
      PreToolUse: [{
        matcher: "Write|Edit",
        hooks: [async (event) => {
          const path = event.tool_input.file_path;
          if (path.startsWith("/workspace/scripts/")) return { continue: true };
          const reason = "files go to scripts/";
          return { hookSpecificOutput: { hookEventName: "PreToolUse", permissionDecision: "deny", permissionDecisionReason: reason } };
        }],
      }],
    },
    canUseTool: async (name, input) => {
      asked.push([name, input.command]);
      if (/^curl /.test(input.command)) return { behavior: "deny", message: "no network" };
      return { behavior: "allow", updatedInput: input };
    },
  },
});
for await (const message of stream) {
  if (message.type !== "result") continue;
  print({ subtype: message.subtype, result: message.result });
  answered();
}
print({ asked });
process.exit(0);

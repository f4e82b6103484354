// A help desk: subagents defined by the program, an in-process server beside one that is started, a project's memory.
import { createSdkMcpServer, query, tool } from "@anthropic-ai/claude-agent-sdk";
import { z } from "zod";

const print = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
const tickets = new Map([["1", "open"]]);
const desk = createSdkMcpServer({
  name: "desk",
  version: "1.0.0",
  tools: [
    tool("look_up", "Look up a ticket", { id: z.string() }, async ({ id }) => ({
      content: [{ type: "text", text: tickets.get(id) ?? "no such ticket" }],
    })),
    tool("close", "Close a ticket", { id: z.string() }, async ({ id }) => {
      tickets.set(id, "closed");
      return { content: [{ type: "text", text: `ticket ${id} is closed` }] };
    }),
  ],
});

async function* one(text, done) {
  yield { type: "user", message: { role: "user", content: text }, parent_tool_use_id: null, session_id: "" };
  await done;
}

async function ask(text) {
  let finish;
  const done = new Promise((resolve) => { finish = resolve; });
  const stream = query({
    prompt: one(text, done),
    options: {
      pathToClaudeCodeExecutable: "claude",
      mcpServers: { desk, outside: { command: "/usr/bin/python3", args: ["/workspace/server.py"] } },
      allowedTools: ["mcp__desk__look_up", "mcp__desk__close", "mcp__outside__look", "Agent"],
      settingSources: ["user", "project", "local"],
      agents: { clerk: { description: "Looks up tickets", prompt: "You look up.", tools: ["mcp__desk__look_up"] } },
      maxBudgetUsd: 2,
      includeHookEvents: false,
    },
  });
  for await (const message of stream) {
    if (message.type === "system" && message.subtype === "init") {
      print({ servers: message.mcp_servers.map(({ name, status }) => [name, status]), agents: message.agents.includes("clerk") });
    }
    if (message.type === "result") {
      finish();
      print({ result: message.result });
      return;
    }
  }
}

await ask('USE mcp__desk__look_up {"id": "1"}');
await ask('USE mcp__desk__close {"id": "1"}');
await ask('USE mcp__outside__look {}');
const inner = { subagent_type: "clerk", description: "look", run_in_background: false, prompt: 'USE mcp__desk__look_up {"id": "1"}' };
await ask(`USE Agent ${JSON.stringify(inner)}`);
process.exit(0);

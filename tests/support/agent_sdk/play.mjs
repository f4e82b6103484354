// Runs in a container: one scene with the Agent SDK for JavaScript, whose facts are printed as one JSON object.
import { createSdkMcpServer, query, tool } from "@anthropic-ai/claude-agent-sdk";
import { z } from "zod";

const seen = [];
const base = { pathToClaudeCodeExecutable: "claude" };

// Streaming input that stays open until the scene is over, as callbacks need it.
function conversation(text) {
  let finish;
  const over = new Promise((resolve) => { finish = resolve; });
  async function* messages() {
    yield { type: "user", message: { role: "user", content: text }, parent_tool_use_id: null, session_id: "" };
    await over;
  }
  return { messages: messages(), finish };
}

async function play(prompt, options, onMessage = () => {}) {
  const said = query({ prompt, options: { ...base, ...options } });
  for await (const message of said) {
    await onMessage(message, said);
    if (message.type === "result") return message;
  }
  return {};
}

const add = tool("add", "adds", { a: z.number(), b: z.number() }, async ({ a, b }) => {
  seen.push([a, b]);
  return { content: [{ type: "text", text: `SUM=${a + b}` }] };
});

const scenes = {
  plain: async () => ({ result: (await play("hello from the SDK", {})).result }),
  tool: async () => {
    const { messages, finish } = conversation("use the tool");
    const mcpServers = { mine: createSdkMcpServer({ name: "mine", version: "1.0.0", tools: [add] }) };
    const { result } = await play(messages, { mcpServers, allowedTools: ["mcp__mine__add"] });
    finish();
    return { result, seen };
  },
  permission: async () => {
    const { messages, finish } = conversation("write it");
    const canUseTool = async (name, input) => {
      seen.push(name);
      return { behavior: "allow", updatedInput: input };
    };
    const { result } = await play(messages, { canUseTool });
    finish();
    return { result, seen };
  },
  interrupt: async () => {
    const { messages, finish } = conversation("slow question");
    const { subtype } = await play(messages, {}, async (message, said) => {
      if (message.type === "system" && message.subtype === "init") await said.interrupt();
    });
    finish();
    return { result: subtype };
  },
};

process.stdout.write(`${JSON.stringify(await scenes[process.argv[2]]())}\n`);
process.exit(0);

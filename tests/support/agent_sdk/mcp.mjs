// One conversation with an MCP server over stdio: node mcp.mjs OUT CALLS COMMAND ARG…
// CALLS is JSON, a list of [tool, arguments]. OUT gets, as JSON, the names of all tools and the text of each answer.
import { renameSync, writeFileSync } from "node:fs";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";

const [out, calls, command, ...args] = process.argv.slice(2);
const client = new Client({ name: "conversation", version: "1.0.0" });
await client.connect(new StdioClientTransport({ command, args, env: process.env }));
const tools = (await client.listTools()).tools.map((tool) => tool.name);
const told = [];
for (const [name, given] of JSON.parse(calls)) {
  const { content, isError } = await client.callTool({ name, arguments: given });
  told.push({ isError: Boolean(isError), text: content.map((part) => part.text).join("\n") });
}
await client.close();
writeFileSync(`${out}.new`, JSON.stringify({ server: client.getServerVersion(), tools, told }));
renameSync(`${out}.new`, out);

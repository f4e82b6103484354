"""An in-process MCP server with several tools, one of which fails, used in a conversation of three turns."""

import asyncio
import json
from typing import Any

from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient, ResultMessage, create_sdk_mcp_server, tool


@tool("add", "Add two numbers", {"a": float, "b": float})  # type: ignore[untyped-decorator, unused-ignore]
async def add(arguments: dict[str, Any]) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": f"{arguments['a'] + arguments['b']:g}"}]}


@tool("divide", "Divide one number by another", {"a": float, "b": float})  # type: ignore[untyped-decorator, unused-ignore]
async def divide(arguments: dict[str, Any]) -> dict[str, Any]:
    if not arguments["b"]:
        return {"content": [{"type": "text", "text": "division by zero"}], "is_error": True}
    return {"content": [{"type": "text", "text": f"{arguments['a'] / arguments['b']:g}"}]}


async def main() -> None:
    server = create_sdk_mcp_server(name="calculator", version="2.0.0", tools=[add, divide])
    options = ClaudeAgentOptions(
        mcp_servers={"calc": server},
        allowed_tools=["mcp__calc__add", "mcp__calc__divide"],
        tools=["Read"],
        strict_mcp_config=True,
        include_partial_messages=True,
        settings=json.dumps({"sandbox": {"enabled": False}, "attribution": {"commit": ""}}),
    )
    kinds: dict[str, int] = {}
    async with ClaudeSDKClient(options=options) as client:
        for name, a, b in (("add", 2, 3), ("divide", 1, 0), ("divide", 9, 3)):
            await client.query(f'USE mcp__calc__{name} {{"a": {a}, "b": {b}}}')
            async for message in client.receive_response():
                kinds[type(message).__name__] = kinds.get(type(message).__name__, 0) + 1
                if isinstance(message, ResultMessage):
                    print(json.dumps({"result": message.result, "denials": message.permission_denials or []}))
    print(json.dumps({"kinds": sorted(kinds)}))


asyncio.run(main())

"""Runs in a container: plays one scene with the Agent SDK for Python and prints its facts as one JSON object."""

import asyncio
import json
import sys
from typing import Any

from claude_agent_sdk import (
    ClaudeAgentOptions,
    ClaudeSDKClient,
    PermissionResultAllow,
    ResultMessage,
    create_sdk_mcp_server,
    query,
    tool,
)


async def plain() -> dict[str, Any]:
    async for message in query(prompt="hello from the SDK"):
        if isinstance(message, ResultMessage):
            return {"result": message.result}
    return {}


async def in_process_tool() -> dict[str, Any]:
    seen: list[Any] = []

    @tool("add", "adds", {"a": float, "b": float})  # type: ignore[untyped-decorator, unused-ignore]
    async def add(arguments: dict[str, Any]) -> dict[str, Any]:
        seen.append([arguments["a"], arguments["b"]])
        return {"content": [{"type": "text", "text": f"SUM={arguments['a'] + arguments['b']:g}"}]}

    server = create_sdk_mcp_server("mine", tools=[add])
    options = ClaudeAgentOptions(mcp_servers={"mine": server}, allowed_tools=["mcp__mine__add"])
    async with ClaudeSDKClient(options) as client:
        await client.query("use the tool")
        return {"result": await last(client), "seen": seen}


async def permission() -> dict[str, Any]:
    asked: list[str] = []

    async def decide(name: str, arguments: dict[str, Any], _: Any) -> PermissionResultAllow:
        asked.append(name)
        return PermissionResultAllow(updated_input=arguments)

    async with ClaudeSDKClient(ClaudeAgentOptions(can_use_tool=decide)) as client:
        await client.query("write it")
        return {"result": await last(client), "seen": asked}


async def interrupt() -> dict[str, Any]:
    async with ClaudeSDKClient(ClaudeAgentOptions()) as client:
        await client.query("slow question")
        ends = []
        async for message in client.receive_messages():
            if isinstance(message, ResultMessage):
                ends.append(message.subtype)
                break
            if not ends and type(message).__name__ == "SystemMessage":
                await client.interrupt()
        return {"result": ends[0]}


async def last(client: ClaudeSDKClient) -> str | None:
    async for message in client.receive_response():
        if isinstance(message, ResultMessage):
            return str(message.result)
    return None


SCENES = {"plain": plain, "tool": in_process_tool, "permission": permission, "interrupt": interrupt}

print(json.dumps(asyncio.run(SCENES[sys.argv[1]]())))

"""A lead agent that hands work to subagents, with hooks that keep a log. Prints what happened as lines of JSON."""

import asyncio
import json
from typing import Any

from claude_agent_sdk import (
    AgentDefinition,
    AssistantMessage,
    ClaudeAgentOptions,
    ClaudeSDKClient,
    HookMatcher,
    ResultMessage,
    TextBlock,
    ToolUseBlock,
)

LOG: list[list[str]] = []


async def before(event: dict[str, Any], tool_use_id: str | None, context: Any) -> dict[str, Any]:
    """Log each use of a tool, and deny the one that removes files."""
    LOG.append(["before", event["tool_name"]])
    if "rm " in event["tool_input"].get("command", ""):
        reason = {"permissionDecision": "deny", "permissionDecisionReason": "nothing is removed here"}
        return {"hookSpecificOutput": {"hookEventName": "PreToolUse", **reason}}
    return {}


async def after(event: dict[str, Any], tool_use_id: str | None, context: Any) -> dict[str, Any]:
    LOG.append(["after", event["tool_name"]])
    return {}


async def main() -> None:
    errors: list[str] = []
    options = ClaudeAgentOptions(
        system_prompt={"type": "preset", "preset": "claude_code", "append": "You lead a team."},
        setting_sources=["project"],
        permission_mode="bypassPermissions",
        allowed_tools=["Task", "Bash", "Read", "Write"],
        agents={
            "searcher": AgentDefinition(
                description="Searches the folder", prompt="You search.", tools=["Bash", "Read"], model="haiku"
            ),
            "writer": AgentDefinition(description="Writes reports", prompt="You write.", tools=["Write"]),
        },
        hooks={
            "PreToolUse": [HookMatcher(matcher=None, hooks=[before])],  # type: ignore[list-item, unused-ignore]
            "PostToolUse": [HookMatcher(matcher=None, hooks=[after])],  # type: ignore[list-item, unused-ignore]
        },
        max_turns=20,
        env={"RESEARCH_TOPIC": "tea"},
        stderr=errors.append,
        max_buffer_size=10_000_000,
    )
    async with ClaudeSDKClient(options) as client:
        for prompt in ('USE Bash {"command": "echo topic=$RESEARCH_TOPIC; ls"}', 'USE Bash {"command": "rm -f notes"}'):
            await client.query(prompt)
            async for message in client.receive_response():
                show(message)
        inner = 'USE Bash {"command": "cat notes"}'
        asked = {"subagent_type": "searcher", "description": "look", "run_in_background": False, "prompt": inner}
        await client.query("USE Agent " + json.dumps(asked))
        async for message in client.receive_response():
            show(message)
    print(json.dumps({"log": LOG, "errors": errors}))


def show(message: Any) -> None:
    if isinstance(message, AssistantMessage):
        for block in message.content:
            if isinstance(block, TextBlock):
                print(json.dumps({"text": block.text}))
            elif isinstance(block, ToolUseBlock):
                print(json.dumps({"tool": block.name, "by": "lead" if message.parent_tool_use_id is None else "team"}))
    elif isinstance(message, ResultMessage):
        print(json.dumps({"result": message.result, "turns": message.num_turns, "is_error": message.is_error}))


asyncio.run(main())

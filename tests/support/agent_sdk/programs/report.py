"""One question after another with `query`: structured output, a resumed conversation, a failure that is handled."""

import asyncio
import json
from typing import Any

from claude_agent_sdk import ClaudeAgentOptions, ProcessError, ResultMessage, query

SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "points": {"type": "array", "items": {"type": "string"}}},
    "required": ["title", "points"],
}


async def ask(prompt: str, **options: Any) -> ResultMessage:
    async for message in query(prompt=prompt, options=ClaudeAgentOptions(**options)):
        if isinstance(message, ResultMessage):
            return message
    raise AssertionError("no result came")


async def main() -> None:
    answer = {"title": "Tea", "points": ["hot", "green"]}
    schema = {"type": "json_schema", "schema": SCHEMA}
    first = await ask("USE StructuredOutput " + json.dumps(answer), output_format=schema, max_turns=5)
    print(json.dumps({"structured": first.structured_output}))
    second = await ask("and now in words", resume=first.session_id, max_budget_usd=1.0)
    print(json.dumps({"same": second.session_id == first.session_id, "result": second.result}))
    third = await ask("another way", resume=first.session_id, fork_session=True, model="sonnet")
    print(json.dumps({"same": third.session_id == first.session_id, "result": third.result}))
    last = await ask("on", continue_conversation=True, add_dirs=["/workspace/docs"], extra_args={"verbose": None})
    print(json.dumps({"result": last.result}))
    try:
        await ask("never", resume="00000000-0000-4000-8000-000000000000")
    except ProcessError as error:
        print(json.dumps({"failed": error.exit_code}))


asyncio.run(main())

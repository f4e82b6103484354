"""What a call did, as facts that can be compared: one name and one value each."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

from tests.fidelity.sides import Outcome
from tests.support.fake_messages_api import Request

Facts = dict[str, Any]

VOLATILE = frozenset({
    "backgroundTaskId", "duration_api_ms", "duration_ms", "end_time", "first_content_frame_ms", "post_tokens",
    "request_sent_wall_ms", "runId", "run_id", "task_id",
    "time_to_request_ms", "timestamp", "totalDurationMs", "ttft_ms", "ttft_stream_ms", "user_id", "uuid",
})  # fmt: skip
"""Fields that differ between two runs of the same call."""

NORMALISED = [
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<id>"),
    (re.compile(r"\b(toolu|msg)_\d{8}"), r"<\1>"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z?"), "<time>"),
    (re.compile(r"(cc_version=[\d.]+)\.[0-9a-f]{3};"), r"\1;"),
    (re.compile(r"http://127\.0\.0\.1:\d+|http://[0-9a-f]{32}\.invalid"), "<api>"),
    (re.compile(r"\b(127\.0\.0\.1:\d{4,5}|[0-9a-f]{32}\.invalid(:\d+)?)\b"), "<api's host>"),
    (re.compile(r"(?<=/plans/)[a-z0-9-]+\.md\b"), "<plan>.md"),
    (re.compile(r"(/bundled-skills/[\d.]+/)[0-9a-f]{32}\b"), r"\1<digest>"),
    (re.compile(r"/tmp/cc-socks/\d+\.sock"), "<socket>"),
    (re.compile(r"claude-[0-9a-f]{4}-cwd"), "<cwd file>"),
    (re.compile(r"/tmp/claude-code-[0-9a-f]{16}"), "<copies>"),
    (re.compile(r"\b[a-z0-9]{9}\.output"), "<task>.output"),
    (re.compile(r"(?<=/tool-results/)[a-z0-9]{9}\.txt"), "<result>.txt"),
    (re.compile(r"(in background with ID: |to the background \(ID: |<task-id>)[a-z0-9]{9}\b"), r"\1<task>"),
    (re.compile(r"\ba[0-9a-f]{16}\b"), "<agent>"),
    (re.compile(r"\b(duration_ms|subagent_tokens)(: |>)\d+"), r"\1\2<number>"),
]
"""What differs between two runs of the same call, in any text."""


def facts(outcome: Outcome) -> Facts:
    """Return the facts of a call."""
    found: Facts = {"exit code": outcome.code, "stderr": _lines(outcome.stderr)}
    found |= dict(_stream(outcome.stdout))
    prompts = [request for request in outcome.requests if request.path.startswith("/v1/messages?")]
    found["requests"] = len(prompts)
    for number, request in enumerate(prompts, 1):
        found |= {f"request {number}: {name}": value for name, value in _request(request)}
    return {name: normalised(value) for name, value in found.items()}


def normalised(value: Any) -> Any:
    """Return a value without what differs between two runs."""
    if isinstance(value, str):
        for pattern, replacement in NORMALISED:
            value = pattern.sub(replacement, value)
        return value
    if isinstance(value, list):
        return [normalised(entry) for entry in value]
    if isinstance(value, dict):
        return {key: normalised(entry) for key, entry in value.items() if key not in VOLATILE}
    return value


def _lines(output: bytes) -> list[str]:
    return output.decode("utf-8", "backslashreplace").splitlines()


def _stream(stdout: bytes) -> Iterator[tuple[str, Any]]:
    """Return the output: of a stream of JSON the fields of its first message, and the other messages."""
    lines = _lines(stdout)
    try:
        messages = [json.loads(line) for line in lines]
    except ValueError:
        messages = []
    if not messages or not all(isinstance(message, dict) for message in messages):
        yield "stdout", lines
        return
    others = 0
    for message in _in_order(messages):
        if message.get("subtype") == "init":
            yield from ((f"init: {name}", value) for name, value in message.items())
        else:
            others += 1
            yield f"message {others}", message


def _in_order(messages: list[Facts]) -> Iterator[Facts]:
    """Yield messages; those of hooks that run at the same time by what they say."""
    for of_hooks, group in itertools.groupby(messages, lambda message: str(message.get("subtype")).startswith("hook_")):
        together = list(group)
        yield from sorted(together, key=lambda message: json.dumps(normalised(message))) if of_hooks else together


def _request(request: Request) -> Iterator[tuple[str, Any]]:
    """Return what the model was told: system prompt, messages, each tool, and the other parameters."""
    body = dict(request.body)
    yield "system", _text(body.pop("system", []))
    for tool in body.pop("tools", None) or []:
        yield f"tool {tool['name']}", {**tool, "description": tool.get("description", "").splitlines()}
    for number, message in enumerate(body.pop("messages", []), 1):
        if told := _text(message["content"]):  # the CLI adds one without content, or not, depending on the time
            yield f"message {number} ({message['role']})", told
    yield "parameters", body


def _text(content: Any) -> list[Any]:
    """Return text as lines, and other blocks as they are."""
    if isinstance(content, str):
        return content.splitlines()
    found: list[Any] = []
    for block in content:
        block = {name: value for name, value in block.items() if name != "cache_control"}
        found += block["text"].splitlines() if block.get("type") == "text" else [block]
    return found

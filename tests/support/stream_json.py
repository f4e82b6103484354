"""Flags and messages of a conversation in stream-json, as SDKs hold it with the CLI."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

STREAM = ("--output-format", "stream-json", "--verbose", "--input-format", "stream-json")


def user(text: str) -> bytes:
    """Return one turn of the user."""
    message = {"type": "user", "message": {"role": "user", "content": text}, "session_id": ""}
    return json.dumps(message).encode() + b"\n"


def messages(output: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def ask(subtype: str, **fields: Any) -> bytes:
    """Return a control request."""
    request = {"type": "control_request", "request_id": f"r-{subtype}", "request": {"subtype": subtype, **fields}}
    return json.dumps(request).encode() + b"\n"


def reply(asked: dict[str, Any], response: dict[str, Any]) -> bytes:
    """Return the reply to one of the CLI's own control requests."""
    body = {"subtype": "success", "request_id": asked["request_id"], "response": response}
    return json.dumps({"type": "control_response", "response": body}).encode() + b"\n"


def read(line: Callable[[], bytes], wanted: Callable[[dict[str, Any]], bool]) -> Any:
    """Yield the wanted messages of the stream."""
    while raw := line():
        message = json.loads(raw)
        if wanted(message):
            yield message

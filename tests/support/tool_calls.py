"""Commands that Claude runs in the container: how to request them, and how to find those that still run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.support.bridge_host import OWNER, Place, make_way
from tests.support.fake_messages_api import Use
from tests.support.waiting import wait_until

FREE = "--dangerously-skip-permissions"
GONE_WITHIN_S = 2.0
STARTED_WITHIN_S = 90.0
"""Seconds for the start of a real CLI and what it does first. It takes one, but twenty beside a heavy load."""
SERVER = """
import json, os, sys
for line in sys.stdin:
    message = json.loads(line)
    if message["method"] == "initialize":
        said = {"protocolVersion": message["params"]["protocolVersion"], "capabilities": {"tools": {}},
                "serverInfo": {"name": "here", "version": "1"}}
    elif message["method"] == "tools/list":
        said = {"tools": [{"name": "where", "inputSchema": {"type": "object", "properties": {}}}]}
    elif message["method"] == "tools/call":
        text = " ".join([*os.listdir("/"), os.environ["GREETING"]])
        said = {"content": [{"type": "text", "text": text}]}
    else:
        said = {}
    if "id" in message:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": said}), flush=True)
"""
WAIT = "perl -e 'sleep 900' {n}"
"""Not `sleep`: the CLI refuses a long `sleep` that is the whole command."""


def bash(command: str, **more: Any) -> Use:
    return Use("Bash", {"command": command, "description": "x", **more})


def alive(word: str) -> list[int]:
    """Return the processes of the machine, in any container or in none, that have the word as an argument."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                words = (path / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if word.encode() in words:
                found.append(int(path.name))
    return found


def gone(number: str) -> None:
    wait_until(lambda: not alive(number), GONE_WITHIN_S, "every process of the command to be gone")


def write(place: Place, name: str, content: str | dict[str, Any]) -> None:
    path = place.workspace / name
    path.parent.mkdir(parents=True, exist_ok=True)
    make_way(path)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    for made in (path, *path.parents):
        if place.workspace in made.parents:
            os.chown(made, OWNER, OWNER)

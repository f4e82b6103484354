"""Task Master in live containers of both images, thinking with the real CLI on the host."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.bridge.conftest import RealHost
from tests.support.bridge_box import Box
from tests.support.containers import Agents
from tests.support.fake_messages_api import Reply, Request, Say, Use

ROLE = {"provider": "claude-code", "modelId": "sonnet", "maxTokens": 64000, "temperature": 0.2}
CONFIG = {"models": dict.fromkeys(("main", "research", "fallback"), ROLE), "global": {"anonymousTelemetry": False}}

TITLE = "Weigh the parcels"
DOCUMENT = "\n\n".join(
    f"## {number}. Requirement\n\n" + "The sorting hall weighs each parcel, and prints its label. " * 12
    for number in range(1, 9)
)
"""Two pages and a half."""


def planner(request: Request) -> Reply:
    """Fill in whatever form Task Master hands out."""
    form = next((tool for tool in request.body.get("tools") or [] if tool["name"] == "StructuredOutput"), None)
    if form is None or request.results:
        return Say("done")
    return Use("StructuredOutput", filled(form["input_schema"]))


def filled(schema: dict[str, Any], name: str = "") -> Any:
    """Return the smallest value that a JSON schema admits."""
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    if "anyOf" in schema:
        return filled(schema["anyOf"][0], name)
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {key: filled(value, key) for key, value in schema.get("properties", {}).items()}
    if kind == "array":
        return [] if name == "dependencies" else [filled(schema["items"])]
    simple = {"integer": 1, "number": 1, "boolean": False, "null": None}
    return simple.get(str(kind), TITLE)


@pytest.fixture(scope="module")
def planning(newest_host: RealHost, image: str, no_leftovers: None) -> Iterator[Box]:
    """A project with a document, of which Task Master has made a task."""
    newest_host.api.part = planner
    agents = Agents(image)
    try:
        box = Box(agents, newest_host.place())
        init = box.run("task-master", "init", "--yes", "--no-git", "--no-aliases", "--rules=claude")
        assert init.returncode == 0, init.stderr
        for path, text in ((".taskmaster/config.json", json.dumps(CONFIG)), ("prd.md", DOCUMENT)):
            assert box.run("tee", path, stdin=text.encode()).returncode == 0
        done = box.run("task-master", "parse-prd", "prd.md", "--num-tasks=1", "--force")
        assert done.returncode == 0, (done.stdout + done.stderr).decode()
        yield box
    finally:
        agents.close(show=False)


def tasks(box: Box) -> list[dict[str, Any]]:
    path = box.place.workspace / ".taskmaster" / "tasks" / "tasks.json"
    found: list[dict[str, Any]] = json.loads(path.read_text())["master"]["tasks"]
    return found


def test_parse_prd_makes_tasks(planning: Box) -> None:
    assert [task["title"] for task in tasks(planning)] == [TITLE]


def test_the_document_reached_the_model(planning: Box, newest_host: RealHost) -> None:
    assert any("8. Requirement" in request.everything for request in newest_host.api.prompts)

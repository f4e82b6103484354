"""The model's part for Task Master: it fills in any JSON schema that it gets, from the document in the request."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.support.fake_messages_api import Json, Reply, Request, Say, Use

DOCUMENT = (Path(__file__).parent / "prd.md").read_text()
"""Two pages. Each requirement in it is a third-level heading."""

HEADING = re.compile(r"^### ((?:Read|Find|Print|Keep|Answer|Show) .*)$", re.MULTILINE)
REQUIREMENTS = HEADING.findall(DOCUMENT)
SENTENCE = "What the model says where a sentence is wanted"


def planner(request: Request) -> Reply:
    """Answer with the requested form, filled in from the request."""
    form = next((tool["input_schema"] for tool in request.body.get("tools") or [] if _is_form(tool)), None)
    if form is None or request.results:
        return Say("done")
    answer = filled(form)
    asked = request.everything.replace("\\n", "\n")
    if "tasks" in answer:
        titles = dict.fromkeys(HEADING.findall(asked))
        answer["tasks"] = [{**answer["tasks"][0], "id": n, "title": title} for n, title in enumerate(titles, 1)]
    if "subtasks" in answer:
        answer["subtasks"] = [{**answer["subtasks"][0], "id": number} for number in (1, 2)]
    if "task" in answer:
        answer["task"] = {**answer["task"], "title": "Read the scale of steel", "subtasks": []}
    if "complexityAnalysis" in answer:
        one = answer["complexityAnalysis"][0]
        numbers = range(1, len(REQUIREMENTS) + 1)
        answer["complexityAnalysis"] = [{**one, "taskId": number, "complexityScore": 7} for number in numbers]
    return Use("StructuredOutput", answer)


def _is_form(tool: Json) -> bool:
    return bool(tool["name"] == "StructuredOutput")


def filled(schema: Json, name: str = "") -> Any:
    """Return a small value that is valid for a JSON schema."""
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
    return "pending" if name == "status" else simple.get(str(kind), SENTENCE)

"""Agents, commands, skills and output styles of a project: which fields of their heads the CLI gets, and their names.

A head is parsed and written again. What it starts (commands in a text) runs in the container, so it is safe for the
host. Fields that would do more are left out with a note. Fields that the CLI does not know are left out silently.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bridge.policy.globs import globs_of, moved
from bridge.policy.heads import Heads, split_head, written
from bridge.policy.terms import WORKSPACE, shown

OF_AGENT = frozenset({
    "background", "color", "description", "disallowedTools", "effort", "hooks", "initialPrompt", "isolation",
    "maxTurns", "mcpServers", "memory", "model", "name", "permissionMode", "skills", "tools",
})  # fmt: skip
OF_COMMAND = frozenset({
    "agent", "allowed-tools", "argument-hint", "arguments", "context", "description", "disable-model-invocation",
    "disallowed-tools", "effort", "fallback", "hooks", "model", "name", "paths", "user-invocable", "version",
    "when_to_use",
})  # fmt: skip
OF_STYLE = frozenset({"description", "keep-coding-instructions", "name"})
NOT_CARRIED = frozenset({"shell"})
"""Fields that the CLI acts on, and that the bridge leaves out with a note."""

MAX_FILES = 1000
MAX_FILE = 128 * 1024
"""Files, and bytes of one file, that a client may send. Our client keeps these limits (project_files.py); others
may not."""

MAX_DIRECTORIES = 1024
"""Directories that the files of a call may need together. The server makes and removes them in its event loop, 0.4 ms
each."""

MAX_STEP = 255
"""Bytes of one name in a path, which is also the limit of the host's file system."""

_NAME = re.compile(
    r"(?:(?P<place>.+)/)?\.claude/(?P<path>(?P<kind>agents|commands|output-styles|skills)/.+\.md)", re.DOTALL
)
_SKILL = re.compile(r"skills/[^/]+/SKILL\.md", re.DOTALL)


KINDS = ("agents", "commands", "output-styles", "rules", "skills")


def is_path(path: str, kinds: tuple[str, ...] = KINDS) -> bool:
    """Return whether a path in the CLI's configuration directory is one that a project's document may have."""
    steps = path.split("/")
    return (
        len(steps) > 1
        and steps[0] in kinds
        and len(steps) <= 40
        and path.endswith(".md")
        and all(
            step not in ("", ".", "..") and len(step.encode("utf-8", "surrogateescape")) <= MAX_STEP for step in steps
        )
        and "\0" not in path
    )


def directories(paths: Iterable[str]) -> set[str]:
    """Return the directories that these files need; not all of them if there are more than MAX_DIRECTORIES."""
    found: set[str] = set()
    for path in paths:
        directory = path.rpartition("/")[0]
        while directory and directory not in found and len(found) <= MAX_DIRECTORIES:
            found.add(directory)
            directory = directory.rpartition("/")[0]
    return found


Check = Callable[[Any, Callable[[str, str, bool], None]], Any]
"""Takes the value of a field, and a function that is called for what is left out, with its name, the reason, and
whether a program would rely on it. Returns the allowed value, or None."""


def written_anew(
    name: str, text: bytes, cwd: str, heads: Heads, checks: Mapping[str, Check]
) -> tuple[str, bytes, list[str]]:
    """Return a document's path in the CLI's configuration directory, its text with only the known fields in its head,
    and a note for each field that is missed.

    `name` is the document's path in the workspace, and `cwd` the call's directory. A skill of a directory below it is
    offered once Claude reads a file there, as in the CLI. `checks` are for the fields whose values are
    restricted. Raises ValueError with the reason if it is left out.
    """
    found = _NAME.fullmatch(name)
    if not found or not is_path(found["path"]) or (found["kind"] == "skills" and not _SKILL.fullmatch(found["path"])):
        raise ValueError("its name is none of an agent, a command, a skill or an output style")
    if not found["path"].isprintable():
        raise ValueError("its name holds a control character, or is not in UTF-8")
    head, body, mark = split_head(text.decode("utf-8", "replace"))
    fields = heads.read(head) if head is not None else {}
    known = {"agents": OF_AGENT, "output-styles": OF_STYLE}.get(found["kind"], OF_COMMAND)
    kept = {key: value for key, value in fields.items() if key in known}
    notes = [
        f"{name}: {shown(key)} is left out: the bridge does not carry it"
        for key in sorted(str(key) for key in fields.keys() - known if key in NOT_CARRIED)
    ]
    for key in kept.keys() & checks.keys():
        kept[key] = checks[key](kept[key], lambda what, why, _: notes.append(f"{name}: {what} is left out: {why}"))
    kept = {key: value for key, value in kept.items() if value is not None}
    if found["kind"] == "skills":
        folder = f"{WORKSPACE}/{name.removesuffix('/SKILL.md')}"
        base = f"{WORKSPACE}/{found['place']}" if found["place"] else WORKSPACE
        if base.startswith(cwd + "/"):
            kept["paths"] = moved(globs_of(kept.get("paths")), base, cwd)
            kept |= _told_of_place(kept, base[len(cwd) + 1 :])
        kept, body = _with_folder(kept, folder), _with_folder(body, folder)
        if isinstance(kept.get("description"), str | int):
            body = _told(folder) + body
        elif body.strip():
            body = f"{body.rstrip()}\n\n{_told(folder)}"
    whole = mark + written(kept, body)
    return found["path"], whole.encode("utf-8", "replace"), notes


def _told(folder: str) -> str:
    """Return a line for Claude. The CLI itself names a directory that the container does not have.

    It stands first, but last without a description: then the CLI takes the first line for one. An empty skill has none.
    """
    return f"(The files of this skill are in {folder}.)\n\n"


def _told_of_place(fields: dict[str, Any], place: str) -> dict[str, Any]:
    """Return the description of a skill of a directory below, with the CLI's own words about that."""
    text = fields.get("description")
    place = f"(from {place}/.claude/skills — applies when working on files under {place}/)"
    return {"description": f"{text} {place}"} if isinstance(text, str) else {}


def _with_folder(value: Any, folder: str) -> Any:
    """Return a value with the skill's directory in place of the CLI's variable for it."""
    if isinstance(value, str):
        return value.replace("${CLAUDE_SKILL_DIR}", folder)
    if isinstance(value, list):
        return [_with_folder(entry, folder) for entry in value]
    if isinstance(value, dict):
        return {key: _with_folder(entry, folder) for key, entry in value.items()}
    return value

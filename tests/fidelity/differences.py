"""Every difference between Claude Code over the bridge and plain on a host, with its reason.

A row rewrites what the plain CLI does into what the bridge does. What is different then is a fault. The document
docs/differences.md is made from this table: `python -m tests.fidelity.differences`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bridge.policy.argv import where_it_lives
from bridge.policy.terms import Scope
from tests.fidelity.facts import Facts
from tests.fidelity.sides import HOME

Rewrite = Callable[[str, Any], Any]
"""Takes the name of a fact and the plain CLI's value. Returns the value over the bridge; None means no such fact."""

WITHHELD = ("CronCreate", "CronDelete", "CronList", "EnterWorktree", "ExitWorktree", "ListAgents", "Monitor",
            "ScheduleWakeup", "SendMessage", "Workflow")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Difference:
    """One row: what is different, why, and the facts that it concerns (a pattern for their names)."""

    what: str
    why: str
    facts: str
    rewrite: Rewrite | None = None
    """Rewrites the plain CLI's value into the bridge's."""
    undo: Rewrite | None = None
    """Leaves out what the bridge has in addition."""


def replaced(pattern: str, replacement: str) -> Rewrite:
    """Return a rewrite of all text in a fact."""
    compiled = re.compile(pattern)

    def rewrite(name: str, value: Any) -> Any:
        if isinstance(value, str):
            return compiled.sub(replacement, value)
        if isinstance(value, list):
            return [rewrite(name, entry) for entry in value]
        if isinstance(value, dict):
            return {key: rewrite(name, entry) for key, entry in value.items()}
        return value

    return rewrite


def removed(*lines: str) -> Rewrite:
    """Return a rewrite that leaves out these entries of a list."""
    return lambda _, value: [entry for entry in value if entry not in lines] if isinstance(value, list) else value


def in_turn(*rewrites: Rewrite) -> Rewrite:
    """Return a rewrite that does several, one after another."""

    def rewrite(name: str, value: Any) -> Any:
        for one in rewrites:
            value = value if value is None else one(name, value)
        return value

    return rewrite


def without_tools(*tools: str) -> Rewrite:
    """Return a rewrite that leaves these tools out: out of lists, and what the model is told of each."""
    lines = removed(*tools)
    return lambda name, value: None if name.partition(": tool ")[2] in tools else lines(name, value)


def _told(_name: str, value: Any) -> Any:
    """Add what the bridge tells about the container to the end of the system prompt, before the state of git."""
    if not isinstance(value, list):
        return value
    at = next((at for at, line in enumerate(value) if line.startswith("gitStatus: ")), len(value) + 1)
    return [*value[: at - 1], "", *where_it_lives(Scope()).splitlines(), *value[at - 1 :]]


def _without_list(value: Any) -> Any:
    """Mark the list of files that a command has changed as unavailable."""
    result = value.get("tool_use_result")
    if not isinstance(result, dict) or "bashEditDiff" not in result:
        return value
    none = {"files": [], "moreFiles": 0, "unavailable": True}
    return {**value, "tool_use_result": {**result, "bashEditDiff": none}}


OFFERED = ("Glob", "Grep", "TaskCreate", "TaskGet", "TaskList", "TaskUpdate")
ALL = r".*"
TOLD = r"request \d+: (system|message \d+ .*)"

DIFFERENCES = (
    Difference(
        "The CLI's own files are in `/claude`, not in `~/.claude`.",
        "The container's home is not the CLI's. Both see the same path, so what Claude is told can be read.",
        ALL,
        in_turn(
            replaced(re.escape(f"{HOME}/.claude"), "/claude"),
            replaced(r"(?<![\w/])/tmp/claude-(?=\d)", "/claude/tmp/claude-"),
        ),
    ),
    Difference(
        "Hooks and commands get copies of the CLI's own files (the conversation, long results), in a directory of the "
        "call.",
        "The CLI's directory is on the host. The copies are made before a hook or a command that is told of them.",
        ALL,
        undo=replaced("<copies>", "/claude"),
    ),
    Difference(
        "The list of files that a Bash command has changed (`bashEditDiff`) is marked as unavailable.",
        "The CLI makes it with a git directory of its own, in which it writes. Only questions to git are passed on.",
        r"message \d+",
        lambda _, value: _without_list(value),
    ),
    Difference(
        f"These tools are not offered: {', '.join(WITHHELD)}.",
        "They act outside of the call: they start programs beside the CLI, reach other sessions, or outlive the call.",
        r"init: (tools|messaging_socket_path)|(request \d+: )?(message|tool) .*|stdout",
        in_turn(
            lambda name, value: None if name == "init: messaging_socket_path" else value,
            without_tools(*WITHHELD),
            replaced(r" \(use SendMessage with to: [^)]*\)", ""),
            replaced(
                r"^- Use SendMessage with the agent's ID or name .*; a new Agent call starts fresh",
                "- A previously spawned agent cannot be continued from here; every Agent call starts fresh",
            ),
        ),
    ),
    Difference(
        f"These tools are always offered: {', '.join(OFFERED)}.",
        "The bridge names the tools one by one, so that no tool of a newer CLI is offered unseen. Some versions of the "
        "CLI leave these out by themselves.",
        r"init: tools|request \d+: (message|tool) .*",
        in_turn(
            without_tools(*OFFERED),
            replaced("Avoid using this tool to run `cat`", "Avoid using this tool to run `find`, `grep`, `cat`"),
        ),
        without_tools(*OFFERED),
    ),
    Difference(
        "The system prompt has one more paragraph, about the container.",
        "Claude has to know which of its tools see which files.",
        r"request \d+: system",
        in_turn(
            _told,
            replaced(
                r"^You are a Claude agent, built on Anthropic's Claude Agent SDK\.$",
                "You are Claude Code, Anthropic's official CLI for Claude, running within the Claude Agent SDK.",
            ),
        ),
    ),
    Difference(
        "The built-in plugin `sec-default` is on.",
        "The CLI turns it on where there are managed settings. The bridge has some, as a second layer of safety.",
        r"init: plugins",
        undo=lambda _, value: [plugin for plugin in value if plugin["name"] != "cc-plugin-sec-default"],
    ),
)


def compare(plain: Facts, bridged: Facts) -> tuple[Facts, Facts, set[str]]:
    """Return both sides' facts without the known differences, and what of them was seen."""
    seen: set[str] = set()
    sides = dict(plain), dict(bridged)
    for row in DIFFERENCES:
        for side, rewrite in zip(sides, (row.rewrite, row.undo), strict=True):
            for name in [name for name in side if rewrite and re.fullmatch(row.facts, name)]:
                assert rewrite
                new = rewrite(name, side[name])
                if new != side[name]:
                    seen.add(row.what)
                    side[name] = new
    left, right = ({name: value for name, value in side.items() if value is not None} for side in sides)
    return left, right, seen


DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "differences.md"

HEAD = """# Differences from plain Claude Code

`nox -s fidelity_tests` runs the same Claude Code in the same project twice: plain on a host, and over the bridge. It
compares what the model is told, what the session reports, the output and the exit code. What is different is in this
table, which is made from `tests/fidelity/differences.py` by `python -m tests.fidelity.differences`. Anything else is a
fault: please report it.

| what is different | why |
| --- | --- |
"""


def document() -> str:
    """Return the text of the document for people."""
    return HEAD + "".join(f"| {row.what} | {row.why} |\n" for row in DIFFERENCES)


if __name__ == "__main__":
    DOCUMENT.write_text(document())

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
    """Add what the bridge tells about the container to the end of the system prompt."""
    return [*value, "", *where_it_lives(Scope()).splitlines()] if isinstance(value, list) else value


_unmentioned = in_turn(
    replaced(r"(?m)^- (Use SendMessage with the agent's ID|A previously spawned agent cannot).* starts fresh", "- …"),
    replaced(r" \(use SendMessage with to: [^)]*\)", ""),
)
"""Leaves out what the CLI says of SendMessage in other places. Some versions say it where the tool is not offered."""

_unreached = replaced(
    r'^(\S+)( \(\w+\))?: "(SSE error: )?'
    r'(ECONNREFUSED|ENOENT|Executable not found|Connection closed|Error POSTing|Non-200).*"$',
    r"\1: …",
)
"""Leaves out why an MCP server cannot be reached."""

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
            replaced(r"(?<!/claude)/tmp/claude-", "/claude/tmp/claude-"),
        ),
    ),
    Difference(
        f"These tools are not offered: {', '.join(WITHHELD)}.",
        "They act outside of the call: they start programs beside the CLI, reach other sessions, or outlive the call.",
        r"init: (tools|messaging_socket_path)|(request \d+: )?(message|tool) .*|stdout",
        in_turn(
            lambda name, value: None if name == "init: messaging_socket_path" else value,
            without_tools(*WITHHELD),
            _unmentioned,
        ),
        _unmentioned,
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
    Difference(
        "The project's MCP servers have the source `dynamic`, not `project`.",
        "The bridge names them on the CLI's command line. If the CLI read `.mcp.json` itself, it would replace "
        "variables with those of the host.",
        r"init: mcp_servers",
        lambda _, value: [entry | ({"source": "dynamic"} if "source" in entry else {}) for entry in value],
    ),
    Difference(
        "The reason why an MCP server cannot be reached is given in other words.",
        "A server that is a program starts in the container. A server on the network is reached through the proxy, "
        "which refuses addresses that are not public.",
        r"request \d+: message \d+ \(system\)",
        _unreached,
        _unreached,
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

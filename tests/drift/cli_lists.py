"""Finds what a CLI has: flags, subcommands, tools, settings, control requests and hook events.

The program holds its own source as text, but with short names that change with each version. So a list is found by
words that people write: a flag's declaration, the first hook events, a setting's description. Each list has some
entries that it must contain. A list without them means that the search found something else, which is an error.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from bridge.policy.flags import MANY, NONE, ONE, OPTIONAL
from tests.support.fake_messages_api import FakeMessagesApi

T = TypeVar("T", dict[str, str], set[str])


class UnreadableError(Exception):
    """A list was not found in a CLI; the text names it."""


NAME = rb"(?:-\w+|--[a-z][A-Za-z0-9-]*)"
DECLARATION = re.compile(
    rb"(?:[oO]ption|new [\w$.]{1,20})\(\"(" + NAME + rb"(?:, " + NAME + rb")*)( [<\[][^\"]{1,80}[>\]])?\"[,)]"
    rb"|\.command\(\"([a-z][a-z-]*)[\" ]"
)
"""Declares a flag with its value, or begins the declaration of a subcommand."""

FAR = 500_000
"""Bytes between two declarations that do not belong together."""

MOST = 400_000
"""Bytes that the schema of the settings is searched in."""

NOT_REQUESTS = frozenset({"error", "error_during_execution", "success", "terminated"})
"""Subtypes of answers, which are declared like requests."""

SHOWN_COMMAND = re.compile(r"^  ([a-z][a-z-]+)(?:\|([a-z-]+))?(?: |$)", re.MULTILINE)

CERTAIN = {
    "flags": {"--print", "--continue", "--allowedTools", "--mcp-config", "--json-schema", "--sdk-url"},
    "subcommands": {"mcp", "plugin", "doctor", "setup-token", "update"},
    "tools": {"Bash", "Read", "Edit", "Write"},
    "settings": {"apiKeyHelper", "cleanupPeriodDays", "hooks", "permissions", "statusLine"},
    "control requests": {"initialize", "interrupt", "set_model", "mcp_set_servers", "can_use_tool"},
    "hook events": {"PreToolUse", "Stop", "SessionEnd", "PreCompact"},
}
"""What each list of every version contains."""


class CliLists:
    """The lists of one CLI. Each raises UnreadableError."""

    def __init__(self, program: Path) -> None:
        self.program = program
        self._data = program.read_bytes()

    @property
    def version(self) -> str:
        """The CLI's version."""
        return self._run("--version").split()[0]

    def mentions(self, name: str) -> bool:
        """Return whether the program has this name anywhere."""
        return name.encode() in self._data

    @functools.cached_property
    def flags(self) -> dict[str, str]:
        """The flags of `claude` itself, and how many values each takes: those declared together with `--print`."""
        group: dict[str, str] = {}
        groups = [group]
        end = 0
        for found in DECLARATION.finditer(self._data):
            if found[3] or found.start() > end + FAR:
                group = {}
                groups.append(group)
            end = found.end()
            if found[1]:
                value = (found[2] or b"").decode().strip()
                names = (name for name in found[1].decode().split(", ") if name.startswith("--") or len(name) == 2)
                group.update(dict.fromkeys(names, _count(value)))  # the policy refuses every name like -d2e
        return _checked("flags", next((group for group in groups if "--print" in group), {}))

    @property
    def help_words(self) -> set[str]:
        """The words of the help, in which some flags stand that are declared otherwise (`--version`)."""
        return set(re.findall(r"[\w-]+", self._help()))

    @functools.cached_property
    def subcommands(self) -> set[str]:
        """The commands of `claude` itself. Most names that the program declares belong to a command of a command."""
        found = {
            name for pair in SHOWN_COMMAND.findall(self._help().partition("Commands:")[2]) for name in pair if name
        }
        declared = {found[3].decode() for found in DECLARATION.finditer(self._data) if found[3]}
        return _checked("subcommands", found | {name for name in declared if self.has_subcommand(name)})

    def has_subcommand(self, name: str) -> bool:
        """Return whether the CLI has help of its own for this word."""
        said = self._help(name)
        return bool(said) and said != self._help()

    @functools.cached_property
    def tools(self) -> set[str]:
        """The built-in tools on offer in print mode, as the CLI reports them."""
        with FakeMessagesApi() as api, tempfile.TemporaryDirectory() as home:
            said = self._run("-p", "hi you", "--output-format", "stream-json", "--verbose", home=home, api=api.url)
        lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        return _checked("tools", next((set(line["tools"]) for line in lines if line.get("subtype") == "init"), set()))

    @functools.cached_property
    def settings(self) -> set[str]:
        """The keys of settings.json."""
        mark = b"JSON Schema reference for Claude Code settings"
        at = self._data.find(mark, self._data.find(b'describe("' + mark))
        start = self._data.rfind(b"{$schema:", 0, at)
        return _checked(
            "settings", keys(self._data[start : start + 400_000].decode("latin-1")) if start >= 0 else set()
        )

    @functools.cached_property
    def control_requests(self) -> set[str]:
        """The subtypes of control requests, in both directions."""
        found = re.findall(rb'\{subtype:[\w$]+(?:\.literal)?\("([a-z_]+)"\)', self._data)
        return _checked("control requests", {name.decode() for name in found} - NOT_REQUESTS)

    @functools.cached_property
    def hook_events(self) -> set[str]:
        """The events that hooks can be for."""
        lists = re.findall(rb'\["PreToolUse","PostToolUse"(?:,"[A-Za-z]+")+\]', self._data)
        return _checked("hook events", set(json.loads(max(lists, key=len, default=b"[]"))))

    def _help(self, *words: str) -> str:
        return _help(self, words)

    def _run(self, *words: str, home: str = "/nonexistent", api: str = "") -> str:
        """Run the CLI with a home of its own. Returns its output; empty if it does not end."""
        env = {"PATH": os.environ["PATH"], "HOME": home, "CLAUDE_CODE_MAX_RETRIES": "0"}
        env |= {"ANTHROPIC_BASE_URL": api, "ANTHROPIC_API_KEY": "none"} if api else {}
        env |= {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1"}
        argv = [str(self.program), *words]
        try:
            return subprocess.run(
                argv, capture_output=True, text=True, env=env, stdin=subprocess.DEVNULL, timeout=60, check=False
            ).stdout
        except subprocess.TimeoutExpired:
            return ""


@functools.cache
def _help(lists: CliLists, words: tuple[str, ...]) -> str:
    return lists._run(*words, "--help")


def _count(value: str) -> str:
    if not value:
        return NONE
    if "..." in value:
        return MANY
    return ONE if value.startswith("<") else OPTIONAL


def _checked(name: str, found: T) -> T:
    missing = CERTAIN[name] - set(found)
    if missing:
        raise UnreadableError(
            f"the {name} were not found in this CLI: {', '.join(sorted(missing))} should be among them"
        )
    return found


def keys(text: str) -> set[str]:
    """Return the keys of the object literal that `text` begins with. Methods and spread objects have none."""
    found: set[str] = set()
    depth, at = 0, 0
    key: str | None = None
    """What may be a key, up to here; None within a value."""
    while at < len(text):
        letter = text[at]
        end = _SKIPPED[letter](text, at) if letter in _SKIPPED else at + 1
        depth += {"{": 1, "[": 1, "(": 1, "}": -1, "]": -1, ")": -1}.get(letter, 0)
        if not depth:
            break
        if depth == 1 and (letter == "," or at == 0):
            key = ""
        elif depth == 1 and letter == ":" and key:
            found.add(key.strip())
            key = None
        elif key is not None:
            key += text[at:end].strip("\"'")
        at = end
    return found


def _end_of_text(text: str, at: int) -> int:
    quote, at = text[at], at + 1
    while at < len(text) and text[at] != quote:
        if quote == "`" and text[at : at + 2] == "${":
            at = _end_of_braces(text, at + 1)
        else:
            at += 2 if text[at] == "\\" else 1
    return at + 1


def _end_of_braces(text: str, at: int) -> int:
    depth = 0
    while at < len(text):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        at = _end_of_text(text, at) if text[at] in "\"'`" else at + 1
        if not depth:
            break
    return at


_PATTERN = re.compile(r"/(?:[^/\\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+/")


def _end_of_pattern(text: str, at: int) -> int:
    """Return the end of a regular expression, or of a sign for division."""
    found = _PATTERN.match(text, at) if text[at - 1] in "(,=:[!&|?{};" else None
    return found.end() if found else at + 1


_SKIPPED: dict[str, Callable[[str, int], int]] = {
    '"': _end_of_text, "'": _end_of_text, "`": _end_of_text, "/": _end_of_pattern,
}  # fmt: skip

"""Composes what Claude is told of the project's CLAUDE.md files and rules.

The CLI gets them as files of its own configuration directory, because it may not read the workspace's: CLAUDE.md holds
everything that is told at the start, below the same headings as in the CLI. What is told when Claude reads a matching
file (rules with `paths`, and the CLAUDE.md files of directories below) becomes a rule with `paths` of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from bridge.policy.documents import is_path
from bridge.policy.globs import globs_of, moved
from bridge.policy.heads import as_text, split_head
from bridge.policy.terms import shown

LABELS = {
    b"project": b" (project instructions, checked into the codebase)",
    b"agents": b" (project instructions, checked into the codebase)",
    b"rule": b" (project instructions, checked into the codebase)",
    b"local": b" (user's private project instructions, not checked in)",
}
"""The CLI's words for each kind of file."""

MAX_PARTS = 512
MAX_MEMORY = 1024 * 1024
"""Files, and bytes of all files, that a client may send. Our client keeps these limits (claude_md.py), others may
not."""
MAX_PATHS = 200
"""Globs of one rule, roughly."""
SPACE = "\t\n\v\f\r \xa0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff" + "".join(map(chr, range(0x2000, 0x200B)))
"""What JavaScript's `trim` removes."""


@dataclasses.dataclass
class Memory:
    """Instructions for the CLI."""

    text: bytes = b""
    """CLAUDE.md of the CLI's configuration directory."""
    text_with_agents: bytes = b""
    """The same for a CLI that reads AGENTS.md where there is no CLAUDE.md."""
    rules: dict[str, bytes] = dataclasses.field(default_factory=dict)
    """Rules with `paths`, by their path in the configuration directory."""
    of_agents: list[str] = dataclasses.field(default_factory=list)
    """Rules that are an AGENTS.md, for a CLI that reads it."""
    notes: list[str] = dataclasses.field(default_factory=list)
    """One line for each thing that was left out."""


@dataclasses.dataclass(frozen=True)
class _Part:
    kind: bytes
    base: str
    path: bytes
    text: bytes


def compose(fields: Iterable[bytes], cwd: str, read_head: Callable[[str], dict[str, Any]]) -> Memory:
    """Return the instructions from what a client sent. `cwd` is the call's directory.

    Each field is a kind, the directory that it applies to, a path and a text, with a line feed after each of the first
    three. `read_head` parses a head; it raises ValueError.
    """
    memory = Memory()
    told: list[tuple[bytes, bytes]] = []
    paths: dict[str, list[str]] = {}
    left = MAX_MEMORY
    for number, field in enumerate(fields):
        part = _part(field)
        if part is None:
            continue
        left -= len(field)
        if left < 0 or number >= MAX_PARTS:
            memory.notes.append("some instructions are left out: the instructions of a call are too long")
            break
        globs, text = None, part.text
        head, body, _ = split_head(text.decode("utf-8", "surrogateescape"))
        if head is not None:
            text = body.encode("utf-8", "surrogateescape")
            if part.kind == b"rule":
                globs = _globs_of(part, head, read_head, memory)
        above = part.base == cwd or cwd.startswith(part.base.rstrip("/") + "/")
        if globs is None and above:
            told.append((part.kind, _block(part, text)))
        else:
            _add_rule(part, globs, text, cwd, memory, paths)
    has_claude_md = any(kind in (b"project", b"local") for kind, _ in told)
    if has_claude_md:
        memory.rules = {name: text for name, text in memory.rules.items() if name not in memory.of_agents}
        memory.of_agents = []
    memory.text = b"\n\n".join(block for kind, block in told if kind != b"agents")
    memory.text_with_agents = memory.text if has_claude_md else b"\n\n".join(block for _, block in told)
    return memory


def _part(field: bytes) -> _Part | None:
    kind, base, path, *rest = field.split(b"\n", 3)
    if not rest or kind not in LABELS or not path.startswith(b"/"):
        return None
    return _Part(kind, base.decode("utf-8", "surrogateescape"), path, rest[0])


def _block(part: _Part, text: bytes) -> bytes:
    trimmed = text.decode("utf-8", "surrogateescape").strip(SPACE).encode("utf-8", "surrogateescape")
    return b"Contents of %s%s:\n\n%s" % (part.path, LABELS[part.kind], trimmed)


# Rules


def _globs_of(part: _Part, head: str, read_head: Callable[[str], dict[str, Any]], memory: Memory) -> list[str] | None:
    """Return the globs of a rule, or None if it applies everywhere."""
    try:
        return globs_of(read_head(head).get("paths"))
    except ValueError as error:
        memory.notes.append(f"paths of {part.path.decode('utf-8', 'replace')} is left out: {error}")
        return None


def _add_rule(
    part: _Part, globs: list[str] | None, text: bytes, cwd: str, memory: Memory, paths: dict[str, list[str]]
) -> None:
    """Add a rule whose globs the CLI reads relative to `cwd`. `paths` are those of the rules before; a file that two
    directories import is told in both."""
    name = "rules" + part.path.decode("utf-8", "surrogateescape")
    name += "" if name.endswith(".md") else ".md"
    if not is_path(name):
        memory.notes.append(f"{shown(name[5:])[1:-1]} is left out: its name is too long")
        return
    written = moved(globs, part.base, cwd)
    if not written or len(paths.get(name, ())) > MAX_PATHS:
        return
    if part.kind == b"agents" and name not in paths:
        memory.of_agents.append(name)
    paths[name] = list(dict.fromkeys([*paths.get(name, ()), *written]))
    memory.rules[name] = f"---\npaths: {as_text(paths[name])}\n---\n".encode("utf-8", "surrogateescape") + text

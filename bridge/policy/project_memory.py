"""Composes what Claude is told of the project's CLAUDE.md files and rules.

The CLI gets them as files of its own configuration directory, because it may not read the workspace's: CLAUDE.md holds
everything that is told at the start, below the same headings as in the CLI. What is told when Claude reads a matching
file (rules with `paths`, and the CLAUDE.md files of directories below) becomes a rule with `paths` of its own.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from bridge.policy.documents import is_path
from bridge.policy.heads import split_head
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
MAX_GLOBS = 200
"""Globs of one rule, with its braces expanded. A rule that has more is left out with a note."""

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
            _add_rule(part, globs, text, cwd, memory)
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
        globs = list(_expanded(read_head(head).get("paths")))
    except ValueError as error:
        memory.notes.append(f"paths of {part.path.decode('utf-8', 'replace')} is left out: {error}")
        return None
    globs = [glob.removesuffix("/**") if glob.endswith("/**") else glob for glob in globs]
    globs = [glob for glob in globs if glob]
    return None if all(glob == "**" for glob in globs) else globs


def _expanded(value: Any) -> Iterator[str]:
    """Yield the globs in the field `paths`: a list or a text, with commas, with braces. Raises ValueError."""
    texts = value if isinstance(value, list) else [value]
    count = 0
    for text in texts:
        if isinstance(text, list):
            yield from _expanded(text)
        for glob in _split(text) if isinstance(text, str) else ():
            waiting = [glob]
            while waiting:
                one = waiting.pop(0)
                braces = re.match(r"([^{]*)\{([^}]+)\}(.*)$", one, re.DOTALL)
                if braces:
                    waiting[:0] = [braces[1] + word.strip() + braces[3] for word in braces[2].split(",")]
                else:
                    yield one
                count += 1
                if count > MAX_GLOBS or len(waiting) > MAX_GLOBS:
                    raise ValueError(f"it has more than {MAX_GLOBS} globs")


def _split(text: str) -> Iterator[str]:
    """Yield the parts between commas that are in no braces."""
    depth, start = 0, 0
    for at, sign in enumerate(text + ","):
        depth += (sign == "{") - (sign == "}")
        if sign == "," and (depth == 0 or at == len(text)):
            if text[start:at].strip():
                yield text[start:at].strip()
            start = at + 1


def _add_rule(part: _Part, globs: list[str] | None, text: bytes, cwd: str, memory: Memory) -> None:
    """Add a rule whose globs the CLI reads relative to `cwd`."""
    if globs is None:
        globs = ["**"]
    if part.base.startswith(cwd.rstrip("/") + "/"):
        below = _escaped(part.base[len(cwd.rstrip("/")) + 1 :])
        written = [_below(glob, below) for glob in globs]
    else:
        steps = cwd[len(part.base.rstrip("/")) :].strip("/").split("/") if cwd != part.base else []
        written = [one for glob in globs if (one := _above(glob, steps))]
    if not written:
        return
    name = "rules" + part.path.decode("utf-8", "surrogateescape")
    if not name.endswith(".md"):
        name += ".md"
    if not is_path(name):
        memory.notes.append(f"{shown(name[5:])[1:-1]} is left out: its name is too long")
    elif name not in memory.rules:
        head = f"---\npaths: {json.dumps(written, ensure_ascii=True)}\n---\n".encode()
        memory.rules[name] = head + text
        if part.kind == b"agents":
            memory.of_agents.append(name)


def _escaped(path: str) -> str:
    """Return a path as a glob. The CLI splits globs at commas and braces before it looks at escapes."""
    return re.sub(r"[{},]", "?", re.sub(r"([\\*?\[\]!#])", r"\\\1", path))


def _below(glob: str, directory: str) -> str:
    """Return a glob that is relative to a directory, as one that is relative to the directory above it."""
    sign, glob = ("!", glob[1:]) if glob.startswith("!") else ("", glob)
    if glob == "**":
        return f"{sign}/{directory}/*"
    if "/" in glob.rstrip("/"):
        return f"{sign}/{directory}/{glob.lstrip('/')}"
    return f"{sign}/{directory}/**/{glob}"


def _above(glob: str, steps: list[str]) -> str | None:
    """Return a glob that is relative to a directory, as one that is relative to a directory `steps` below it.

    Returns None if nothing below matches.
    """
    sign, rest = ("!", glob[1:]) if glob.startswith("!") else ("", glob)
    name = rest.removeprefix("**/").rstrip("/")
    if "/" not in name and any(re.fullmatch(_as_pattern(name), step) for step in steps):
        return f"{sign}/*"  # the glob names a directory above, and so everything in it
    if not steps or "/" not in rest.rstrip("/") or rest.startswith("**/"):
        return glob
    words = rest.lstrip("/").split("/")
    for step in steps:
        if not words or words[0] == "**":
            break
        if not re.fullmatch(_as_pattern(words.pop(0)), step):
            return None
    return f"{sign}/{'/'.join(words)}" if words else f"{sign}/*"


def _as_pattern(word: str) -> str:
    """Return a regular expression for one name of a glob."""
    return "".join({"*": "[^/]*", "?": "[^/]"}.get(sign, re.escape(sign)) for sign in word)

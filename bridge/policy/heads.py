"""Heads of Markdown files: fields in YAML between two lines of hyphens, as the CLI reads them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import yaml

Json = dict[str, Any]

MAX_HEAD = 64 * 1024
"""Characters of one head."""
MAX_HEADS = 1024 * 1024
"""Characters of YAML that are parsed for all heads together. Heads of plain lines need no parser, so they do not
count."""
MAX_PARTS = 128 * 1024
"""Values, lists and objects in all these heads together, as the parser counts them: the time goes by their number. It
takes up to 1 s, in a policy worker that has 10 s. A head that people write has one for 10 characters or more."""

MAX_ALIASES = 16
MAX_DEPTH = 64
"""Lists and objects in each other. The parser takes quadratic time for them."""

_SPACE = r"[\t\n\v\f\r \xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]"
_OPENING = re.compile(rf"---{_SPACE}*\n")
_CLOSING = re.compile(rf"---{_SPACE}*\n?")
"""The two ends of the CLI's own pattern, `---SPACE*\\n(.*?)---SPACE*\\n?`, with JavaScript's blanks. The head ends at
the next three hyphens, wherever they are. As one pattern it would take quadratic time where no hyphens follow."""
MARK = "\ufeff"

_TEXT = r"[A-Za-z](?:[^:#]|:(?! )|(?<! )#)*"
"""The start of a text without quotes, up to what would end it."""
_LINE = re.compile(rf"([A-Za-z_][\w-]*):[ ]+(?:\"((?:[^\"\\]|\\[\"\\])*)\"|'([^']*)'|(true|false)|({_TEXT}(?<!:)))")
_NO_TEXT = re.compile(r"true|false|null", re.IGNORECASE)
_BROKEN = re.compile(rf"[A-Za-z_-]+:[ ]+{_TEXT}:[ ].*")
"""People write `description: does this: that`. It is no YAML, but the CLI accepts it."""
_FIELD = re.compile(rf"([a-zA-Z_-]+):{_SPACE}+(\S.*)")
_SPECIAL = re.compile(r"[{}\[\]*&#!|>%@`]|: ")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Loads YAML 1.2, as the CLI does: `yes` and `12:30` are text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - the parent's attribute


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?", "-+0123456789."),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), [*_first])
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("$"), [""])

UNREADABLE = (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What PyYAML raises for invalid heads, such as endless numbers."""


def _untagged(loader: Any, _tag: str, node: yaml.Node) -> Any:
    """Return the value of a node with a tag that is not known. The CLI ignores tags."""
    if isinstance(node, yaml.ScalarNode):
        return node.value
    make = loader.construct_sequence if isinstance(node, yaml.SequenceNode) else loader.construct_mapping
    return make(node, deep=True)


_Loader.add_multi_constructor("", _untagged)


class LimitError(ValueError):
    """A file, or a part of it, is left out because a limit is hit. The text says which."""


def split_head(text: str) -> tuple[str | None, str, str]:
    """Return the head (None without one), the rest, and the byte-order mark if there is one."""
    mark = MARK if text.startswith(MARK) else ""
    bare = text[len(mark) :]
    opening = _OPENING.match(bare)
    end = bare.find("---", opening.end()) if opening else -1
    closing = _CLOSING.match(bare, end) if end >= 0 else None
    if opening is None or closing is None:
        return None, bare, mark
    return bare[opening.end() : end].replace("\r\n", "\n"), bare[closing.end() :], mark


def written(fields: Json, body: str) -> str:
    """Return a text with a head, one field a line, so that the CLI finds exactly these fields.

    Without fields there is no head. But if the CLI could take the start of the body for a head, an empty head is added.
    """
    if not fields and not re.match(rf"{_SPACE}*---", body):
        return body
    lines = "".join(f"{key}: {as_text(value)}\n" for key, value in fields.items())
    return f"---\n{lines or '{}' + chr(10)}---\n{body}"


def as_text(value: Any) -> str:
    """Return a value as JSON in one line, in which a YAML parser and the end of a head find nothing else."""
    whole = json.dumps(value, ensure_ascii=False, default=str)
    for character in ("\x7f", "\x85", "\u2028", "\u2029", MARK):  # YAML takes some of them for the end of a line
        whole = whole.replace(character, f"\\u{ord(character):04x}")
    return whole.replace("---", "\\u002d\\u002d\\u002d")  # three hyphens end a head


class Heads:
    """Parses heads, up to a total size and a total number of values."""

    def __init__(self) -> None:
        self._left = MAX_HEADS
        self._parts_left = MAX_PARTS

    def read(self, head: str) -> Json:
        """Return the fields of a head. Raises ValueError with the reason if it is not used."""
        if len(head) > MAX_HEAD:
            raise LimitError(f"its head has more than {MAX_HEAD} characters")
        plain = _plain(head)
        if plain is not None:
            return plain
        try:
            value = self._parsed(head)
        except LimitError:
            raise
        except UNREADABLE:
            return {}  # as in the CLI
        return value if isinstance(value, dict) else {}

    def _parsed(self, head: str) -> Any:
        try:
            return self._load(head)
        except yaml.YAMLError:
            lines = [_quoted(line, self._load) for line in head.split("\n")]
            return self._load("\n".join(re.sub(r"^\t+", lambda tabs: "  " * len(tabs[0]), line) for line in lines))

    def _load(self, text: str) -> Any:
        """Return the value of a text in YAML. Raises what UNREADABLE lists, and LimitError."""
        self._left -= len(text)
        if self._left < 0:
            raise LimitError(f"heads that are more than plain lines may have {MAX_HEADS} characters together")
        self._parts_left -= _count_checked(text, self._parts_left)
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader, in C if available


def _plain(head: str) -> Json | None:
    """Return the fields of a head in which each line is a name and a text, or None."""
    lines = [line for line in head.split("\n") if line.strip()]
    if not all(line.isprintable() for line in lines):
        return None
    if any(_BROKEN.fullmatch(line) for line in lines):
        if not all(_BROKEN.fullmatch(line) or _LINE.fullmatch(line.rstrip(" ")) for line in lines):
            return None
        lines = [_quoted(line, lambda _: None) for line in lines]  # those in brackets are none of these
    fields: Json = {}
    for line in lines:
        found = _LINE.fullmatch(line.rstrip(" "))
        if found is None:
            return None
        name, double, single, flag, text = found.groups()
        if text is not None and _NO_TEXT.fullmatch(text):
            return None
        if double is not None:
            fields[name] = re.sub(r"\\(.)", r"\1", double)
        else:
            fields[name] = flag == "true" if flag else single if single is not None else text
    return fields


def _quoted(line: str, load: Callable[[str], Any]) -> str:
    """Return a line of a head that is no YAML, with its text in quotes if it needs them."""
    field = _FIELD.fullmatch(line)
    if not field or not _SPECIAL.search(field[2]):
        return line
    name, text = field.groups()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return line
    if text[0] == "[" and text[-1] == "]":
        try:
            if isinstance(load(text), list):
                return line
        except yaml.YAMLError:
            pass  # so it is text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'{name}: "{escaped}"'


def _count_checked(text: str, limit: int) -> int:
    """Return how many parts a text in YAML has. Raises LimitError for more than the limit, for lists and objects in
    each other beyond MAX_DEPTH, and for aliases. Texts can be repeated by name, up to MAX_ALIASES times. Aliases in
    aliases grow without limit."""
    texts, aliases, depth, parts = set(), 0, 0, 0
    for parts, event in enumerate(yaml.parse(text, Loader=_Loader), 1):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.ScalarEvent) and event.anchor:
            texts.add(event.anchor)
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
            if event.anchor not in texts or aliases > MAX_ALIASES:
                raise LimitError("its head repeats itself by name")
        if depth > MAX_DEPTH:
            raise LimitError(f"its head has more than {MAX_DEPTH} lists and objects in each other")
        if parts > limit:
            raise LimitError(f"heads that are more than plain lines may have {MAX_PARTS} values together")
    return parts

"""Heads of Markdown files: fields in YAML between two lines of hyphens, as the CLI reads them."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

Json = dict[str, Any]

MAX_HEAD = 8 * 1024
"""Characters of one head."""
MAX_HEADS = 64 * 1024
"""Characters of YAML in all heads together. Parsing YAML takes a thousand times as long as parsing JSON. Heads of plain
lines need no parser, so they do not count."""

MAX_ALIASES = 16

_SPACE = r"[\t\n\v\f\r \xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]"
_OPENING = re.compile(rf"---{_SPACE}*\n")
_CLOSING = re.compile(rf"---{_SPACE}*\n?")
"""The two ends of the CLI's own pattern, `---SPACE*\\n(.*?)---SPACE*\\n?`, with JavaScript's blanks. The head ends at
the next three hyphens, wherever they are. As one pattern it would take quadratic time where no hyphens follow."""
MARK = "\ufeff"

_LINE = re.compile(
    r"([A-Za-z_][\w-]*):[ ]+(?:\"([^\"\\]*)\"|'([^']*)'|(true|false)|([A-Za-z](?:[^:#]|:(?! )|(?<! )#)*(?<!:)))"
)
_NO_TEXT = re.compile(r"true|false|null", re.IGNORECASE)


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


class _Aliases(Exception):
    """A head has aliases."""


class Heads:
    """Parses heads, up to a total size."""

    def __init__(self) -> None:
        self._left = MAX_HEADS

    def read(self, head: str) -> Json:
        """Return the fields of a head. Raises ValueError with the reason if it is not used."""
        if len(head) > MAX_HEAD:
            raise ValueError(f"its head has more than {MAX_HEAD} characters")
        plain = _plain(head)
        if plain is not None:
            return plain
        self._left -= len(head)
        if self._left < 0:
            raise ValueError(f"heads that are more than plain lines may have {MAX_HEADS} characters together")
        try:
            return _parsed(head)
        except _Aliases:
            raise ValueError("its head repeats itself by name") from None
        except UNREADABLE:
            return {}  # as in the CLI


def _plain(head: str) -> Json | None:
    """Return the fields of a head in which each line is a name and a text, or None."""
    fields: Json = {}
    for line in head.split("\n"):
        if not line.strip():
            continue
        found = _LINE.fullmatch(line.rstrip(" ")) if line.isprintable() else None
        if found is None:
            return None
        name, double, single, flag, text = found.groups()
        if text is not None and _NO_TEXT.fullmatch(text):
            return None
        fields[name] = flag == "true" if flag else next(value for value in (double, single, text) if value is not None)
    return fields


def _parsed(head: str) -> Json:
    try:
        _check_aliases(head)
        value = yaml.load(head, Loader=_Loader)  # noqa: S506 - a safe loader, in C if available
    except yaml.YAMLError:
        # People write `description: does this: that`, and the CLI accepts it.
        lines = [line for line in head.split("\n") if ":" in line and line[:1] not in " \t-"]
        value = {key.strip(): _value(rest.strip()) for key, _, rest in (line.partition(":") for line in lines)}
    return value if isinstance(value, dict) else {}


def _check_aliases(head: str) -> None:
    """Let texts be repeated by name, up to MAX_ALIASES times. Aliases in aliases grow without limit."""
    texts, count = set(), 0
    for event in yaml.parse(head, Loader=_Loader):
        if isinstance(event, yaml.ScalarEvent) and event.anchor:
            texts.add(event.anchor)
        elif isinstance(event, yaml.AliasEvent):
            count += 1
            if event.anchor not in texts or count > MAX_ALIASES:
                raise _Aliases


def _value(text: str) -> Any:
    """Return the value of a line's field. It is text if YAML does not take the line."""
    line = f"x: {text}"
    try:
        _check_aliases(line)
        return yaml.load(line, Loader=_Loader)["x"]  # noqa: S506 - a safe loader, in C if available
    except yaml.YAMLError:
        return text

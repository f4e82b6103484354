"""Reads the setting `claudeMdExcludes`: the CLAUDE.md files and rules that the project does not want.

The CLI applies it where it loads these files. Over the bridge the client loads them, so the client applies it. This
module is loaded only if a text names the setting.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterable

SETTING = b"claudeMdExcludes"
MAX_GLOBS = 200


def exclusion(texts: Iterable[bytes]) -> Callable[[bytes], bool]:
    """Return a function that says whether a path is excluded by one of these settings. They are JSON; other texts are
    ignored."""
    globs: list[str] = []
    for text in texts:
        try:
            found = json.loads(text.decode("utf-8", "replace").removeprefix("\ufeff"))["claudeMdExcludes"]
            globs += [glob for glob in found if isinstance(glob, str) and glob]
        except (ValueError, LookupError, TypeError, RecursionError):
            continue
    patterns: list[re.Pattern[str]] = []
    for glob in globs[:MAX_GLOBS]:
        # Several in a row mean the same as one, and would take exponential time.
        single = re.sub(r"(?:(?<=/)|^)(?:\*\*/)+", "**/", glob)
        with contextlib.suppress(re.error):  # a set such as [z-a] matches nothing
            patterns.append(re.compile(_pattern(single), re.DOTALL))
    return lambda path: any(pattern.fullmatch(path.decode("utf-8", "surrogateescape")) for pattern in patterns)


_PART = re.compile(
    r"(?P<above>(?:^|(?<=/))\*\*/)|(?P<below>/\*\*$)|(?P<star>\*+)|(?P<one>\?)|(?P<sign>\\.)|\[(?P<set>[^\]/]+)\]"
    r"|(?P<brace>[{},])|(?P<other>.)",
    re.DOTALL,
)
_SAME = {"above": "(?:.*/)?", "below": "(?:/.*)?", "star": "[^/]*", "one": "[^/]"}


def _pattern(glob: str) -> str:
    """Return a glob as a regular expression for whole paths."""
    if glob.startswith("!"):
        return f"(?!(?:{_pattern(glob[1:])})$).*"
    pattern, depth = "", 0
    for part in _PART.finditer(glob):
        kind, text = str(part.lastgroup), str(part[part.lastgroup or 0])
        if kind in _SAME:
            pattern += _SAME[kind]
        elif kind == "set":
            inner = re.sub(r"([\\\[&~|])", r"\\\1", text.lstrip("!^")).replace("--", r"-\-")
            pattern += f"[{'^' if text[0] in '!^' else ''}{inner or '!^'}]"
        elif text == "{" and "}" in glob[part.end() :]:
            pattern, depth = pattern + "(?:", depth + 1
        elif text in ("}", ",") and kind == "brace" and depth:
            pattern += ")" if text == "}" else "|"
            depth -= text == "}"
        else:
            pattern += re.escape(text[-1])
    return pattern + ")" * depth

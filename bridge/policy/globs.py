"""Globs in the field `paths` of rules and skills, as the CLI reads them: relative to a directory, as in .gitignore."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

MAX_GLOBS = 200
"""Globs of one field, with its braces expanded."""


def globs_of(value: Any) -> list[str] | None:
    """Return the globs in the field `paths`, or None if there is none that restricts anything. Raises ValueError."""
    found = [glob.removesuffix("/**") for glob in _expanded(value)]
    found = [glob for glob in found if glob]
    return None if all(glob == "**" for glob in found) else found


def moved(globs: list[str] | None, base: str, cwd: str) -> list[str]:
    """Return globs that are relative to the directory `base`, as globs that are relative to `cwd`.

    None is everything in `base`.
    """
    globs = ["**"] if globs is None else globs
    inside = cwd.rstrip("/") + "/"
    if base.startswith(inside):
        return [_below(glob, _escaped(base[len(inside) :])) for glob in globs]
    steps = cwd[len(base.rstrip("/")) :].strip("/").split("/") if cwd != base else []
    return [one for glob in globs if (one := _above(glob, steps))]


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
    if "/" not in name and any(_matches(name, step) for step in steps):
        return f"{sign}/*"  # the glob names a directory above, and so everything in it
    if not steps or "/" not in rest.rstrip("/") or rest.startswith("**/"):
        return glob
    words = rest.lstrip("/").split("/")
    for step in steps:
        if not words or words[0] == "**":
            break
        if not _matches(words.pop(0), step):
            return None
    return f"{sign}/{'/'.join(words)}" if words else f"{sign}/*"


def _escaped(path: str) -> str:
    """Return a path as a glob. The CLI splits globs at commas and braces before it looks at escapes."""
    return re.sub(r"[{},]", "?", re.sub(r"([\\*?\[\]!#])", r"\\\1", path))


def _matches(glob: str, name: str) -> bool:
    """Return whether a glob of one name matches it. `*` is any text, `?` one character.

    A regular expression would take exponential time for many stars.
    """
    at = of = 0
    star, tried = -1, 0
    while of < len(name):
        if at < len(glob) and glob[at] == "*":
            star, tried = at, of
            at += 1
        elif at < len(glob) and glob[at] in ("?", name[of]):
            at, of = at + 1, of + 1
        elif star >= 0:  # the last star takes one character more
            tried += 1
            at, of = star + 1, tried
        else:
            return False
    return not glob[at:].strip("*")

"""The names under which an image is published; docs/release.md has the table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)(-[0-9A-Za-z.-]+)?")
SHORT_REVISION = 12

Release = tuple[int, int, int]


def release(version: str) -> Release | None:
    """Return the three numbers of a release. None for a pre-release and for a commit between releases."""
    found = VERSION.fullmatch(version)
    return (int(found[1]), int(found[2]), int(found[3])) if found and not found[4] else None


def newest(released: Sequence[str]) -> str:
    """Return the git tag of the newest release; `main` when there is none. `released` is sorted from old to new."""
    found = [version for version in released if release(version)]
    return f"v{found[-1]}" if found else "main"


def tags(variant: str, version: str, revision: str, released: Iterable[str]) -> list[str]:
    """Return the names for an image of `version` and `revision`; `released` are the versions that git knows.

    A moving name (`latest`, `1`, `1.2`) belongs to the newest release that it can mean, so a late 1.2.9 takes no name
    from 2.0.0. A pre-release gets only its own version, and a commit between releases only its revision.
    """
    suffix = "-dev" if variant == "dev" else ""
    names: list[str] = []
    this = release(version)
    if this:
        others = [other for other in map(release, released) if other]
        newest_of = [("dev" if suffix else "latest", 0), (f"{this[0]}{suffix}", 1), (f"{this[0]}.{this[1]}{suffix}", 2)]
        names = [name for name, shared in newest_of if all(o <= this for o in others if o[:shared] == this[:shared])]
    if VERSION.fullmatch(version):
        names.append(version + suffix)
    if re.match("[0-9a-f]{40}", revision):
        dirty = "-dirty" if revision.endswith("-dirty") else ""
        names.append(f"sha-{revision[:SHORT_REVISION]}{dirty}{suffix}")
    return names[::-1]

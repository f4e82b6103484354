"""The workspace's protected paths, which `up` mounts read-only (AGENT_PROTECTED). They are checked at each start.

At a restart the engine mounts the same names again, and follows links. The host can have replaced a protected file,
which takes its mount away, and the agent can have put a link in its place: to any file of the host. So nothing of the
agent's is started unless each mount shows the workspace's own path.
"""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import TYPE_CHECKING

from agent.paths import WORKSPACE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

VARIABLE = "AGENT_PROTECTED"
"""The paths, relative to the workspace, as a list in JSON."""


def problem(environ: Mapping[str, str], table: str) -> str:
    """Return why nothing may be started; empty if all is well. `table` is the text of /proc/self/mountinfo."""
    wrong = astray(paths(environ), table)
    if not wrong:
        return ""
    return (
        f"{WORKSPACE}/{wrong[0]} is to be protected, and is a link or a mount of something else on the host, so "
        "nothing is started; type `bin/invoke up` there"
    )


def paths(environ: Mapping[str, str]) -> list[str]:
    """Return the protected paths."""
    found: list[str] = json.loads(environ.get(VARIABLE) or "[]")
    return found


def astray(wanted: Iterable[str], table: str) -> list[str]:
    """Return those paths, or directories above them, that are no mounts of the workspace's own path any more.

    `table` is the text of a container's mountinfo.
    """
    points = _points(table)
    device, top = points.get(WORKSPACE, ("", ""))
    parts = dict.fromkeys(part for path in wanted for part in accumulate(path.split("/"), "{}/{}".format))
    return [part for part in parts if points.get(f"{WORKSPACE}/{part}") != (device, f"{top.rstrip('/')}/{part}")]


def _points(table: str) -> dict[str, tuple[str, str]]:
    """Return what is mounted in the workspace: device and path there, by mount point. The last at a point counts."""
    found = {}
    for line in filter(None, table.split("\n")):
        device, root, point = line.split(" ", 5)[2:5]
        if point.startswith(WORKSPACE):
            found[_unescaped(point)] = device, _unescaped(root)
    return found


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text) if "\\" in text else text

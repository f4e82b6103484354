"""Saves the text of the panes in /agent/scrollback: readable text, a limited number of files, the newest ones."""

from __future__ import annotations

import contextlib
import os
import re
import time
from typing import TYPE_CHECKING

from agent.files import open_plain

if TYPE_CHECKING:
    from pathlib import Path

    from agent.files import Report
    from agent.tmux import Pane, Tmux

KEPT_FILES = 40
MOST_LINES = 10_000
"""At 200 columns this is 2 MB a file, so 80 MB in the worst case. A usual screenful is 4 KB."""


async def save(tmux: Tmux, directory: Path, pane: Pane, report: Report, stamp: str | None = None) -> None:
    """Write one pane's history and screen.

    tmux writes the file itself, so the text never passes through this process. A second call with the same stamp
    replaces the first file.
    """
    stamp = stamp or now_stamp()
    name = re.sub(r"[^\w.-]", "_", f"{pane.session}-{pane.window_index}-{pane.window_name}")[:60]
    path = directory / f"{stamp}-{name}-{pane.pane.lstrip('%')}.txt"
    fd = open_plain(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, report, 0o600)
    try:
        await tmux.send(["capture-pane", "-p", "-J", "-t", pane.pane, "-S", f"-{MOST_LINES}"], stdout=fd)
    finally:
        os.close(fd)
    forget_old(directory)


def now_stamp() -> str:
    """Return the present second in the form used in file names."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())


def forget_old(directory: Path) -> None:
    """Remove all files but the newest. Names begin with the time."""
    for path in sorted(directory.glob("*.txt"))[:-KEPT_FILES]:
        with contextlib.suppress(OSError):  # ignored because another user's agent limits its own files
            path.unlink()

"""Says why nobody answers where no supervisor runs."""

from __future__ import annotations

from pathlib import Path

ENTRYPOINT = b"agent-entrypoint"

REPLACED = (
    "no supervisor runs here; the entry point was replaced, so there is no session, no health, no restart, no clean "
    "stop, and no name for a user other than 1000; start the container without `--entrypoint` "
    '(devcontainer.json: "overrideCommand": false)'
)


def why_missing() -> str:
    """Return a sentence when no process of this container is the entry point, or is about to become it."""
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = cmdline.read_bytes().split(b"\0")
        except OSError:  # ignored because the process has ended
            continue
        if any(word.rpartition(b"/")[2] == ENTRYPOINT for word in words):
            return ""
    return REPLACED

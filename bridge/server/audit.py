"""Who called what, as JSON lines; never a word of a prompt, never a secret."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from bridge.policy.flags import BY_NAME, CLOSED

TELLING = frozenset({
    "--output-format", "--input-format", "--model", "--fallback-model", "--permission-mode", "--max-turns",
    "--effort", "--permission-prompt-tool", "--setting-sources", "--session-id",
})  # fmt: skip
"""Flags of which the value is written down; of any other only its length."""


class Audit:
    """The log, moved aside to NAME.1 when it has grown to its size."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size

    def write(self, event: str, **facts: Any) -> None:
        """Add one line. A full disk must not end calls: then the line goes to stderr."""
        entry = {"time": round(time.time(), 3), "event": event, **facts}
        line = json.dumps(entry, default=str, ensure_ascii=True) + "\n"
        try:
            self._append(line.encode())
        except OSError as error:
            os.write(2, f"bridge: audit log {self._path}: {error}; {line}".encode())

    def _append(self, line: bytes) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._path, flags, 0o600)
        try:
            if os.fstat(fd).st_size + len(line) > self._size:
                self._path.replace(self._path.with_name(self._path.name + ".1"))
                os.close(fd)
                fd = os.open(self._path, flags, 0o600)
            os.write(fd, line)
        finally:
            os.close(fd)


def outline(argv: list[str]) -> list[str]:
    """The arguments without their text: names of flags, values that tell nothing of anyone, lengths."""
    shown = []
    previous = ""
    for word in argv:
        name, equals, value = word.partition("=")
        if word.startswith("-") and (name in BY_NAME or name in CLOSED):
            shown.append(name if not equals else f"{name}={_value(name, value)}")
            previous = name
        else:
            shown.append(_value(previous, word))
            previous = ""
    return shown


def _value(name: str, value: str) -> str:
    return value[:80] if name in TELLING else f"<{len(value)}>"

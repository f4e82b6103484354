"""What an interactive session does, as hooks of the bridge's own tell it (sandbox/shim.py). Pure.

The container can forge these messages, by a hook of its own with the same command, and can withhold them. They decide
what `status` shows of the container's own grant and when its session may sleep, and nothing else.
"""

from __future__ import annotations

import dataclasses
import re

SESSION = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
WORD = re.compile(rb"[A-Za-z][A-Za-z0-9_.:-]{0,127}")


@dataclasses.dataclass(frozen=True)
class SessionEvent:
    """One event of a session."""

    name: str
    session: str
    """The conversation's id, or nothing."""
    detail: str
    """What is started, what a notification is about, or the tool that asks."""


def read_event(fields: list[bytes]) -> SessionEvent | None:
    """Return the event of a message; None if it is no message of the shim's."""
    if len(fields) != 5 or not WORD.fullmatch(fields[0]):
        return None
    session = fields[1] if SESSION.fullmatch(fields[1]) else b""
    detail = next((field for field in fields[2:] if WORD.fullmatch(field)), b"")
    return SessionEvent(fields[0].decode(), session.decode(), detail.decode())

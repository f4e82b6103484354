"""The meaning of a registry's errors for people, and which of them may be temporary."""

from __future__ import annotations

import re
from dataclasses import dataclass

WAITS_S = (1, 3, 9)
"""Seconds before each new attempt, where another attempt may help."""


@dataclass(frozen=True)
class Fault:
    """A pattern for what Docker's command prints, its meaning, and whether another attempt may help."""

    pattern: str
    meaning: str
    passes: bool = False

    def explain(self, reference: str) -> str:
        """Return the meaning, with the registry of `reference` filled in."""
        host = reference.split("/", 1)[0] if re.match(r"[^/]*[.:]|localhost/", reference) else "docker.io"
        return self.meaning.format(host=host)


FAULTS = (
    Fault(
        r"no basic auth credentials|unauthorized|authentication required|authorization failed|incorrect username",
        "the registry does not know you; run `docker login {host}`",
    ),
    Fault(r"denied|forbidden", "your account may not push there; check --registry, or log in as another"),
    Fault(
        r"server gave HTTP response to HTTPS client",
        "the registry speaks no TLS; use one that does, or allow it as insecure in the engine's configuration",
    ),
    Fault(
        r"connection refused|no such host|network is unreachable|i/o timeout|server misbehaving",
        "the registry cannot be reached; is the name right, is it up?",
        passes=True,
    ),
    Fault(
        r"unexpected (HTTP )?status.*: 5|unknown: internal|EOF|connection reset|broken pipe|timeout"
        r"|toomanyrequests|\b429 ",
        "the registry broke off",
        passes=True,
    ),
)


def find(line: str) -> Fault | None:
    """Return the known fault that a line of Docker's command shows, or None."""
    return next((each for each in FAULTS if re.search(each.pattern, line, re.IGNORECASE)), None)

"""A person's terminal that is attached to an agent's session, as bytes."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import struct
import subprocess
import termios
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.containers import Agent
from tests.support.waiting import wait_until

ROWS, COLUMNS = 24, 77
ATTACH = ("tmux", "attach")
DETACH = b"\x02d"
RUNS = itertools.count(1)
SECONDARY_ATTRIBUTES = b"\x1b[>41;388;0c"
"""What a terminal answers to tmux's first question. tmux asks it for extended keys after that."""
KEYS_ARE_ON = "\x1b[>4;1m"
SHIFT_ENTER = b"\x1b[13;2u"


@dataclass
class Attached:
    """A terminal that is attached to the agent's session."""

    terminal: int
    client: subprocess.Popen[bytes]
    shown: bytes = b""

    def sees(self, text: str) -> bool:
        """Read new output. Say whether the whole output so far holds the text."""
        with contextlib.suppress(BlockingIOError, OSError):  # ignored because there is no more output
            while chunk := os.read(self.terminal, 65536):
                self.shown += chunk
        return text.encode() in self.shown

    def wait(self, text: str) -> None:
        wait_until(lambda: self.sees(text), 10, f"{text[:50]!r} on the terminal")

    def type(self, data: bytes) -> None:
        os.write(self.terminal, data)

    def has_left(self) -> bool:
        """Ask the client to leave. tmux takes keys that come together with others as pasted, so it is asked again."""
        with contextlib.suppress(OSError):  # ignored because it has left already
            self.type(DETACH)
        return self.client.poll() is not None

    def run(self, *commands: str) -> None:
        """Run commands of the pane's shell to their end."""
        number = next(RUNS)
        for command in commands:
            self.type(f"clear; {command}; ".encode())
        self.type(f"echo ended''-{number}\r".encode())
        self.wait(f"ended-{number}")


@contextlib.contextmanager
def attached(agent: Agent, term: str = "", command: list[str] | None = None, **variables: str) -> Iterator[Attached]:
    """Attach as people do, and leave. Without `term`, Docker chooses the terminal's name."""
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    command = command or ["docker", "exec", "-it", *(["--env", f"TERM={term}"] if term else []), agent.id, *ATTACH]
    client = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env={**os.environ, **variables},
    )
    os.close(theirs)
    made = Attached(ours, client)
    try:
        made.wait("%session-changed" if "-CC" in command else " UTC")
        yield made
    finally:
        wait_until(made.has_left, 10, "the client to leave")
        os.close(ours)

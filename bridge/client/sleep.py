"""A session that is asleep: the host has ended its CLI, and this process waits for somebody who wants to go on.

A key, a paste, the focus or a new size of the terminal (somebody attaches to tmux) ends the wait. What was typed or
pasted is not lost: the session gets it. A key without text (Enter, an arrow) only wakes.
"""

from __future__ import annotations

import os
import select

from bridge.client.terminal import INPUT, size
from bridge.protocol.keys import REPORT, TEXT, Keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable

    from bridge.client.terminal import Terminal

LINE = b"asleep; any key goes on"
WATCH = b"\x1b[?2004h\x1b[?1004h"
"""The terminal marks what is pasted, and tells when it gets the focus."""
WATCH_NO_MORE = b"\x1b[?2004l\x1b[?1004l"
GO_ON = b"\x1b[?1004l"
"""What is pasted stays marked until the CLI asks for it itself: a line in it is no Enter meanwhile."""
STOP = b"\x1a"
HANGUP_CODE = 129
"""The exit code when the terminal has gone: that of a hang-up."""


class Sleeper:
    """Waits at the terminal. `stirred` can be read when its size has changed."""

    def __init__(self, terminal: Terminal, stirred: int) -> None:
        self._terminal = terminal
        self._stirred = stirred
        self._keys = Keys()
        lines = size()[0] - 1
        _write(b"\r\n" * lines + b"\x1b[H")  # what was on the screen stays above it, to scroll back to

    def wait(self, sock: _socket.socket | None, on_host: Callable[[], int | None], why: str) -> bytes | int:
        """Wait until somebody wants to go on. Returns what was typed, or an exit code if the call is over.

        `on_host` handles what comes on `sock`; after it, the socket may have come to its end, and is left alone.
        `why` says why the session could not go on.
        """
        self._show(why)
        while True:
            host = -1 if sock is None else sock.fileno()
            ready = select.select([fd for fd in (INPUT, self._stirred, host) if fd >= 0], [], [])[0]
            if host in ready:
                code = on_host()
                if code is not None:
                    return code
                if sock is not None and _has_ended(sock):
                    sock = None
            if self._stirred in ready:
                os.read(self._stirred, 64)
                return self._leave(b"")
            if INPUT in ready:
                keys = self._read()
                if keys is not None:
                    return keys

    def _read(self) -> bytes | int | None:
        """Read the keyboard. Returns the same as `wait`, or None if there was no key."""
        try:
            data = os.read(INPUT, 65536)
        except OSError:
            data = b""
        if not data:
            return HANGUP_CODE
        tokens = [(kind, text) for kind, text in self._keys.read(data) if kind != REPORT]
        if not tokens:
            return None
        if tokens[0][1] == STOP:
            self._suspend()
            return None
        held = tokens if tokens[0][0] == TEXT else tokens[1:]
        return self._leave(b"".join(text for _, text in held) + self._keys.rest)

    def _suspend(self) -> None:
        """Handle Ctrl-Z: stop, as the CLI does. Without a shell, this returns at once."""
        import signal

        _write(WATCH_NO_MORE + b"\r\x1b[K")
        self._terminal.give_back()
        os.kill(os.getpid(), signal.SIGTSTP)
        self._terminal.take()
        self._show("")

    def _show(self, why: str) -> None:
        reason = f"bridge: {why}\r\n".encode("utf-8", "replace") if why else b""
        _write(WATCH + b"\r\x1b[K" + reason + b"\x1b[2m" + LINE + b"\x1b[0m\x1b[?25l")

    def _leave(self, keys: bytes) -> bytes:
        _write(GO_ON + b"\r\x1b[K\x1b[?25h")
        return keys


def _has_ended(sock: _socket.socket) -> bool:
    """Return whether the other side has closed the connection."""
    import _socket

    try:
        return not sock.recv(1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _write(data: bytes) -> None:
    try:
        os.write(1, data)
    except OSError:
        return  # the terminal has gone; the next read says so

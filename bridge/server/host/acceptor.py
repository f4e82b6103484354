"""Accepts the connections of a listening socket, and pauses while the process has no free descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

RETRY_S = 0.1
"""Pause after a failed accept(), seconds. The listener stays readable, so retrying at once would use all CPU time."""


class Acceptor:
    """Calls `take` with each connection. The socket then belongs to `take`; it is non-blocking."""

    def __init__(self, listener: socket.socket, take: Callable[[socket.socket], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._take = take
        self._timer: asyncio.TimerHandle | None = None
        self._resume()

    def close(self) -> None:
        """Stop accepting. The listener still belongs to the caller, who closes it."""
        if self._timer is not None:
            self._timer.cancel()
        with contextlib.suppress(ValueError):  # ignored because the listener is already closed
            self._loop.remove_reader(self._listener.fileno())

    def _resume(self) -> None:
        self._timer = None
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            accepted, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError:  # EMFILE, ENFILE, ENOBUFS, ENOMEM
            self._loop.remove_reader(self._listener.fileno())
            self._timer = self._loop.call_later(RETRY_S, self._resume)
            return
        accepted.setblocking(False)
        self._take(accepted)

"""Collects the signals and terminal sizes of one call, which a client may send by the thousand, and passes them on
in rounds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

INTERVAL_S = 0.02
"""Seconds between two rounds. Each signal is delivered once a round. Only the last size is delivered."""


class SignalRelay:
    """Collects what a client sends and delivers it in rounds.

    `signal` gets the number of a signal; `resize` gets the terminal's rows and columns.
    """

    def __init__(self, signal: Callable[[int], None], resize: Callable[[int, int], None]) -> None:
        self._signal = signal
        self._resize = resize
        self._signals: dict[int, None] = {}
        self._size: tuple[int, int] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def add_signal(self, number: int) -> None:
        """Store a signal for the next round."""
        self._signals[number] = None

    def add_size(self, rows: int, columns: int) -> None:
        """Store the terminal's size for the next round."""
        self._size = rows, columns

    def flush(self) -> None:
        """Deliver what was stored, unless the last round was less than INTERVAL_S ago."""
        if self._timer is None:
            self._deliver()

    def close(self) -> None:
        """Deliver nothing more."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _deliver(self) -> None:
        self._timer = None
        signals, size, self._signals, self._size = self._signals, self._size, {}, None
        if self._is_closed or not (signals or size):
            return
        self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self._deliver)
        if size is not None:
            self._resize(*size)
        for number in signals:
            self._signal(number)

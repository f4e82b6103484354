"""Moves bytes between the pipes of a process and a channel, no faster than the receiver accepts them."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable


class OutputPump:
    """Reads one pipe while there is credit for it.

    `allowance` returns how many bytes may be delivered now. `deliver` gets the bytes; empty data is the end.
    """

    def __init__(self, fd: int, allowance: Callable[[], int], deliver: Callable[[bytes], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._allowance = allowance
        self._deliver = deliver
        self._reading = False
        self.open = True

    def kick(self) -> None:
        """Check again whether to read: credit or buffer space has changed."""
        wanted = self.open and self._allowance() > 0
        if wanted and not self._reading:
            self._loop.add_reader(self._fd, self.read)
        elif not wanted and self._reading:
            self._loop.remove_reader(self._fd)
        self._reading = wanted

    def read(self) -> None:
        """Deliver what the pipe holds now, within the credit."""
        size = self._allowance() if self.open else 0
        if size <= 0:
            self.kick()
            return
        try:
            data = os.read(self._fd, size)
        except BlockingIOError:
            return
        except OSError:  # a terminal whose last process is gone
            data = b""
        if not data:
            self.close()
        self._deliver(data)
        self.kick()

    def close(self) -> None:
        """Stop reading."""
        if self.open:
            self.open = False
            if self._reading:
                self._loop.remove_reader(self._fd)
                self._reading = False
            os.close(self._fd)


class InputPump:
    """Writes to one pipe or file. `drained` is called when nothing is left to write."""

    def __init__(self, fd: int | None, drained: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._drained = drained
        self._buffer = bytearray()
        self._writing = False
        self._ended = False
        self._is_file = fd is not None and stat.S_ISREG(os.fstat(fd).st_mode)

    @property
    def pending(self) -> int:
        """Bytes that are not written yet."""
        return len(self._buffer)

    def write(self, data: bytes) -> None:
        """Write data as soon as the pipe accepts it. If its reader is gone, the data is dropped."""
        if self._fd is not None and not self._ended:
            self._buffer += data
            if not self._writing:
                self._write()
        if not self._buffer:
            self._drained()

    def end(self) -> None:
        """Close the pipe once everything is written."""
        self._ended = True
        if not self._buffer:
            self.close()

    def _write(self) -> None:
        if self._fd is None:
            return
        try:
            written = os.write(self._fd, self._buffer)
            while self._is_file and written < len(self._buffer):  # nearly full; there is no event for space in a file
                written += os.write(self._fd, self._buffer[written:])
        except BlockingIOError:
            written = 0
        except OSError:  # the reader is gone, or the disk is full: drop the data
            self.close()
            self._drained()
            return
        del self._buffer[:written]
        waiting = bool(self._buffer)
        if waiting and not self._writing:
            self._loop.add_writer(self._fd, self._write)
        elif not waiting and self._writing:
            self._loop.remove_writer(self._fd)
            self._writing = False
            self._drained()
        self._writing = waiting
        if not waiting and self._ended:
            self.close()

    def close(self) -> None:
        """Close the pipe at once."""
        if self._fd is not None:
            if self._writing:
                self._loop.remove_writer(self._fd)
                self._writing = False
            os.close(self._fd)
            self._fd = None
            self._buffer.clear()

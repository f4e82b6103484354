"""The agent's command in a chaos run: writes numbered records to each volume.

Each record is acknowledged once it is on the disk. The program runs in the container and uses only the standard
library. A record is the line `NUMBER CRC32`. The file /acks/VOLUME lies on the host and holds the number of each record
that fsync has confirmed.
"""

from __future__ import annotations

import os
import time
import zlib

VOLUMES = ("workspace", "shared", "agent")
ACKS = "/acks"
PAUSE_S = 0.02


def record(number: int) -> bytes:
    """Return the line of a record."""
    text = b"%08d" % number
    return b"%s %08x\n" % (text, zlib.crc32(text))


class Records:
    """The records of one volume. A new run continues where the last one was cut off."""

    def __init__(self, volume: str) -> None:
        self._fd = os.open(f"/{volume}/records", os.O_RDWR | os.O_CREAT, 0o666)
        self._acks = os.open(f"{ACKS}/{volume}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self._number = os.fstat(self._fd).st_size // len(record(0))

    def add(self) -> None:
        """Write one record and acknowledge it. On a full disk, neither is done."""
        line = record(self._number)
        try:
            written = os.pwrite(self._fd, line, self._number * len(line))
            os.fsync(self._fd)
        except OSError:
            return
        if written == len(line):
            os.write(self._acks, b"%d\n" % self._number)
            self._number += 1


def main() -> None:
    """Add records to every volume, for ever."""
    opened: dict[str, Records] = {}
    while True:
        for volume in VOLUMES:
            try:
                if volume not in opened:
                    opened[volume] = Records(volume)
                opened[volume].add()
            except OSError:
                continue  # ignored because a full volume is one of the faults; the next round tries again
        time.sleep(PAUSE_S)  # the pace of this writer; it waits for nothing


if __name__ == "__main__":
    main()

"""Run a program, show its output, and keep the end of the output to explain a failure."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Mapping

TAIL_BYTES = 65536  # a failing step of buildx repeats its last lines at the end; those of npm and apt fit many times


def run(command: list[str], environment: Mapping[str, str]) -> tuple[int, str]:
    """Run `command` and copy its output to standard error at once. Returns its exit code and the end of its output.

    When standard error is a terminal, the program gets a terminal too, so that it shows its progress as usual.
    """
    on_terminal = sys.stderr.isatty()
    source, sink = _terminal_pair() if on_terminal else os.pipe()
    try:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
    except FileNotFoundError:
        os.close(source)
        return 127, f"ERROR: {command[0]} is not installed"
    finally:
        os.close(sink)
    try:
        tail = _pass_on(source)
        return process.wait(), tail.decode(errors="replace")
    except KeyboardInterrupt:
        process.wait()  # Ctrl-C reached the program too, and it cleans up
        raise
    finally:
        os.close(source)


def _terminal_pair() -> tuple[int, int]:
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, termios.tcgetwinsize(sys.stderr.fileno()))
    return master, slave


def _pass_on(source: int) -> bytes:
    tail = b""
    with contextlib.suppress(OSError):  # a terminal reports its end of file as EIO
        while chunk := os.read(source, 65536):
            sys.stderr.buffer.write(chunk)
            sys.stderr.buffer.flush()
            tail = (tail + chunk)[-TAIL_BYTES:]
    return tail

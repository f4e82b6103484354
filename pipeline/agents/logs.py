"""Print containers' output for people. Control characters are removed, so that it cannot control the terminal."""

from __future__ import annotations

import contextlib
import subprocess
import sys

from pipeline.errors import NO_DOCKER_COMMAND, Problem

LONGEST_PIECE = 65_536  # bytes read at once: a line may have no end


def show(container: str, tail: str, *, follow: bool) -> int:
    """Print the log of a container. Returns the exit code of Docker's command."""
    if tail != "all" and not (tail.isascii() and tail.isdigit()):  # Docker takes anything else for all
        raise Problem(f"--tail is {plain(tail)!r}; give a number of lines, or all", 64)
    command = ["docker", "logs", "--tail", tail, *(["--follow"] if follow else []), container]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except FileNotFoundError:
        raise Problem(NO_DOCKER_COMMAND) from None
    with process, contextlib.suppress(KeyboardInterrupt):  # ignored because people end following with Ctrl-C
        assert process.stdout is not None
        while piece := process.stdout.readline(LONGEST_PIECE):
            sys.stdout.write(plain(piece.decode(errors="replace")))
            sys.stdout.flush()
    return process.returncode


def plain(text: str) -> str:
    """Replace each control character in a text by a question mark."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)

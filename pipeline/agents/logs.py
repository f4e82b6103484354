"""What containers say, shown to people: none of it may steer the terminal that it is shown on."""

from __future__ import annotations

import contextlib
import subprocess
import sys

from pipeline.errors import NO_DOCKER_COMMAND, Problem

LONGEST_PIECE = 65_536  # bytes of a line at a time: a line may have no end


def show(container: str, tail: str, *, follow: bool) -> int:
    """Print what a container said; returns the exit code of Docker's command."""
    command = ["docker", "logs", "--tail", tail, *(["--follow"] if follow else []), container]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except FileNotFoundError:
        raise Problem(NO_DOCKER_COMMAND) from None
    with process, contextlib.suppress(KeyboardInterrupt):  # ignored because that is how following is ended
        assert process.stdout is not None
        while piece := process.stdout.readline(LONGEST_PIECE):
            sys.stdout.write(plain(piece.decode(errors="replace")))
            sys.stdout.flush()
    return process.returncode


def plain(text: str) -> str:
    """Return a text with a question mark for each control character."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)

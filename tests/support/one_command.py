"""Runs one command in a new directory and reports what it did; sent into a container with `python3 -c`.

The only argument is an `Order` as JSON. The answer is one JSON object on stdout: code, seconds, stdout, stderr, files.
The directory's earlier content is removed first, and no process of the command is left.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any, TypedDict

LIMIT_S = 240
"""Upstream takes 6 s on an idle processor. A machine that builds and tests at once is ten times slower."""


class Order(TypedDict):
    """What to run, and in which environment."""

    root: str  # made new, with home/, tmp/ and project/ below it; the command runs in project/
    files: dict[str, str]  # written below root first
    argv: list[str]
    env: dict[str, str]
    stdin: str
    terminal: bool  # stdout and stderr are one terminal of 100 columns
    dialogue: list[dict[str, Any]]  # JSON-RPC messages, each sent when the one before it has been answered
    until: str  # the dialogue goes on until a line of stdout holds this


def main(order: Order) -> dict[str, Any]:
    """Carry out the order. Returns the answer."""
    root = Path(order["root"])
    _plant(root, order["files"])
    begun = time.monotonic()
    if order["terminal"]:
        code, stdout, stderr = _in_terminal(order, root)
    else:
        code, stdout, stderr = _in_pipes(order, root)
    seconds = time.monotonic() - begun
    return {"code": code, "seconds": seconds, "stdout": stdout, "stderr": stderr, "files": _found(root)}


def _plant(root: Path, files: dict[str, str]) -> None:
    shutil.rmtree(root, ignore_errors=True)
    for name in ("home", "tmp", "project"):
        (root / name).mkdir(parents=True)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def _environment(order: Order, root: Path) -> dict[str, str]:
    own = {"HOME": f"{root}/home", "TMPDIR": f"{root}/tmp", "LANG": "C.UTF-8", "TERM": "xterm-256color"}
    return {"PATH": os.environ["PATH"], **own, **order["env"]}


def _in_pipes(order: Order, root: Path) -> tuple[int, str, str]:
    with subprocess.Popen(
        order["argv"],
        cwd=root / "project",
        env=_environment(order, root),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as child:
        said = b"".join(_dialogue(child, order))
        try:
            stdout, stderr = child.communicate(order["stdin"].encode(), LIMIT_S)
        finally:
            _end(child.pid)
    return child.returncode, _text(said + stdout), _text(stderr)


def _dialogue(child: subprocess.Popen[bytes], order: Order) -> list[bytes]:
    """Send the messages. Returns the lines that were printed meanwhile."""
    assert child.stdin is not None
    assert child.stdout is not None
    lines: list[bytes] = []
    for message in order["dialogue"]:
        child.stdin.write(json.dumps(message).encode() + b"\n")
        child.stdin.flush()
        if "id" in message:
            lines += _up_to(child.stdout, partial(_answers, message["id"]))
    awaited = order["until"].encode()
    if awaited not in b"".join(lines):
        lines += _up_to(child.stdout, lambda line: awaited in line)
    return lines


def _answers(number: int, line: bytes) -> bool:
    return bool(json.loads(line).get("id") == number)


def _up_to(stream: IO[bytes], is_last: Callable[[bytes], bool]) -> list[bytes]:
    """Read lines up to the last one, or the end."""
    lines = []
    for line in iter(stream.readline, b""):
        lines.append(line)
        if is_last(line):
            break
    return lines


def _in_terminal(order: Order, root: Path) -> tuple[int, str, str]:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 100))
    with subprocess.Popen(
        order["argv"],
        cwd=root / "project",
        env=_environment(order, root),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as child:
        os.close(theirs)
        shown = b"".join(iter(lambda: _read(ours), b""))
        code = child.wait(LIMIT_S)
    os.close(ours)
    return code, _text(shown), ""


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""  # ignored because a terminal reports the end of its last process in this way


def _end(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # ignored because all processes have ended by themselves
        os.killpg(group, signal.SIGKILL)


def _found(root: Path) -> dict[str, str]:
    """Return all paths below root, each with its mode and content."""
    return {str(path.relative_to(root)): _content(path) for path in sorted(root.rglob("*"))}


def _content(path: Path) -> str:
    if path.is_symlink():
        return f"-> {path.readlink()}"
    mode = f"{path.stat().st_mode:o}"
    return mode if path.is_dir() else f"{mode} {_text(path.read_bytes())}"


def _text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "base64 " + base64.b64encode(content).decode()


if __name__ == "__main__":
    json.dump(main(json.loads(sys.argv[1])), sys.stdout)

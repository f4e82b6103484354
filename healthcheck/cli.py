"""`agent-status`: shows the agent's status to people, and with --json to programs.

It uses HTTP, so any user may run it.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
from typing import Any

from healthcheck.address import own_address
from healthcheck.supervisor import why_missing
from healthcheck.table import page

DEADLINE_S = 2.0
WATCH_S = 2.0

FINE, NOT_FINE, NO_ANSWER = 0, 1, 69

CLEAR = "\x1b[H\x1b[2J"


class NoAnswerError(Exception):
    """No agent answers. The text names the address that was asked."""


def main() -> int:
    """Print the status. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="agent-status",
        description="Show how this container's agent is.",
        epilog="Exit: 0 healthy or degraded, 1 otherwise, 69 when nothing answers within 2 s.",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--watch", action="store_true", help=f"show it anew every {WATCH_S:g} s until Ctrl-C")
    options = parser.parse_args()
    try:
        while True:
            code = _show(as_json=options.json, clear=options.watch and sys.stdout.isatty())
            if not options.watch:
                return code
            time.sleep(WATCH_S)
    except KeyboardInterrupt:
        return FINE
    except BrokenPipeError:  # the reader has ended, as in `agent-status --watch | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FINE


def ask(host: str, port: int, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
    """Fetch /status. The deadline is for the whole answer."""
    until = time.monotonic() + deadline_s
    where = f"{host} port {port}"
    data = b""
    try:
        with socket.create_connection((host, port), timeout=deadline_s) as connection:
            connection.sendall(b"GET /status HTTP/1.0\r\nHost: localhost\r\n\r\n")
            while chunk := _receive(connection, until):
                data += chunk
    except TimeoutError:
        raise NoAnswerError(f"{where} gave no answer in {deadline_s:g} s: the supervisor hangs") from None
    except OSError as error:
        raise NoAnswerError(f"{where} does not answer ({error.strerror})") from None
    try:
        found = json.loads(data.partition(b"\r\n\r\n")[2])
    except ValueError:
        found = None
    if not isinstance(found, dict) or "checks" not in found:
        raise NoAnswerError(f"{where} is something else than an agent")
    return found


def _receive(connection: socket.socket, until: float) -> bytes:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    connection.settimeout(left)
    return connection.recv(65536)


def _show(*, as_json: bool, clear: bool) -> int:
    try:
        status = ask(*own_address(os.environ))
    except (NoAnswerError, ValueError) as error:
        print(f"agent-status: {why_missing() or f'{error}; see `docker logs`'}", file=sys.stderr)
        return NO_ANSWER
    text = json.dumps(status, indent=2) + "\n" if as_json else page(status, colour=sys.stdout.isatty())
    sys.stdout.write((CLEAR if clear else "") + text)
    sys.stdout.flush()
    return FINE if status["status"] in ("healthy", "degraded") else NOT_FINE

"""The engine's question for health, where the agent is not healthy at once: asks again, and says what is wrong.

Each question of the engine's costs ten times what a request costs. So it may give the probe patience, during which the
agent can start, or mend what is broken, and the engine asks seldom.
"""

from __future__ import annotations

import _socket  # socket.py costs as much again as the interpreter's start
import os
import time

from healthcheck.address import own_address

ANSWER_S = 2.0
"""With the second that docker/bin/agent-health-probe takes before, less than the image's limit of 4 s."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 1.0
STOPPING = b'"phase": "stopping"'


def main(words: list[str]) -> int:
    """Ask until the agent is healthy, for so many seconds as the first word says. Returns 0 when it is, else 1."""
    patience_s = float(words[0]) if words else 0.0
    until, pause_s = time.monotonic() + patience_s, FIRST_PAUSE_S
    while True:
        is_good, said, is_final = _ask()
        if is_good or is_final or time.monotonic() + pause_s > until:
            print(said)
            return 0 if is_good else 1
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _ask() -> tuple[bool, str, bool]:
    """Return whether the agent is healthy, what it said, and whether that stays so."""
    host, port = own_address(os.environ)
    try:
        head, body = _get(host, port)
    except OSError as error:
        from healthcheck.supervisor import why_missing  # only here, as it costs as much again as all of this

        missing = why_missing()
        return False, missing or f"health does not answer on {host} port {port}: {error}", bool(missing)
    is_good = head.split(b" ")[1:2] == [b"200"]
    return is_good, body.decode(errors="replace").strip(), STOPPING in body


def _get(host: str, port: int) -> tuple[bytes, bytes]:
    """Return head and body of the page /health. Raises OSError."""
    connection = _socket.socket(_socket.AF_INET6 if ":" in host else _socket.AF_INET)
    try:
        connection.settimeout(ANSWER_S)
        connection.connect((host, port))
        connection.send(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
        reply = b""
        while chunk := connection.recv(1 << 16):
            reply += chunk
    finally:
        connection.close()
    head, _, body = reply.partition(b"\r\n\r\n")
    return head, body

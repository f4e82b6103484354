"""Ask agents themselves how they are, at the port of this machine on which their health answers.

The engine asks them too, but seldom, as each time costs it as much as twenty requests. Who answers here is a container:
neither the size nor the time of its answer is left to it.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

ANSWER_S = 1.0
LARGEST = 1 << 16
"""In bytes; a page has about 2,000."""
AT_ONCE = 16


def ask(ports: Iterable[int]) -> list[str]:
    """Return the page /health of each agent, unread; empty where none came."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(_ask, ports))


def _ask(port: int) -> str:
    until = time.monotonic() + ANSWER_S
    data = b""
    try:
        with socket.create_connection(("127.0.0.1", port), ANSWER_S) as connection:
            connection.sendall(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
            while len(data) < LARGEST and (left_s := until - time.monotonic()) > 0:
                connection.settimeout(left_s)
                if not (chunk := connection.recv(LARGEST)):
                    break
                data += chunk
    except OSError:
        return ""  # ignored because what the engine saw counts then
    return data.partition(b"\r\n\r\n")[2].decode(errors="replace")

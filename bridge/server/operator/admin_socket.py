"""How the operator's commands reach the running server: one line of JSON there, one line back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from typing import Any

from bridge.server.host.grants import State, StateError
from bridge.server.host.listeners import Published, publish
from bridge.server.server import BridgeServer

ANSWER_LIMIT_S = 10.0
START_LIMIT_S = 45.0
"""From the server's lock to its answer: two questions to a CLI on a cold disk, 20 s each at most."""
MAX_QUESTION = 4096


class Control:
    """The server's side: a socket that only the operator can open (0600, in a directory that is 0700)."""

    def __init__(self, service: BridgeServer) -> None:
        self._service = service
        self._published: Published | None = None
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen."""
        self._published = publish(self._service.state.root, 0o600, "control.sock")
        self._server = await asyncio.start_unix_server(self._answer, sock=self._published.listener)

    def close(self) -> None:
        """Listen no more."""
        if self._server:
            self._server.close()
        if self._published:
            self._published.withdraw()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await asyncio.wait_for(reader.readline(), ANSWER_LIMIT_S)
            question = json.loads(line[:MAX_QUESTION] or b"{}").get("do")
            if question == "status":
                answer: dict[str, Any] = self._service.status()
            elif question == "reload":
                answer = {"problem": self._service.reload(), "grants": self._service.problems}
            else:
                answer = {"problem": f"the server does not know {question!r}"}
            writer.write(json.dumps(answer).encode() + b"\n")
            with contextlib.suppress(ConnectionError):
                await writer.drain()
        except (ValueError, AttributeError, TimeoutError):
            pass  # ignored because only the operator can get here, and a broken question deserves no answer
        finally:
            writer.close()


def ask(state: State, question: str) -> dict[str, Any] | None:
    """Ask the running server, one that is starting when it is ready; None when none runs.

    StateError when one runs and does not answer.
    """
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        starts = state.server_pid() is not None
        answer = _ask(state, question)
        if answer or not starts or time.monotonic() > deadline:
            return answer
        time.sleep(0.02)


def _ask(state: State, question: str) -> dict[str, Any] | None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(ANSWER_LIMIT_S)
    with sock:
        try:
            sock.connect(str(state.control))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError as error:
            raise StateError(f"{state.control}: {error.strerror}; run it as the user that runs the server") from None
        try:
            sock.sendall(json.dumps({"do": question}).encode() + b"\n")
            with sock.makefile("rb") as answer:
                found: dict[str, Any] = json.loads(answer.readline())
                return found
        except (OSError, ValueError):
            raise StateError(f"the server behind {state.control} does not answer") from None


def reload(state: State, name: str | None = None) -> None:
    """Have a running server read everything anew; StateError when it cannot, or cannot serve grant `name`."""
    answer = ask(state, "reload")
    problem = answer and (answer["problem"] or answer["grants"].get(name))
    if problem:
        raise StateError(f"the running server says: {problem}")

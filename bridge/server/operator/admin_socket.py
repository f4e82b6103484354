"""How the operator's commands reach the running server: one line of JSON there, one line back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from pathlib import Path
from typing import Any, Protocol

from bridge.server.host.grants import StateError
from bridge.server.host.listeners import Listener, listen
from bridge.server.host.state_directory import StateDirectory

ANSWER_LIMIT_S = 10.0
START_LIMIT_S = 45.0
"""From the server's lock to its answer: two questions to a CLI on a cold disk, 20 s each at most."""
MAX_QUESTION = 4096
"""Bytes."""


class Server(Protocol):
    """What the operator may ask of a server."""

    problems: dict[str, str]
    """Why grants are not served, by name."""

    def status(self) -> dict[str, Any]:
        """What runs and what waits."""

    def reload(self) -> str:
        """Read configuration and grants anew; why that cannot be, or nothing."""


class AdminSocket:
    """The server's side: a socket that only the operator can open (0600, in a directory that is 0700)."""

    def __init__(self, server: Server, directory: Path) -> None:
        self._bridge = server
        self._directory = directory
        self._listener: Listener | None = None
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen. StateError when another server does."""
        self._listener = listen(self._directory, 0o600, "control.sock")
        self._server = await asyncio.start_unix_server(self._answer, sock=self._listener.socket)

    def close(self) -> None:
        """Listen no more."""
        if self._server:
            self._server.close()
        if self._listener:
            self._listener.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await asyncio.wait_for(reader.readline(), ANSWER_LIMIT_S)
            question = json.loads(line[:MAX_QUESTION] or b"{}").get("do")
            if question == "status":
                answer: dict[str, Any] = self._bridge.status()
            elif question == "reload":
                answer = {"problem": self._bridge.reload(), "grants": self._bridge.problems}
            else:
                answer = {"problem": f"the server does not know {question!r}"}
            writer.write(json.dumps(answer).encode() + b"\n")
            with contextlib.suppress(ConnectionError):
                await writer.drain()
        except (ValueError, AttributeError, TimeoutError):
            pass  # ignored because only the operator can get here, and a broken question deserves no answer
        finally:
            writer.close()


def ask(state: StateDirectory, question: str) -> dict[str, Any] | None:
    """Ask the running server, one that is starting when it is ready; None when none runs.

    StateError when one runs and does not answer.
    """
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        is_running = state.server_pid() is not None
        answer = _ask(state, question)
        if answer or not is_running or time.monotonic() > deadline:
            return answer
        time.sleep(0.02)


def _ask(state: StateDirectory, question: str) -> dict[str, Any] | None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(ANSWER_LIMIT_S)
    with sock:
        try:
            sock.connect(str(state.admin_socket))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError as error:
            raise StateError(
                f"{state.admin_socket}: {error.strerror}; run it as the user that runs the server"
            ) from None
        try:
            sock.sendall(json.dumps({"do": question}).encode() + b"\n")
            with sock.makefile("rb") as answer:
                found: dict[str, Any] = json.loads(answer.readline())
                return found
        except (OSError, ValueError):
            raise StateError(f"the server behind {state.admin_socket} does not answer") from None


def reload(state: StateDirectory, name: str | None = None) -> None:
    """Have a running server read everything anew; StateError when it cannot, or cannot serve grant `name`."""
    answer = ask(state, "reload")
    problem = answer and (answer["problem"] or answer["grants"].get(name))
    if problem:
        raise StateError(f"the running server says: {problem}")

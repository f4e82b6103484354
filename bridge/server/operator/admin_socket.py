"""The operator's commands send requests to the running server through this socket: one line of JSON each way."""

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
"""Seconds from the server's lock to its first answer. The CLI on a cold disk is run twice, at most 20 s each."""
MAX_QUESTION = 4096
"""Size of a request, bytes."""


class Server(Protocol):
    """What the operator may request of a server."""

    problems: dict[str, str]
    """Problems by name of the grant."""

    def status(self) -> dict[str, Any]:
        """Return what runs and what waits."""

    def release(self) -> str:
        """Let new work start although the API told of a usage limit. Returns a problem; empty if it is done."""

    def reload(self) -> str:
        """Read configuration and grants again. Returns why that is not possible; empty if it is done."""


class AdminSocket:
    """The server's side: a socket that only the operator can open (mode 0600, in a directory with mode 0700 or
    0711)."""

    def __init__(self, server: Server, directory: Path) -> None:
        self._bridge = server
        self._directory = directory
        self._listener: Listener | None = None
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Start to listen. Raises StateError if another server listens."""
        self._listener = listen(self._directory, 0o600, "control.sock")
        self._server = await asyncio.start_unix_server(self._answer, sock=self._listener.socket)

    def close(self) -> None:
        """Stop listening."""
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
            elif question == "release":
                answer = {"problem": self._bridge.release()}
            else:
                answer = {"problem": f"the server does not know {question!r}"}
            writer.write(json.dumps(answer).encode() + b"\n")
            with contextlib.suppress(ConnectionError):
                await writer.drain()
        except (ValueError, AttributeError, TimeoutError):
            pass  # ignored because only the operator can connect, and an invalid request gets no answer
        finally:
            writer.close()


def ask(state: StateDirectory, question: str) -> dict[str, Any] | None:
    """Send a request to the running server, and return its answer; None if no server runs.

    Waits for a server that is starting. Raises StateError if a server runs and does not answer.
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
    """Let a running server read everything again. Raises StateError if it cannot, or if it cannot serve grant
    `name`."""
    answer = ask(state, "reload")
    problem = answer and (answer["problem"] or answer["grants"].get(name))
    if problem:
        raise StateError(f"the running server says: {problem}")

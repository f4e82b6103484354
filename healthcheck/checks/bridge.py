"""`bridge`: the host's bridge answers and has a CLI."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridge.client.connection import Connection
from bridge.protocol.errors import STEPS, FaultError
from bridge.protocol.frames import MAX_SOCKET_PATH
from bridge.protocol.moment import moment
from healthcheck.check import FAIL, PASS, WARN, Check, Finding
from healthcheck.probe import Probe, ProbeError
from healthcheck.worker import Worker

if TYPE_CHECKING:
    from healthcheck.facts import AgentFacts

EVERY_S, DEADLINE_S = 4.0, 1.5
ANSWER_LIMIT_S = 1.0
HELLO_EVERY = 15
"""Observations over one connection. About once a minute a new hello shows which CLI the server has."""

SENTENCES = {
    "not-mounted": "{directory} is not mounted; run `invoke bridge.up` and mount the grant's directory",
    "missing": "socket missing; run `invoke bridge.up` on the host",
    "dead": "nobody listens on the socket; run `invoke bridge.up` on the host",
    "silent": "no answer; see `invoke bridge.status` on the host",
    "full": "no answer; see `invoke bridge.status` on the host",
}


class BridgeCheck(Check):
    """Pings the server behind the socket at `path`."""

    name = "bridge"

    def __init__(self, path: str) -> None:
        self._path = path
        ask = partial(Worker().call, Client(path).ask)
        self._probe = Probe(self.name, ask, every_s=EVERY_S, deadline_s=DEADLINE_S)
        self.probes = (self._probe,)

    def evaluate(self, agent: AgentFacts) -> Finding:
        """Return what answers, or what to do."""
        seen = self._probe.last
        if seen.value is None:
            return Finding(FAIL, seen.why_missing, seen.age_s)
        return Finding(WARN if seen.value.is_held else PASS, seen.value.text, seen.age_s)

    def details(self) -> dict[str, Any]:
        """Return whether it answers, and where it was asked."""
        return {"bridge": {"socket": self._path, "answers": self._probe.last.value is not None}}


@dataclass(frozen=True)
class Answered:
    """What the server said, for people, and whether it holds new work."""

    text: str
    is_held: bool


class Client:
    """Keeps one connection: the socket's file alone proves nothing, and a hello each time would fill the log."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection = Connection(path, ANSWER_LIMIT_S)
        self._looks = 0

    def close(self) -> None:
        """Close the connection; the next observation opens it again."""
        self._connection.close()

    def ask(self) -> Answered:
        """Return what answers. Raises ProbeError with what to do. May block for a second."""
        if len(os.fsencode(self._path)) > MAX_SOCKET_PATH:
            raise ProbeError(f"CLAUDE_BRIDGE_SOCKET is longer than {MAX_SOCKET_PATH} bytes; mount it elsewhere")
        if self._looks % HELLO_EVERY == 0:
            self.close()
        self._looks += 1
        try:
            server = self._connection.ping()
        except FaultError as fault:
            sentence = SENTENCES.get(fault.kind) or "; ".join([fault.text, *STEPS.get(fault.kind, ())[:1]])
            raise ProbeError(sentence.format(directory=Path(self._path).parent)) from None
        if not server.get("cli"):
            self.close()  # so that the next observation notices when a CLI has been installed
            raise ProbeError(server.text("problem"))
        waiting, held = server.number("waiting"), server.text("held")
        if waiting or held:
            self.close()  # so that the next observation notices when they wait no longer
        if held:
            text = f"{held}; new work goes on at {moment(server.number('until'))}, {waiting} waiting"
            return Answered(text, is_held=True)
        found = f"{server.text('cli')} for grant {server.text('grant')}"
        if waiting:  # this is no fault: others work
            found += f"; {waiting} waiting for a turn, {server.number('ahead')} ahead"
        return Answered(found, is_held=False)

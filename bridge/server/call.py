"""One call, from the client's words to its exit.

    judged --refused--> over
      |
    waiting --cancel, limit, client gone--> over
      |
    running --exit of the CLI, all output delivered--> over
      |
    ending (cancelled, or the client gone): the CLI is being ended, nobody listens --> over

A call counts as running until its last process is gone, so that the caps hold whatever clients do.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bridge.memory import MAX_TOTAL
from bridge.policy import PolicyError, environment
from bridge.policy.argv import Plan, rewrite
from bridge.policy.control import ControlFilter
from bridge.policy.scope import WORKSPACE
from bridge.protocol import WINDOW, Event, Fields, Frame, opening_state, record
from bridge.server import confinement
from bridge.server.audit import outline
from bridge.server.child import Child
from bridge.server.credentials import Credential, NoCredentialsError
from bridge.server.hands import Hands
from bridge.server.network import Rules
from bridge.server.places import PlaceError
from bridge.server.pumps import InputPump, OutputPump
from bridge.server.state import StateError
from bridge.server.stuck import Watch

if TYPE_CHECKING:
    from bridge.server.peer import Peer

MAX_ANSWERS = 64 * 1024
"""Bytes of answers to refused control requests that wait: a client that goes on asking without reading
waits."""

CODES = {"policy": 126, "no-cli": 127}
"""Exit codes of the client by kind of error; any other is 125."""


class Call:
    """A channel of a client's connection."""

    def __init__(self, peer: Peer, number: int, fields: Fields) -> None:
        self.peer = peer
        self.number = number
        self.born = time.monotonic()
        self.state = "judged"
        self.position = -1
        self._fields = fields
        self._plan = Plan()
        hands = fields.get("hands") == b"1"
        self._scope = dataclasses.replace(peer.scope, hands=hands)
        self._hands: Hands | None = None
        self._child: Child | None = None
        self._filter: ControlFilter | None = None
        self._input: InputPump | None = None
        self._outputs: list[OutputPump] = []
        self._answers = bytearray()
        self._at_line_start = True
        self._owed = 0
        self._held = b""
        self._child_is_young = True
        self._code: int | None = None
        self._wait_timer: asyncio.TimerHandle | None = None
        self._watch = Watch()

    @property
    def age(self) -> float:
        """Seconds since it came."""
        return time.monotonic() - self.born

    # Judged and waiting

    def judge(self) -> bool:
        """Decide whether it may run at all; the client is told when not."""
        service, words = self.peer.service, [os.fsdecode(word) for word in self._fields.all("arg")]
        try:
            self._plan = rewrite(
                words,
                self._scope,
                self.cwd,
                files=self._fields.all("file"),
                env=self._fields.all("env"),
                interactive=self._has_terminal,
            )
            self._check_place()
        except PolicyError as refusal:
            service.audit.write("refused", **self.peer.who, argv=outline(words), why=str(refusal))
            self.fail("policy", str(refusal))
            return False
        if not service.cli.version:
            self.fail("no-cli", service.cli.problem)
            return False
        service.audit.write("asked", **self.peer.who, argv=outline(words))
        self.state = "waiting"
        self._wait_timer = asyncio.get_running_loop().call_later(service.config.limits.wait, self._give_up)
        return True

    @property
    def cwd(self) -> str:
        """The client's directory."""
        return os.fsdecode(self._fields.get("cwd") or b"/workspace")

    @property
    def _has_terminal(self) -> bool:
        return self._fields.get("stdin") == self._fields.get("stdout") == b"tty" and self._scope.hands

    @property
    def _is_interactive(self) -> bool:
        return self._has_terminal and not self._plan.prints

    def _check_place(self) -> None:
        if not self._scope.contains(self.cwd):
            raise PolicyError(f"the directory {self.cwd} is not shared with the host; run it in /workspace")
        if not self._plan.prints and self._fields.get("stdout") == b"tty" and not self._has_terminal:
            raise PolicyError("an interactive session needs a terminal as its input, too; or use `claude-code -p`")

    def tell_position(self, position: int) -> None:
        """Say how many calls come first, when that has changed."""
        if position != self.position:
            self.position = position
            self._send(record(Frame.STATE, self.number, state="queued", ahead=position))

    def _give_up(self) -> None:
        limit = self.peer.service.config.limits.wait
        self.fail("timeout", f"no call ended within {limit} s, so this one was never started; try again")

    # Running

    def start(self) -> None:
        """Start the CLI: it is this call's turn."""
        service = self.peer.service
        self.state = "running"
        if self._wait_timer:
            self._wait_timer.cancel()
        with_stdin = self._fields.get("stdin") in (b"pipe", b"file")
        scratch = None
        try:
            scratch = service.state.scratch()
            credential = service.credential()
            rules = service.rules(self.peer.grant, self._scope, credential) if service.is_confined else None
            self._hands = Hands(self, scratch / "hands", rules, self._stopped, self._moved)
            self._child = Child(self._command(scratch, rules, credential), with_stdin, self._exited)
        except Exception as error:  # whatever it is, it is this call's alone, and its turn is over
            kind, text = self._failure(error)
            service.audit.write("failed", **self.peer.who, why=str(error))
            if scratch:
                shutil.rmtree(scratch, ignore_errors=True)
            self.fail(kind, text)
            self.over()
            return
        service.audit.write("started", **self.peer.who, argv=outline(self._plan.argv), child=self._child.pid)
        if self._plan.controls:
            self._filter = ControlFilter(self._scope, self._plan.told, self._plan.servers)
        self._input = InputPump(self._child.stdin, self._repay)
        self._outputs = [
            OutputPump(self._child.stdout, lambda: self._allowance(Frame.STDOUT), self._stdout),
            OutputPump(self._child.stderr, lambda: self._allowance(Frame.STDERR), self._stderr),
        ]
        self._send(opening_state(self.number, self._plan.project.notes, self._is_interactive))
        self._send(self.peer.link.grant(self.number, Frame.STDIN, WINDOW))
        self.kick()

    def _failure(self, error: Exception) -> tuple[str, str]:
        """Kind and sentence for the client of what kept the CLI from its start."""
        if isinstance(error, NoCredentialsError):
            return "login", str(error)
        if isinstance(error, PlaceError):
            return "changed", f"on the host, {self.peer.grant.changed or error.what}"
        text = f"{error.strerror}" if isinstance(error, OSError) else str(error)
        return "start", f"the host could not start Claude Code: {text}"

    def _moved(self) -> None:
        """The namespace's directories are not what was granted: somebody exchanged one just now."""
        self.peer.service.audit.write("failed", **self.peer.who, why="a directory was exchanged during the start")
        what = self.peer.grant.changed or f"a directory of grant {self.peer.grant.name} was exchanged"
        self.fail("changed", f"on the host, {what}")

    def _command(self, scratch: Path, rules: Rules | None, credential: Credential | None) -> confinement.Command:
        service, grant = self.peer.service, self.peer.grant
        operator = rules.disguise.told if rules else service.operator_environment
        program = service.cli.find()
        if program is None:
            raise StateError(service.cli.problem)
        job = confinement.Job(
            grant,
            Path(program),
            self._plan.argv,
            environment.build(self._fields.all("env"), operator),
            self.cwd,
            self._fields.get("memory")[:MAX_TOTAL] if self._plan.reads_project else b"",
            rules.credential(credential) if rules else credential,
            self._plan.project,
            scratch,
            self._scope.hands,
            self._is_interactive,
            self._offer(),
        )
        if service.is_confined:
            return confinement.in_namespace(job, service.state, self._scope)
        return confinement.without_namespace(job, service.state, scratch.name)

    def _offer(self) -> str:
        """What the interface says above its first prompt, when there is a conversation to go on with."""
        if self._is_interactive and not {"--continue", "--resume"} & self._plan.flags.keys():
            private = self.peer.service.state.private(self.peer.grant)
            if any(private.glob(f"projects/{re.sub('[^a-zA-Z0-9]', '-', self.cwd)}/*.jsonl")):
                return "Type /resume to go on with an earlier conversation."
        return ""

    def look_at_pipes(self) -> None:
        """Let the CLI go where it waits at a pipe of the workspace's, or end it."""
        if self._child is not None and self._watch.look(self._child.pid):
            self.fail("stuck", "Claude Code reads a pipe in the workspace that nobody writes to; remove the pipe")

    def place_inside(self, path: bytes) -> bytes:
        """A directory of the CLI's, as the container knows it: the same, unless there is no namespace."""
        here = os.fsencode(self.peer.grant.workspace)
        if not self.peer.service.is_confined and (path + b"/").startswith(here + b"/"):
            return WORKSPACE.encode() + path[len(here) :]
        return path

    def place_outside(self, path: bytes) -> bytes:
        """A directory of the container's, as the CLI knows it."""
        if not self.peer.service.is_confined and (path + b"/").startswith(WORKSPACE.encode() + b"/"):
            return os.fsencode(self.peer.grant.workspace) + path[len(WORKSPACE) :]
        return path

    def note(self, what: str, **facts: str | int) -> None:
        """Write to the audit log."""
        self.peer.service.audit.write(what, **self.peer.who, **facts)

    def _stopped(self) -> None:
        """The CLI has stopped itself, as Ctrl-Z asks; it goes on with the client's CONT."""
        self._send(record(Frame.STATE, self.number, state="stopped"))

    def on(self, event: Event) -> None:
        """A frame of this call's channel."""
        if event.kind == Frame.STDIN:
            self._on_stdin(event.payload)
        elif event.kind == Frame.CREDIT:
            self.kick()
        elif event.kind == Frame.SIGNAL:
            self._on_signal(event.payload[0])
        elif event.kind == Frame.RESIZE and self._child is not None:
            self._child.resize(*event.rows_and_columns)
        elif event.kind == Frame.CANCEL:
            self.cancel()
            self._end(Frame.EXIT, signal=int(signal.SIGTERM))

    # stdin: credit is paid back only when the child has taken what came

    def _on_stdin(self, data: bytes) -> None:
        """Some bytes from the client, or the end."""
        if self._input is None or self.state != "running":
            return
        self._owed += len(data)
        try:
            self._judge_stdin(data)
        except PolicyError as refusal:
            self.peer.service.audit.write("refused", **self.peer.who, why=str(refusal))
            self.fail("policy", str(refusal))

    def _judge_stdin(self, data: bytes) -> None:
        assert self._input is not None
        if self._filter is None:
            passed = data
        else:
            passed, answered = self._filter.feed(data) if data else self._filter.finish()
            self._answers += answered
            for what, why in self._filter.refusals:
                self.peer.service.audit.write("refused", **self.peer.who, control=what, why=why)
            self._filter.refusals.clear()
        self._input.write(passed)
        if not data:
            self._input.end()
        self._answer()

    def _repay(self) -> None:
        if self._owed and len(self._answers) < MAX_ANSWERS:
            self._send(self.peer.link.grant(self.number, Frame.STDIN, self._owed))
            self._owed = 0

    # stdout and stderr

    def kick(self) -> None:
        """Look again at the pipes: credit has come, or the connection takes data again."""
        for pump in self._outputs:
            pump.kick()
        self._answer()
        self._finish()

    def _allowance(self, stream: int) -> int:
        return self.peer.link.allowance(self.number, stream) if self.peer.writable else 0

    def _stdout(self, data: bytes) -> None:
        if self._answers and b"\n" in data:
            cut = data.rfind(b"\n") + 1
            self._write(Frame.STDOUT, data[:cut])
            if len(self._answers) <= self._allowance(Frame.STDOUT) - len(data[cut:]):
                self._write(Frame.STDOUT, bytes(self._answers))
                self._answers.clear()
            data = data[cut:]
        if data:
            self._at_line_start = data.endswith(b"\n")
            self._write(Frame.STDOUT, data)
        else:
            self._at_line_start = True
        self._finish()

    def _answer(self) -> None:
        """Answer refused control requests between two lines of the CLI's own output."""
        if self._answers and self._at_line_start and len(self._answers) <= self._allowance(Frame.STDOUT):
            self._write(Frame.STDOUT, bytes(self._answers))
            self._answers.clear()
            if self._input and not self._input.pending:
                self._repay()

    def _stderr(self, data: bytes) -> None:
        # What bubblewrap itself says names paths of the host: held back until it is known who spoke.
        if (self._held or self._child_is_young) and (self._held + data).startswith(b"bwrap: ") and data:
            self._held += data
        elif data:
            self._child_is_young = False
            self._write(Frame.STDERR, data)
        self._finish()

    def _write(self, stream: int, data: bytes) -> None:
        if self.number in self.peer.link.channels and data:
            self._send(self.peer.link.data(self.number, stream, data))

    # The end

    def _on_signal(self, number: int) -> None:
        """A signal that the client got."""
        if self.state == "waiting":
            self._leave_queue()
            self._end(Frame.EXIT, signal=number)
        elif self._child is not None:
            self._child.signal(number)

    def cancel(self, grace: float = 1.0) -> None:
        """Nobody waits for this call any more."""
        if self.state == "waiting":
            self._leave_queue()
        elif self._child is not None and self._code is None:
            self.state = "ending"
            self._close_pipes()
            self._close_hands()
            self._child.terminate(grace)

    def fail(self, kind: str, sentence: str) -> None:
        """End the call with an error of the bridge's."""
        was = self.state
        self._end(Frame.ERROR, kind=kind, text=sentence, code=CODES.get(kind, 125))
        self.state = was
        self.cancel()

    def _leave_queue(self) -> None:
        self.peer.service.leave(self)
        self.over()

    def _exited(self, code: int) -> None:
        never_ran = self._child is not None and self._child.never_ran and self.state == "running"
        if never_ran:
            self._outputs[1].read()  # what bubblewrap said last may still be in its pipe
        self._code = code
        self._close_hands()
        if never_ran:
            said = self._held.decode("utf-8", "replace").strip()
            self.peer.service.audit.write("failed", **self.peer.who, why=said)
            inside = "chdir" in said
            why = f"the directory {self.cwd} is not there on the host" if inside else "its namespace failed"
            self.fail("start", f"the host could not start Claude Code: {why}; see `claude-bridge-server doctor`")
        self._finish()

    def _finish(self) -> None:
        """When the process and its output have ended, so does the call."""
        if self._code is None or self.state == "over":
            return
        if self.state == "running" and self.number in self.peer.link.channels:
            if self._held:
                held, self._held = self._held, b""
                self._write(Frame.STDERR, held[: self._allowance(Frame.STDERR)])
            if any(pump.open for pump in self._outputs):
                return
            how = {"signal": -self._code} if self._code < 0 else {"code": self._code}
            self._end(Frame.EXIT, **how)
        self._close_pipes()
        self.over()

    def _end(self, kind: int, /, **fields: str | int | None) -> None:
        if self.number in self.peer.link.channels:
            self._send(self.peer.link.end(self.number, kind, **fields))

    def over(self) -> None:
        """Make room for others."""
        if self.state == "over":
            return
        ran = self._child is not None or self.state == "running"
        self.state = "over"
        if self._wait_timer:
            self._wait_timer.cancel()
        self._close_hands()
        self.peer.service.ended(self, ran, self._code)

    def _close_hands(self) -> None:
        """End the commands of this call, and its network."""
        if self._hands is not None:
            hands, self._hands = self._hands, None
            hands.close()

    def _close_pipes(self) -> None:
        for pump in self._outputs:
            pump.close()
        if self._input:
            self._input.close()

    def _send(self, data: bytes) -> None:
        if data:
            self.peer.send(data)

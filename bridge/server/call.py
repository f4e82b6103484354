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

from bridge.client.claude_md import MAX_TOTAL
from bridge.policy import PolicyError, environment
from bridge.policy.argv import Plan
from bridge.policy.control_messages import ControlFilter
from bridge.policy.terms import WORKSPACE, printable
from bridge.protocol.frames import WINDOW, Event, Fields, Frame, opening_state, record
from bridge.server.host.audit import outline
from bridge.server.host.credentials import Credential, NoCredentialsError
from bridge.server.host.grants import StateError
from bridge.server.host.log import place_of
from bridge.server.host.places import PlaceError
from bridge.server.policy_pool import is_small
from bridge.server.policy_worker import plan_of, unpack
from bridge.server.sandbox import bubblewrap
from bridge.server.sandbox.pipes import OutputPump
from bridge.server.sandbox.process import Child
from bridge.server.sandbox.proxy import Rules
from bridge.server.sandbox.stuck_pipes import Watch
from bridge.server.scheduler import Worker
from bridge.server.stdin import Stdin
from bridge.server.tool_calls import Hands

if TYPE_CHECKING:
    from bridge.server.connection import Peer
    from bridge.server.policy_pool import Judges

MAX_ANSWERS = 64 * 1024
"""Bytes of answers to refused control requests that wait: a client that goes on asking without reading
waits."""

LONG = 200
"""Bytes of an argument of which the log can name nothing but its length."""

SIGNAL_EVERY_S = 0.02
"""Between two rounds of signals and sizes of the terminal; of each kind the last one counts."""

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
        self._packed = b""
        self._outline = outline(
            [os.fsdecode(word) if len(word) < LONG else "?" * len(word) for word in fields.all("arg")]
        )
        hands = fields.get("hands") == b"1"
        self.scope = dataclasses.replace(peer.scope, hands=hands)
        self._hands: Hands | None = None
        self._child: Child | None = None
        self._stdin: Stdin | None = None
        self._outputs: list[OutputPump] = []
        self._answers = bytearray()
        self._at_line_start = True
        self._held = b""
        self._child_is_young = True
        self._code: int | None = None
        self._wait_timer: asyncio.TimerHandle | None = None
        self._watch = Watch()
        self._signals: dict[int, None] = {}
        self._size: tuple[int, int] | None = None
        self._signal_timer: asyncio.TimerHandle | None = None
        self._has_credit = False

    @property
    def age(self) -> float:
        """Seconds since it came."""
        return time.monotonic() - self.born

    # Judged and waiting

    @property
    def size(self) -> int:
        """Bytes that it holds while it waits."""
        return len(self._packed) + sum(len(value) for _, value in self._fields.pairs)

    @property
    def is_small(self) -> bool:
        """Whether it is judged on the loop."""
        return is_small(self._fields)

    def judge(self) -> bool:
        """Decide at once whether it may run at all; the client is told when not."""
        try:
            self._plan = plan_of(self._fields, self.scope)
        except PolicyError as refusal:
            self.refuse(refusal)
        except Exception as error:
            self.fault(error)
        else:
            return self._accept()
        return False

    async def judge_elsewhere(self) -> bool:
        """The same in the grant's judge, while the loop goes on."""
        try:
            self._packed = await self.judges.call(self.peer.grant.name, self._fields, self.scope)
        except PolicyError as refusal:
            self.refuse(refusal)
        except Exception as error:
            self.fault(error)
        else:
            return self._accept()
        return False

    def _accept(self) -> bool:
        service = self.peer.service
        judged = ("arg", "file")  # they are in the plan now
        self._fields = Fields(pair for pair in self._fields.pairs if pair[0] not in judged)
        if not service.cli.version:
            self.fail("no-cli", service.cli.told)
            return False
        service.audit.write("asked", **self.peer.who, argv=self._outline)
        self.state = "waiting"
        self._wait_timer = asyncio.get_running_loop().call_later(service.config.limits.wait, self._give_up)
        return True

    def refuse(self, refusal: PolicyError) -> None:
        """The policy's word about the call or its stdin: the client gets the sentence, the log its kind."""
        judged = {"argv": self._outline} if self.state == "judged" else {}
        self.note("refused", **judged, why=refusal.kind)
        self.fail("policy", str(refusal))

    def fault(self, error: Exception) -> None:
        """Something that nobody has foreseen: it ends this call and nothing else."""
        self.peer.service.sayer.fault("a call could not be judged", error)
        self.note("failed", why=place_of(error))
        self.fail(
            "policy", "the bridge could not read this request, so it is refused; please report what you asked for"
        )

    @property
    def cwd(self) -> str:
        """The client's directory."""
        return os.fsdecode(self._fields.get("cwd") or b"/workspace")

    @property
    def _has_terminal(self) -> bool:
        return self._fields.get("stdin") == self._fields.get("stdout") == b"tty" and self.scope.hands

    @property
    def _is_interactive(self) -> bool:
        return self._has_terminal and not self._plan.prints

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
            if self._packed:
                self._plan, self._packed = unpack(self._packed, self.scope), b""
            scratch = service.state.scratch()
            credential = service.credential()
            rules = service.rules(self.peer.grant, self.scope, credential) if service.is_confined else None
            self._hands = Hands(self, scratch / "hands", rules, self._stopped, self._not_started)
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
        judged = ControlFilter(self.scope, self._plan.told, self._plan.servers) if self._plan.controls else None
        self._stdin = Stdin(self, self._child.stdin, judged)
        self._outputs = [
            OutputPump(self._child.stdout, lambda: self._allowance(Frame.STDOUT), self._stdout),
            OutputPump(self._child.stderr, lambda: self._allowance(Frame.STDERR), self._stderr),
        ]
        self.peer.carry(running=True)
        self._send(opening_state(self.number, self._plan.project.notes, self._is_interactive))
        self._send(self.peer.link.grant(self.number, Frame.STDIN, WINDOW))
        self.kick()

    def _failure(self, error: Exception) -> tuple[str, str]:
        """Kind and sentence for the client of what kept the CLI from its start."""
        if isinstance(error, NoCredentialsError):
            return "login", error.told
        if isinstance(error, PlaceError):
            return "changed", f"on the host, {self.peer.grant.changed or error.what}"
        if isinstance(error, bubblewrap.ConfinementError):
            return "start", f"the host could not start Claude Code: {error}"
        # Whatever else it says may name paths of the host's: the log has it.
        why = error.strerror if isinstance(error, OSError) else "`claude-bridge-server doctor` there says more"
        return "start", f"the host could not start Claude Code: {why}"

    def _not_started(self, why: bytes) -> None:
        """The launcher did not start the CLI: somebody exchanged a directory just now, or the call's own is none."""
        if why == b"nowhere":
            where = printable(self.cwd, 80)
            self.fail("start", f"the host could not start Claude Code: the directory {where} is not there on the host")
            return
        self.peer.service.audit.write("failed", **self.peer.who, why="a directory was exchanged during the start")
        what = self.peer.grant.changed or f"a directory of grant {self.peer.grant.name} was exchanged"
        self.fail("changed", f"on the host, {what}")

    def _command(self, scratch: Path, rules: Rules | None, credential: Credential | None) -> bubblewrap.Command:
        service, grant = self.peer.service, self.peer.grant
        operator = rules.disguise.told if rules else service.operator_environment
        program = service.cli.find()
        if program is None:
            raise StateError(service.cli.problem)
        job = bubblewrap.Job(
            grant,
            Path(program),
            self._plan.argv,
            environment.build(self._fields.all("env"), operator),
            self.cwd,
            self._fields.get("memory")[:MAX_TOTAL] if self._plan.reads_project else b"",
            rules.credential(credential) if rules else credential,
            self._plan.project,
            scratch,
            self.scope.hands,
            self._is_interactive,
            self._offer(),
        )
        if service.is_confined:
            given = service.config.environment.items()
            own = {name: value for name, value in given if operator.get(name) == value}  # no placeholder
            bubblewrap.refuse_what_could_be_read(own, service.cli.version)
            return bubblewrap.in_namespace(job, service.state, self.scope)
        return bubblewrap.without_namespace(job, service.state, scratch.name)

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

    def note(self, what: str, **facts: str | int | list[str]) -> None:
        """Write to the audit log."""
        self.peer.service.audit.write(what, **self.peer.who, **facts)

    def _stopped(self) -> None:
        """The CLI has stopped itself, as Ctrl-Z asks; it goes on with the client's CONT."""
        self._send(record(Frame.STATE, self.number, state="stopped"))

    def on(self, event: Event) -> None:
        """A frame of this call's channel. What may come thousands of times is acted on by `settle`."""
        if event.kind == Frame.STDIN:
            if self._stdin is not None and self.state == "running":
                self._stdin.take(event.payload)
        elif event.kind == Frame.CREDIT:
            self._has_credit = True
        elif event.kind == Frame.SIGNAL:
            self._signals[event.payload[0]] = None
        elif event.kind == Frame.RESIZE:
            self._size = event.rows_and_columns
        elif event.kind == Frame.CANCEL:
            self.cancel()
            self._end(Frame.EXIT, signal=int(signal.SIGTERM))

    def settle(self) -> None:
        """The frames of this turn of the loop are read: act on the last of each kind."""
        if self._has_credit:
            self._has_credit = False
            self.kick()
        if (self._signals or self._size) and self._signal_timer is None:
            self._pass_signals()

    def _pass_signals(self) -> None:
        self._signal_timer = None
        signals, size, self._signals, self._size = self._signals, self._size, {}, None
        if self.state == "over" or not (signals or size):
            return
        self._signal_timer = asyncio.get_running_loop().call_later(SIGNAL_EVERY_S, self._pass_signals)
        if size is not None and self._child is not None:
            self._child.resize(*size)
        for number in signals:
            self._on_signal(number)

    # stdin

    @property
    def judges(self) -> Judges:
        """Those who judge what is too long for the loop."""
        return self.peer.service.judges

    def let_work(self, worker: Worker) -> None:
        """Let a part of this call work in the next turn of the loop."""
        self.peer.service.lanes.add(self.peer.grant.name, worker)

    def drop_work(self, worker: Worker) -> None:
        """Forget that it has work."""
        self.peer.service.lanes.drop(self.peer.grant.name, worker)

    @property
    def owes_answers(self) -> bool:
        """Whether so many answers wait that nothing more is to be judged."""
        return len(self._answers) >= MAX_ANSWERS or self.state != "running"

    def answer(self, answered: bytes) -> None:
        """Answer refused control requests in the CLI's place."""
        self._answers += answered
        self._answer()

    def repay(self, size: int) -> None:
        """The child has taken so much of what the client sent."""
        self._send(self.peer.link.grant(self.number, Frame.STDIN, size))

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
                self._send_answers()
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
            self._send_answers()

    def _send_answers(self) -> None:
        self._write(Frame.STDOUT, bytes(self._answers))
        self._answers.clear()
        if self._stdin:
            self._stdin.go_on()

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
        self._end(Frame.ERROR, kind=kind, text=printable(sentence), code=CODES.get(kind, 125))
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
            text = "the host could not start Claude Code: its namespace failed; see `claude-bridge-server doctor`"
            self.fail("start", text)
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
        for timer in (self._wait_timer, self._signal_timer):
            if timer:
                timer.cancel()
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
        if self._stdin:
            self._stdin.close()

    def _send(self, data: bytes) -> None:
        if data:
            self.peer.send(data)

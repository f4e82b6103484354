"""The server: it publishes the grants, makes connections and calls, runs the queue, reloads and stops.

Only this object knows grants, connections and calls. Those know only what they are given.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import functools
import os
import resource
import socket
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bridge.policy import Scope, usage_limits
from bridge.policy.telemetry import Report
from bridge.policy.usage_limits import Told
from bridge.protocol.frames import Fields
from bridge.protocol.moment import moment
from bridge.server.activity import Kind
from bridge.server.call import Call, CallState
from bridge.server.channel import Channel
from bridge.server.connection import ClientConnection
from bridge.server.gate import HeldTurnError, Hold, RefusedTurnError
from bridge.server.guess_limit import GuessLimit
from bridge.server.hello import Hello
from bridge.server.holds import Held, Holds
from bridge.server.host import credentials, listeners
from bridge.server.host.acceptor import Acceptor
from bridge.server.host.audit import Audit
from bridge.server.host.budgets import Budget, Over, Standing, standings, worst
from bridge.server.host.claude_cli import HostCli
from bridge.server.host.config import MIB, Config, Limits
from bridge.server.host.conversations import has_conversation
from bridge.server.host.disk_usage import DiskUsage
from bridge.server.host.grants import Grant, OpenPlaces, StateError
from bridge.server.host.log import LogFile, ServerLog
from bridge.server.host.login import Login
from bridge.server.host.state_directory import StateDirectory
from bridge.server.host.usage import UsageStore, today
from bridge.server.launch import Launcher, LaunchRequest, Listener
from bridge.server.policy_pool import PolicyPool
from bridge.server.queue import FairQueue, QueueFullError
from bridge.server.sandbox.process import CliProcess
from bridge.server.sandbox.processes import LOOK_EVERY_S
from bridge.server.scheduler import Scheduler
from bridge.server.session import CallContext
from bridge.server.tool_calls import ToolCalls
from bridge.server.turns import NestedLimitError, Turns

MAX_WAITING = 16 * MIB
"""Bytes of one grant's waiting calls: a hundred of usual size, or twelve of the largest."""

ENDED_WITHIN_S = 2.0
"""Seconds to wait for processes that are being killed when the server stops."""

REAP_EVERY_S = 5.0

SOON_S = 60.0
"""Seconds until the end of a hold for which the request of a session waits. If it lasts longer, the person or program
is told at once: the Agent SDKs give up a CLI that does not answer after a minute."""

SAME_LIMIT_S = 5.0
"""A limit that is told again is logged if its end differs by more seconds."""

LOOK_AT_HOLDS_S = 10.0

STOPPING = "the bridge is stopping, and this call was not started"

BUDGET = "budget"
"""The cause of a hold by a grant's budget."""

STARTS = Limits(running=4, per_grant=2)
"""Sessions that start at the same time. A start takes a core for about a second."""


class OverBudgetError(RefusedTurnError):
    """The budget of the call's grant is used up."""


@dataclasses.dataclass(frozen=True)
class CallDesk:
    """Where one running call asks for its place: bridge/server/gate.py, `Desk`."""

    server: BridgeServer
    call: Call

    @property
    def wait_limit(self) -> float:
        """See `Desk`."""
        return self.server.config.limits.wait

    def ask(self) -> bool:
        """See `Desk`."""
        return self.server.ask(self.call)

    def take(self) -> None:
        """See `Desk`."""
        self.server.turns.take(self.call.grant, self.call)
        self.call.go_on()

    def give_back(self) -> bool:
        """See `Desk`."""
        return self.server.give_back(self.call)

    def hear_limit(self, told: Told) -> None:
        """See `Desk`."""
        self.server.hear_limit(self.call, told)


class BridgeServer:
    """The whole server. `load` reads the configuration, at the start and at each reload."""

    def __init__(self, state: StateDirectory, load: Callable[[], Config]) -> None:
        self.state = state
        self._load = load
        self.config = load()
        self.cli = HostCli(self.config.claude)
        self.grants: dict[str, Grant] = {}
        self.problems: dict[str, str] = {}
        """Problems by name of the grant. They do not affect the other grants."""
        self.log: LogFile | None = None
        """The file for the server's own output, if it was given one."""
        self._connections: set[ClientConnection] = set()
        self._calls: dict[Call, None] = {}
        self.holds = Holds()
        self._wake_timer: asyncio.TimerHandle | None = None
        self._limit: Told | None = None
        """The usage limit that was told last."""
        self.turns: Turns[Call] = Turns(self.config.limits, self.grants, self.holds)
        self._starts: FairQueue[Call] = FairQueue(STARTS, self.grants)
        """Sessions on a terminal that wait for their start. They need no place for it."""
        self._starting: set[Call] = set()
        self._ready: collections.deque[Call] = collections.deque()
        """Nested calls that share a place and start next."""
        self._words: dict[str, Call] = {}
        """The calls by what their commands are told."""
        self._guesses: collections.defaultdict[str, GuessLimit] = collections.defaultdict(GuessLimit)
        self._places: dict[str, OpenPlaces] = {}
        self._published: dict[str, listeners.Listener] = {}
        self._acceptors: dict[str, Acceptor] = {}
        self._connecting: set[asyncio.Task[None]] = set()
        self._server_log = ServerLog()
        self._scheduler = Scheduler()
        self._pool = PolicyPool(state.root / "scratch")
        self._disk = DiskUsage(state.private, lambda: self.config.limits.disk, self._on_disk_exceeded)
        self.login = Login(
            lambda: credentials.find(self.config.credentials, self.state.token, os.environ, self.config.environment),
            lambda: self.cli.find(),
            lambda: self.config.environment,
            self._note,
            self._server_log.line,
        )
        self._usage = UsageStore(state.usage)
        self._told_over: dict[str, tuple[Budget, float]] = {}
        """The budgets that are used up, and until when, as the logs were told."""
        self._started = time.time()
        self._served = 0
        self._is_stopping = False
        self._is_dispatching = False
        self._use(self.config)

    def _use(self, config: Config) -> None:
        self.config = config
        self.turns.queue.limits = config.limits
        self._starts.limits = dataclasses.replace(STARTS, queued=config.limits.queued)
        if config.claude != self.cli.configured:
            self.cli = HostCli(config.claude)
        self._launcher = Launcher(self.state, config, self.cli, self.login, self._record)
        path = Path(config.audit_path) if config.audit_path else self.state.root / "audit.jsonl"
        self._audit = Audit(path, config.audit_size, self._server_log)

    # Start, stop, reload

    async def start(self) -> None:
        """Publish every grant and serve clients. Raises OSError, and StateError if no grant can be served."""
        # A core file of the CLI would contain the credential, and could be written to the workspace.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # A call may need two hundred descriptors. The usual limit of 1024 exists because of select(), which is not
        # used here.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        asyncio.get_running_loop().set_exception_handler(self._server_log.unhandled)
        self._pool.start()
        await self.cli.ask()
        self._audit.write("serving", pid=os.getpid(), cli=self.cli.version)
        self.refresh()
        readable = [name for name, grant in self.state.registered().items() if isinstance(grant, Grant)]
        if readable and not self.grants:
            raise StateError(self.problems[readable[0]])
        asyncio.get_running_loop().call_later(REAP_EVERY_S, self._reap)
        asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look_at_processes)
        self._rest()
        self.login.start()

    async def stop(self) -> None:
        """Stop: refuse new calls, fail the waiting ones, give the running ones `limits.stop_grace` seconds, and
        clean up."""
        self._is_stopping = True
        for name, published in self._published.items():
            self._acceptors[name].close()
            published.close()
        for call in self._calls_in(CallState.WAITING):
            call.fail("stopping", STOPPING)
        for connection in list(self._connections):
            connection.leave()
        busy = CallState.RUNNING, CallState.DOZING
        await self._until(lambda: not self._calls_in(*busy), self.config.limits.stop_grace)
        for call in self._calls_in(*busy):
            call.fail("stopping", "the bridge has stopped in the middle of this call")
        await self._until(lambda: not any(call.has_run and not call.has_slept for call in self._calls), ENDED_WITHIN_S)
        for connection in list(self._connections):
            connection.close()
        await self._until(lambda: not self._connections, 0.5)
        self.login.close()
        self._pool.close()
        self._usage.close()
        self._audit.settle()
        self._audit.write("stopped", served=self._served)

    @staticmethod
    async def _until(reached: Callable[[], bool], limit: float) -> None:
        deadline = time.monotonic() + limit
        while not reached() and time.monotonic() < deadline:  # noqa: ASYNC110 - several objects must finish, at shutdown only
            await asyncio.sleep(0.02)

    def reload(self) -> str:
        """Read configuration and grants again. An error changes nothing, and is returned as one line of text."""
        try:
            self._use(self._load())
            self.refresh()
            for grant in self.grants:
                self._heed_budget(grant)
        except Exception as error:
            return str(error)
        self._dispatch_soon()
        return ""

    def _reap(self) -> None:
        asyncio.get_running_loop().call_later(REAP_EVERY_S, self._reap)
        for connection in list(self._connections):
            connection.reap(self.config.limits.idle)
        self._audit.settle()
        self._disk.settle(self.grants.values(), {call.grant for call in self._calls if call.has_run})
        if self.log is not None:
            self.log.settle()
        for name, published in list(self._published.items()):
            if name in self.grants and not published.is_there() and not self._is_stopping:
                self._withdraw(name)  # someone removed the socket by hand, which revokes the grant

    def _look_at_processes(self) -> None:
        asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look_at_processes)
        for number, call in enumerate(self._calls_in(CallState.RUNNING)):  # each in its own turn of the loop
            asyncio.get_running_loop().call_later(
                number * LOOK_EVERY_S / 100, call.look_at_processes, self.config.limits.memory
            )

    # Grants

    def refresh(self) -> None:
        """Publish all registered grants, and no others."""
        registered = self.state.registered()
        self.problems = {}
        for name in sorted(self.grants.keys() - registered.keys()):
            self._withdraw(name)
        for name, grant in registered.items():
            try:
                if isinstance(grant, StateError):
                    raise grant
                self._serve(grant)
            except (StateError, OSError) as error:
                self._complain(name, str(error))

    def _serve(self, grant: Grant) -> None:
        """Publish a grant, unless it is published unchanged. A grant with a problem is published, and reports it."""
        published = self._published.get(grant.name)
        if self.grants.get(grant.name) == grant and published and published.is_there():
            return
        if grant.name in self.grants:
            self._withdraw(grant.name)
        directory = self.state.prepare_mount(grant.name)
        published = listeners.listen(directory)
        self.grants[grant.name] = grant
        self._published[grant.name] = published
        self._acceptors[grant.name] = Acceptor(published.socket, lambda accepted: self._take(accepted, grant))
        self._heed_budget(grant.name)
        self._places[grant.name] = OpenPlaces(grant)
        if problem := grant.problem:
            self._complain(grant.name, problem)

    def _complain(self, name: str, problem: str) -> None:
        self.problems[name] = problem
        self._audit.write("failed", grant=name, why=problem)
        self._server_log.line(f"grant {name}: {problem}")

    def _withdraw(self, name: str) -> None:
        """Revoke a grant: its socket is removed, and its calls and connections end."""
        del self.grants[name]
        published = self._published.pop(name)
        self._places.pop(name).close()
        self._acceptors.pop(name).close()
        published.close()
        why = f"the grant {name} was revoked on the host"
        for call in [call for call in self._calls if call.grant == name]:
            call.fail("revoked", why)
        for connection in [connection for connection in self._connections if connection.grant == name]:
            connection.refuse("revoked", why)
        self._audit.write("revoked", grant=name)

    def _take(self, accepted: socket.socket, grant: Grant) -> None:
        task = asyncio.get_running_loop().create_task(self._connect(accepted, grant))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, accepted: socket.socket, grant: Grant) -> None:
        """Make a connection of the socket. `_connections` holds it from then on."""
        opened = functools.partial(self._open_call, grant, self.scope(grant))
        waiting = functools.partial(self._waiting_of, grant.name)
        guesses, note = self._guesses[grant.name], self._note
        held = functools.partial(self.holds.of, grant.name)
        hello = Hello(
            grant, guesses, lambda: self.cli, lambda: self.config.limits.idle, waiting, held, note, self.login
        )
        _, connection = await asyncio.get_running_loop().connect_accepted_socket(
            lambda: ClientConnection(hello, self._scheduler, self._server_log, self._connections, opened), accepted
        )
        count = self._scheduler[grant.name].connections
        if count > self.config.limits.connections:
            connection.refuse(
                "full",
                f"{count - 1} connections are open already; end some of them or raise limits.connections",
            )

    def scope(self, grant: Grant) -> Scope:
        """Return the policy settings for a grant's calls."""
        targets = tuple(share.target for share in grant.shares)
        web = self._launcher.is_confined and self.config.network == "web"
        return Scope(targets, self.config.allowed, self.config.refused, web=web, cli=self.cli.numbers)

    # Calls

    def _calls_in(self, *states: CallState) -> list[Call]:
        return [call for call in self._calls if call.state in states]

    def _open_call(self, grant: Grant, terms: Scope, channel: Channel, fields: Fields) -> Call:
        """Make a call for a channel that a client opened. The call is refused, or waits for its turn."""
        context = CallContext(
            grant, terms, self._pool, self._scheduler, self._server_log, self._note, self._launch, self._keeps
        )
        call = Call(channel, fields, context, self._on_over, self._on_up, self._on_asleep)
        self._calls[call] = None
        self._words[call.word] = call
        if self._is_stopping:
            call.fail("stopping", STOPPING)
        elif problem := self._disk.problem(grant.name):
            call.fail("full", problem)
        elif sum(other.size for other in self._calls if other.grant == call.grant and not other.has_run) > MAX_WAITING:
            call.fail("full", f"calls of {MAX_WAITING // MIB} MiB wait already for grant {grant.name}; try again later")
        elif not call.is_small or self.login.is_wanted:
            channel.defer(self._prepare(call))
        elif call.judge():
            self._enter(call)
        return call

    async def _prepare(self, call: Call) -> None:
        """Have a call judged, and its login renewed, while the loop goes on."""
        if not (call.judge() if call.is_small else await call.judge_elsewhere()):
            return
        await self.login.wait()
        if call.state is CallState.JUDGED:
            self._enter(call)

    def _enter(self, call: Call) -> None:
        """Add a call to the queue. It may start at once."""
        if not self.cli.version:
            call.fail("no-cli", self.cli.public_problem)
            return
        call.gate.attach(CallDesk(self, call), call.hold(self._launcher.is_confined))
        above = self._words.get(call.above)
        if above is not None and above.grant == call.grant and above.state is CallState.RUNNING:
            self.turns.nest(call, above)
            call.activity.is_nested = True
        # A program has little patience with a CLI that does not start. During a limit it asks its CLI, and hears.
        may_start = call.kind is Kind.INTERACTIVE or self.holds.of(call.grant) is not None
        draws = may_start and call.gate.hold is Hold.ANSWER
        call.wait(self.config.limits.wait, for_start=draws)
        try:
            self._check_budget(call)
            self._check_size(call)
            self._check_sessions(call)
            if draws:
                self._starts.add(call.grant, call)
            elif self.ask(call):
                self._ready.append(call)
        except QueueFullError as full:
            call.fail("full", _full(str(full), call.grant))
            return
        except OverBudgetError as over:
            call.fail("budget", str(over))
            return
        except RefusedTurnError as refusal:
            call.fail("full", str(refusal))
            return
        self._dispatch_soon()

    def _check_size(self, call: Call) -> None:
        waiting = [other for queue in self._queues for other in queue.waiting.get(call.grant, ())]
        if waiting and sum(other.size for other in waiting) + call.size > MAX_WAITING:
            raise QueueFullError(f"calls of {MAX_WAITING // MIB} MiB wait already")

    def _check_sessions(self, call: Call) -> None:
        """Raise RefusedTurnError if a call is a session, and no more of them may be open."""
        if call.gate.hold is not Hold.ANSWER:
            return
        limits = self.config.limits
        if (count := self._open_sessions(call.grant)) >= limits.sessions_per_grant:
            text = (
                f"{count} sessions of grant {call.grant} are open already; end one, or raise limits.sessions_per_grant"
            )
            raise RefusedTurnError(text)
        if (count := self._open_sessions()) >= limits.sessions:
            raise RefusedTurnError(f"{count} sessions are open already; end one, or raise limits.sessions")

    def _open_sessions(self, grant: str | None = None) -> int:
        """Return how many CLIs run that need no place for it, of one grant or of all."""
        mine = (call for call in self._calls if call.has_run and not call.has_slept and grant in (None, call.grant))
        return sum(call.gate.hold is Hold.ANSWER or not call.gate.may_pass for call in mine)

    # Places

    @property
    def _queues(self) -> tuple[FairQueue[Call], FairQueue[Call]]:
        return self.turns.queue, self._starts

    def ask(self, call: Call) -> bool:
        """Ask for a call's place. Returns whether it has one now. Raises RefusedTurnError, also HeldTurnError."""
        self._check_budget(call)
        if refusal := self._refusal(call):
            raise refusal
        try:
            has_place = self.turns.ask(call.grant, call)
        except QueueFullError as full:
            raise RefusedTurnError(_full(str(full), call.grant)) from None
        except NestedLimitError:
            raise RefusedTurnError(
                f"{self.config.limits.nested} calls from commands of one call work already; wait for one of them to "
                "end, or raise limits.nested",
                b"403 Forbidden",
            ) from None
        self._dispatch_soon()
        return has_place

    # Usage limits

    def hear_limit(self, call: Call, told: Told) -> None:
        """Hold new work because the API has told a call of a limit: of all grants, because they share the account, or
        of the call's grant alone."""
        grant = None if told.concerns_all else call.grant
        before = self.holds.of(grant)
        self.holds.hold(grant, told.cause, told.until, told.why)
        if told.cause == usage_limits.LIMIT:
            self._limit = told
        if before is None or abs(before.until - told.until) > SAME_LIMIT_S:
            call.note("held", why=told.cause, until=int(told.until), **({"window": told.window} if told.window else {}))
        self._dispatch_soon()

    def release(self) -> str:
        """Let new work start although the API told of a usage limit. Returns a problem; empty if it is done."""
        causes = (usage_limits.LIMIT, usage_limits.OVERLOAD, usage_limits.BURST)
        ended = [self.holds.release(grant, cause) for grant in (None, *self.grants) for cause in causes]
        if any(ended):
            self._audit.write("released")
            self._dispatch_soon()
        return "" if any(ended) else "nothing is held by a usage limit"

    def _refusal(self, call: Call) -> HeldTurnError | None:
        """Return what a session's request is answered if new work is held so long that it should not wait."""
        held, now = self.holds.of(call.grant), time.time()
        if held is None or call.state is not CallState.RUNNING or held.until - now <= SOON_S:
            return None
        same = self._limit is not None and held.cause == usage_limits.LIMIT
        told = self._limit if same and self._limit else Told(held.cause, held.until, held.why, concerns_all=False)
        sentence = f"{held.why}; new work goes on at {moment(held.until)}"
        return HeldTurnError(sentence, *usage_limits.refusal(told, sentence, now))

    def _tell(self, call: Call, position: int) -> None:
        """Tell a call that waits for a place how many come first, or that new work is held. If that is for too long,
        the call ends."""
        held = self.holds.of(call.grant)
        if refusal := self._refusal(call):
            call.gate.turn_away(refusal)
        elif held and call.state is CallState.WAITING and held.until - time.time() > self.config.limits.held:
            text = f"{held.why}, and new work goes on at {moment(held.until)} only, so this call was not started"
            call.fail("held", text)
        else:
            call.report_position(position, held)

    def _wake_later(self) -> None:
        """Look again when a hold ends. A host that was suspended looks some seconds later."""
        if self._wake_timer is not None:
            self._wake_timer.cancel()
        self._wake_timer = None
        at = self.holds.wake_at(self.turns.queue.waiting)
        if at is not None:
            delay = min(max(at - time.time(), 0.0), LOOK_AT_HOLDS_S)
            self._wake_timer = asyncio.get_running_loop().call_later(delay, self._dispatch_soon)

    def give_back(self, call: Call) -> bool:
        """Give back a call's place, or leave the queue. Returns False if the call has to keep its place."""
        if call.gate.hold is Hold.STDIN and self.turns.has_place(call) and not self._may_park(call):
            return False
        self.turns.queue.leave(call.grant, call)
        self.turns.give_back(call)
        call.go_on()
        self._dispatch_soon()
        return True

    def _may_park(self, call: Call) -> bool:
        """Return whether a call that waits for the end of its stdin may run on without a place. If not, it fails where
        others wait for a place: what fills its stdin may be among them."""
        limits = self.config.limits
        if self._open_sessions(call.grant) < limits.sessions_per_grant and self._open_sessions() < limits.sessions:
            return True
        if self.turns.queue.waiting:
            call.fail("full", "the standard input of this call does not end, and others wait for its place")
        return False

    def _on_up(self, call: Call) -> None:
        """Handle the end of a session's start."""
        if call in self._starting:
            self._starting.discard(call)
            self._starts.done(call.grant)
            self._dispatch_soon()

    def _on_over(self, call: Call) -> None:
        """Handle the end of a call, whose processes are gone."""
        self._calls.pop(call, None)
        self._words.pop(call.word, None)
        if call.has_run:
            self._served += 1
            call.note("ended", code=call.code, seconds=round(call.age, 3))
            if not call.has_slept:
                self._disk.used(call.grant)
        self.turns.over(call.grant, call)
        self._starts.leave(call.grant, call)
        self._on_up(call)
        self._dispatch_soon()

    def _on_asleep(self, call: Call) -> None:
        """Handle the end of the processes of a call that sleeps."""
        self.turns.over(call.grant, call)
        self._on_up(call)
        self._disk.used(call.grant)
        self._dispatch_soon()

    def _rest(self) -> None:
        """Let the sessions sleep that nobody uses."""
        after = self.config.sleep * 60
        asyncio.get_running_loop().call_later(
            min(REAP_EVERY_S, max(after / 4, 0.1)) if after else REAP_EVERY_S, self._rest
        )
        for call in self._calls_in(CallState.RUNNING) if after else ():
            call.rest(after)

    def _keeps(self, grant: Grant, session: str) -> bool:
        """Return whether a conversation can be resumed."""
        try:
            return has_conversation(self.state.private(grant), session)
        except (OSError, StateError):
            return False  # the next start finds out and says why

    def _dispatch_soon(self) -> None:
        """Start the next calls, in the next turns of the loop."""
        if not self._is_dispatching:
            self._is_dispatching = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Start one call only: it takes some milliseconds, and other work needs the loop as well."""
        self._is_dispatching = False
        if not self._is_stopping and (call := self._next()):
            self._let_go_on(call)
            self._dispatch_soon()
            return
        for call, position in self._starts.positions().items():
            call.report_position(position)
        for call, position in self.turns.queue.positions().items():
            self._tell(call, position)
        self._wake_later()

    def _next(self) -> Call | None:
        """Return the next call that starts or goes on."""
        while self._ready:
            call = self._ready.popleft()
            if call.state is CallState.WAITING:
                return call
        if turn := self._starts.next():
            self._starting.add(turn[1])
            return turn[1]
        return self.turns.next()

    def _let_go_on(self, call: Call) -> None:
        if call.state is CallState.WAITING:
            try:
                self._check_sessions(call)
            except RefusedTurnError as refusal:
                call.fail("full", str(refusal))
                return
        if self.turns.has_place(call):
            call.gate.open()
        call.go_on()

    def _waiting_of(self, grant: str) -> tuple[int, int]:
        """Return how many calls of a grant wait, and how many calls come before the first of them."""
        calls = [call for queue in self._queues for call in queue.waiting.get(grant, ())]
        return len(calls), min((call.activity.ahead or 0 for call in calls), default=0)

    def _launch(self, request: LaunchRequest, channel: Channel, listener: Listener) -> tuple[CliProcess, ToolCalls]:
        """Launch a call with the current configuration."""
        return self._launcher.launch(request, channel, listener)

    def _note(self, event: str, **facts: Any) -> None:
        """Write to the current audit log."""
        self._audit.write(event, **facts)

    # Use and budgets

    def _record(self, grant: str, reports: list[Report]) -> None:
        """Count what the CLI of a grant's call reports of its use. Raises OSError if that is not possible now."""
        try:
            self._usage.add(grant, reports, today(time.time()))
        except sqlite3.Error as error:
            self._server_log.line(f"{self.state.usage}: {error}; the use of grant {grant} is not counted")
            raise OSError(str(error)) from error
        self._heed_budget(grant)

    def _standings(self, grant: str) -> list[Standing]:
        """Return a grant's budgets with what is used of them; without a database that can be read, none."""
        try:
            return standings(self.config.budgets, grant, self._usage.used, time.time())
        except (sqlite3.Error, OSError) as error:
            self._server_log.line(f"{self.state.usage}: {error}; the budgets of grant {grant} do not count")
            return []

    def _heed_budget(self, grant: str) -> Standing | None:
        """Hold a grant's new work if its budget says so, or let it go on. Returns the budget that is used up."""
        over = worst(self._standings(grant))
        if over is not None and over.budget.over is Over.HOLD:
            self.holds.hold(grant, BUDGET, over.ends.timestamp(), over.sentence)
        else:
            self.holds.release(grant, BUDGET)
        if over is None:
            self._told_over.pop(grant, None)
        elif self._told_over.get(grant) != (told := (over.budget, over.ends.timestamp())):
            self._told_over[grant] = told
            self._audit.write("budget", grant=grant, over=over.budget.over.value, why=over.sentence, until=over.end)
            self._server_log.line(f"{over.sentence}; it begins again at {over.end}")
        return over

    def _check_budget(self, call: Call) -> None:
        """Raise OverBudgetError if the budget of a call's grant is used up and the call cannot wait for its end.

        A call that has not started can wait, unless the budget says that it is refused. A session's new prompt cannot:
        a person wants to know. A nested call cannot: the call above it would wait for it.
        """
        over = self._heed_budget(call.grant) if self.config.budgets else None
        if over is None or over.budget.over is Over.WARN:
            return
        can_wait = call.state is CallState.WAITING and not call.activity.is_nested
        if over.budget.over is Over.STOP or not can_wait:
            raise OverBudgetError(f"{over.sentence}; it begins again at {over.end}", b"403 Forbidden")

    def _on_disk_exceeded(self, grant: str) -> None:
        for call in self._calls_in(CallState.RUNNING):
            if call.grant == grant:
                call.fail("full", self._disk.problem(grant))

    # For the operator

    def status(self) -> dict[str, Any]:
        """Return what `status` shows."""
        return {
            "pid": os.getpid(),
            "uptime_s": round(time.time() - self._started, 1),
            "cli": self.cli.version,
            "login": self.login.status(),
            "running": self.turns.queue.running.total(),
            "queued": sum(len(calls) for queue in self._queues for calls in queue.waiting.values()),
            "served": self._served,
            "stopping": self._is_stopping,
            "held": _facts(self.holds.of(None)),
            "grants": {name: self._grant_status(grant) for name, grant in self.grants.items()},
            "problems": {name: problem for name, problem in self.problems.items() if name not in self.grants},
        }

    def _grant_status(self, grant: Grant) -> dict[str, Any]:
        return {
            "workspace": grant.workspace,
            "connections": sum(connection.grant == grant.name for connection in self._connections),
            "running": self.turns.queue.running[grant.name],
            "queued": self._waiting_of(grant.name)[0],
            "held": _facts(self.holds.of(grant.name)),
            "calls": [call.facts() for call in self._calls if call.grant == grant.name],
            "problem": grant.problem or self._disk.note(grant.name),
            "budgets": [standing.facts() for standing in self._standings(grant.name)],
            "wrong_workspaces": self._guesses[grant.name].count,
        }


def _facts(held: Held | None) -> dict[str, str | float] | None:
    """Return what `status` shows of what holds new work."""
    return None if held is None else dataclasses.asdict(held)


def _full(why: str, grant: str) -> str:
    return f"the bridge is full: {why} for grant {grant}; try again later, or raise limits.queued"

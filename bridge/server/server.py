"""The server as a whole: grants published, calls in turn, reload, a graceful end."""

from __future__ import annotations

import asyncio
import collections
import os
import resource
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bridge.policy import Scope
from bridge.server.call import Call
from bridge.server.connection import Peer
from bridge.server.guess_limit import Guesses
from bridge.server.host import credentials
from bridge.server.host.acceptor import Acceptor
from bridge.server.host.audit import Audit
from bridge.server.host.cli import HostCli
from bridge.server.host.config import MIB, Config
from bridge.server.host.disk_usage import Disk
from bridge.server.host.grants import Grant, OpenPlaces, StateError
from bridge.server.host.listeners import Listener, listen
from bridge.server.host.log import LogFile, ServerLog
from bridge.server.host.state_directory import StateDirectory
from bridge.server.policy_pool import Judges
from bridge.server.queue import FairQueue, QueueFullError
from bridge.server.sandbox.proxy import Rules
from bridge.server.sandbox.stuck_pipes import LOOK_EVERY_S
from bridge.server.scheduler import Lanes

MAX_WAITING = 16 * MIB
"""Bytes of the calls of one grant that wait: some hundred of usual size, twelve of the largest."""

ENDED_WITHIN_S = 2.0
"""For children that are being killed when the server ends."""

REAP_EVERY_S = 5.0


class Service:
    """All that the server knows. `load` reads the configuration anew when it is told to reload."""

    def __init__(self, state: StateDirectory, load: Callable[[], Config]) -> None:
        self.state = state
        self._load = load
        self.config = load()
        self.cli = HostCli(self.config.claude)
        self.peers: set[Peer] = set()
        self.grants: dict[str, Grant] = {}
        self.places: dict[str, OpenPlaces] = {}
        self.problems: dict[str, str] = {}
        """Why grants are not served, by name: one of them keeps no other from it."""
        self.guesses: collections.defaultdict[str, Guesses] = collections.defaultdict(Guesses)
        self.queue: FairQueue[Call] = FairQueue(self.config.limits, self.grants)
        self.stopping = False
        self.started = time.time()
        self.served = 0
        self._published: dict[str, Listener] = {}
        self._acceptors: dict[str, Acceptor] = {}
        self._connecting: set[asyncio.Task[None]] = set()
        self.sayer = ServerLog()
        self.log: LogFile | None = None
        """Where the server's own lines go, when it was given a file for them."""
        self.lanes = Lanes()
        self.judges = Judges(state.root / "scratch")
        self.disk = Disk(self)
        self._dispatching = False
        self._use(self.config)

    def _use(self, config: Config) -> None:
        self.config = config
        self.queue.limits = config.limits
        if config.claude != self.cli.configured:
            self.cli = HostCli(config.claude)
        path = Path(config.audit_path) if config.audit_path else self.state.root / "audit.jsonl"
        self.audit = Audit(path, config.audit_size, self.sayer)

    # Life

    async def start(self) -> None:
        """Publish every grant; from here on clients are served."""
        # A core file of the CLI would hold the credential, and could land in the workspace.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # A call may need two hundred descriptors; the usual limit of 1024 is one of select()'s, which is not used here.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        asyncio.get_running_loop().set_exception_handler(self.sayer.unhandled)
        self.judges.start()
        await self.cli.ask()
        self.audit.write("serving", pid=os.getpid(), cli=self.cli.version)
        self.refresh()
        readable = [name for name, grant in self.state.registered().items() if isinstance(grant, Grant)]
        if readable and not self.grants:
            raise StateError(self.problems[readable[0]])
        asyncio.get_running_loop().call_later(REAP_EVERY_S, self._reap)
        asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look_at_pipes)

    async def stop(self) -> None:
        """Nobody new; waiting calls are told; running ones get their grace; nothing is left behind."""
        self.stopping = True
        for name, published in self._published.items():
            self._acceptors[name].close()
            published.close()
        for call in self.calls("waiting"):
            call.fail("stopping", "the bridge is stopping, and this call was not started")
        for peer in list(self.peers):
            peer.leave()
        await self._until(lambda: not self.calls("running"), self.config.limits.stop_grace)
        for call in self.calls("running"):
            call.fail("stopping", "the bridge has stopped in the middle of this call")
        await self._until(lambda: not self.queue.running, ENDED_WITHIN_S)
        for peer in list(self.peers):
            peer.close()
        await self._until(lambda: not self.peers, 0.5)
        self.judges.close()
        self.audit.settle()
        self.audit.write("stopped", served=self.served)

    @staticmethod
    async def _until(reached: Callable[[], bool], limit: float) -> None:
        deadline = time.monotonic() + limit
        while not reached() and time.monotonic() < deadline:  # noqa: ASYNC110 - facts of many owners, once
            await asyncio.sleep(0.02)

    def reload(self) -> str:
        """Read configuration and grants anew; a mistake changes nothing and is returned as a line."""
        try:
            self._use(self._load())
            self.refresh()
        except Exception as error:
            return str(error)
        self.dispatch()
        return ""

    def _reap(self) -> None:
        asyncio.get_running_loop().call_later(REAP_EVERY_S, self._reap)
        for peer in list(self.peers):
            peer.reap(self.config.limits.idle)
        self.audit.settle()
        self.disk.settle()
        if self.log is not None:
            self.log.settle()
        for name, published in list(self._published.items()):
            if name in self.grants and not published.is_there() and not self.stopping:
                self._withdraw(name)  # removed by hand: who removed the socket has revoked it

    def _look_at_pipes(self) -> None:
        asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look_at_pipes)
        for number, call in enumerate(self.calls("running")):  # each in a turn of the loop of its own
            asyncio.get_running_loop().call_later(number * LOOK_EVERY_S / 100, call.look_at_pipes)

    # Grants

    def refresh(self) -> None:
        """Make what is published the same as what is registered."""
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
        """Publish a grant, unless it is published as it stands. One with a problem answers, and says which."""
        published = self._published.get(grant.name)
        if self.grants.get(grant.name) == grant and published and published.is_there():
            return
        if grant.name in self.grants:
            self._withdraw(grant.name)
        directory = self.state.prepare_mount(grant.name)
        published = listen(directory)
        self.grants[grant.name] = grant
        self._published[grant.name] = published
        self._acceptors[grant.name] = Acceptor(published.socket, lambda accepted: self._take(accepted, grant))
        self.places[grant.name] = OpenPlaces(grant)
        if problem := grant.problem:
            self._complain(grant.name, problem)

    def _complain(self, name: str, problem: str) -> None:
        self.problems[name] = problem
        self.audit.write("failed", grant=name, why=problem)
        self.sayer.line(f"grant {name}: {problem}")

    def _withdraw(self, name: str) -> None:
        """Revoke: the socket goes, and so do the calls of everyone who came through it."""
        del self.grants[name]
        published = self._published.pop(name)
        self.places.pop(name).close()
        self._acceptors.pop(name).close()
        published.close()
        for peer in [peer for peer in self.peers if peer.grant.name == name]:
            for call in list(peer.calls.values()):
                call.fail("revoked", f"the grant {name} was revoked on the host")
            peer.refuse("revoked", f"the grant {name} was revoked on the host")
        self.audit.write("revoked", grant=name)

    def _take(self, accepted: socket.socket, grant: Grant) -> None:
        task = asyncio.get_running_loop().create_task(self._connect(accepted, grant))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, accepted: socket.socket, grant: Grant) -> None:
        """Hand the socket to a Peer, which `peers` keeps alive from then on."""
        loop = asyncio.get_running_loop()
        _, peer = await loop.connect_accepted_socket(lambda: Peer(self, grant), accepted)
        count = peer.lane.connections
        if count > self.config.limits.connections:
            peer.refuse(
                "full",
                f"{count - 1} connections are open already; end some of them or raise limits.connections",
            )

    def scope(self, grant: Grant) -> Scope:
        """The terms for a grant's calls."""
        targets = tuple(share.target for share in grant.shares)
        web = self.is_confined and self.config.network == "web"
        return Scope(targets, self.config.allowed, self.config.refused, web=web)

    @property
    def is_confined(self) -> bool:
        """Whether calls run in a namespace, and so with a network of their own."""
        return self.config.confinement != "none"

    # Calls

    def calls(self, state: str) -> list[Call]:
        """The calls in a state, of all connections."""
        return [call for peer in self.peers for call in peer.calls.values() if call.state == state]

    def enter(self, call: Call) -> None:
        """Let a call wait for its turn, which may be now."""
        name = call.peer.grant.name
        try:
            self._check_size(call)
            self.queue.add(name, call)
        except QueueFullError as full:
            call.state = "judged"
            call.fail(
                "full",
                f"the bridge is full: {full} for grant {name}; try again later, or raise limits.queued",
            )
            return
        self.dispatch()

    def _check_size(self, call: Call) -> None:
        waiting = self.queue.waiting.get(call.peer.grant.name, ())
        if waiting and sum(other.size for other in waiting) + call.size > MAX_WAITING:
            raise QueueFullError(f"calls of {MAX_WAITING // MIB} MiB wait already")

    def leave(self, call: Call) -> None:
        """A call waits no longer."""
        self.queue.leave(call.peer.grant.name, call)

    def ended(self, call: Call, ran: bool, code: int | None) -> None:
        """A call is over, and its processes are gone."""
        call.peer.calls.pop(call.number, None)
        if ran:
            self.served += 1
            self.queue.done(call.peer.grant.name)
            self.audit.write("ended", **call.peer.who, code=code, seconds=round(call.age, 3))
            self.disk.used(call.peer.grant.name)
            call.peer.carry(running=bool(call.peer.calls))
        if self.stopping and not call.peer.calls:
            call.peer.close()
        self.dispatch()

    def dispatch(self) -> None:
        """Start whose turn it is, in the next turns of the loop, and tell the others where they stand."""
        if not self._dispatching:
            self._dispatching = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Start one: it takes some milliseconds, and others want the loop, too."""
        self._dispatching = False
        if not self.stopping and (turn := self.queue.next()):
            turn[1].start()
            self.dispatch()
            return
        for call, position in self.queue.positions().items():
            call.tell_position(position)

    # What calls need

    @property
    def operator_environment(self) -> dict[str, str]:
        """The operator's variables, but for the secrets, which go by descriptor."""
        secrets = (credentials.TOKEN, credentials.KEY)
        return {name: value for name, value in self.config.environment.items() if name not in secrets}

    def rules(self, grant: Grant, scope: Scope, credential: credentials.Credential | None) -> Rules:
        """Where a call may go, and what its CLI is told in the place of names and secrets."""
        return Rules.of(self.operator_environment, scope.web, self.config.web_ports, credential, grant.name)

    def credential(self) -> credentials.Credential | None:
        """What the CLI logs in with, read anew for each call: a login counts at once."""
        environment = self.config.environment
        return credentials.find(self.config.credentials, self.state.token, os.environ, environment)

    def status(self) -> dict[str, Any]:
        """What `status` shows."""
        return {
            "pid": os.getpid(),
            "uptime_s": round(time.time() - self.started, 1),
            "cli": self.cli.version,
            "running": self.queue.running.total(),
            "queued": sum(map(len, self.queue.waiting.values())),
            "served": self.served,
            "stopping": self.stopping,
            "grants": {name: self._grant_status(grant) for name, grant in self.grants.items()},
            "problems": {name: problem for name, problem in self.problems.items() if name not in self.grants},
        }

    def _grant_status(self, grant: Grant) -> dict[str, Any]:
        peers = [peer for peer in self.peers if peer.grant.name == grant.name]
        calls = [call for peer in peers for call in peer.calls.values()]
        return {
            "workspace": grant.workspace,
            "connections": len(peers),
            "running": self.queue.running[grant.name],
            "queued": len(self.queue.waiting.get(grant.name, ())),
            "calls": [{"state": call.state, "age_s": round(call.age, 1), **call.peer.who} for call in calls],
            "problem": grant.problem or self.disk.note(grant.name),
            "wrong_workspaces": self.guesses[grant.name].count,
        }

"""What the supervisor looks at while it runs: the probes, what changed, and for how long recovery has failed."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from agent import volumes
from agent.future import Future
from agent.loop import Task
from agent.tmux import SESSION, TmuxError
from healthcheck import world
from healthcheck.checks import BEING_MENDED, FAIL, PASS, Seen, all_checks
from healthcheck.probes import Probe, ProbeError
from healthcheck.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from agent.events import Events
    from agent.life import Life
    from agent.loop import Loop
    from agent.tmux import Pane, Tmux

VOLUME_EVERY_S, VOLUME_DEADLINE_S = 3.0, 1.5
TMUX_EVERY_S, TMUX_DEADLINE_S = 3.0, 1.8
"""Cadence and deadline together stay below 5 s, after which health has to tell the truth."""
BRIDGE_EVERY_S, BRIDGE_DEADLINE_S = 4.0, 1.5
MEMORY_EVERY_S, MEMORY_DEADLINE_S = 5.0, 2.0
TASK_MASTER_EVERY_S, TASK_MASTER_DEADLINE_S = 60.0, 2.0

FIRST_LOOK_S = 0.2
LOOK_PACE_S = 0.01
"""Only between the session's opening and the first sight of it."""


class Watch:
    """All probes, and what follows from what they saw."""

    def __init__(self, loop: Loop, life: Life, events: Events, tmux: Tmux, manifest: dict[str, Any]) -> None:
        self.lasting: Future[str] = Future()
        self.on_missing_session: Callable[[], None] = lambda: None
        self._loop = loop
        self._life = life
        self._events = events
        self._tmux = tmux
        self._told: dict[str, tuple[str, str]] = {}
        self._failing_since: float | None = None
        self._tasks: list[Task[None]] = []
        mounted = volumes.mounts()
        # one thread for each volume, so that a hung one hides no other
        looks = {path: partial(volumes.look, path, mounted[path]) for path in volumes.VOLUMES}
        workers = {path: Worker(loop) for path in looks}
        bridge, rest = Worker(loop), Worker(loop)
        host = world.Bridge(life.settings.bridge_socket)
        version = str(manifest.get("tools", {}).get("task-master", "unknown version"))
        self.seen = Seen(
            life=life,
            tmux=Probe(loop, "tmux", self._panes, every_s=TMUX_EVERY_S, deadline_s=TMUX_DEADLINE_S),
            volumes={
                path: Probe(
                    loop,
                    path,
                    partial(workers[path].call, look),
                    every_s=VOLUME_EVERY_S,
                    deadline_s=VOLUME_DEADLINE_S,
                )
                for path, look in looks.items()
            },
            bridge=Probe(
                loop,
                "bridge",
                lambda: bridge.call(host.look),
                every_s=BRIDGE_EVERY_S,
                deadline_s=BRIDGE_DEADLINE_S,
            ),
            task_master=Probe(
                loop,
                "task-master",
                lambda: rest.call(partial(world.task_master, version)),
                every_s=TASK_MASTER_EVERY_S,
                deadline_s=TASK_MASTER_DEADLINE_S,
            ),
            memory=Probe(
                loop,
                "memory",
                lambda: rest.call(world.memory),
                every_s=MEMORY_EVERY_S,
                deadline_s=MEMORY_DEADLINE_S,
            ),
        )

    @property
    def probes(self) -> list[Probe[Any]]:
        """Return all probes."""
        seen = self.seen
        return [seen.tmux, *seen.volumes.values(), seen.bridge, seen.task_master, seen.memory]

    def start(self) -> None:
        """Look from now on."""
        for probe in self.probes:
            if probe is self.seen.tmux and self._life.is_command:
                continue
            probe.changed = self.judge
            self._tasks.append(self._loop.start(probe.keep_looking()))

    def stop(self) -> None:
        """Look no more."""
        for task in self._tasks:
            task.cancel()

    async def first_looks(self) -> None:
        """Wait until everything was seen once; for what is optional only a moment."""
        for probe in self.seen.volumes.values():
            await probe.first_look
        for optional in (self.seen.bridge, self.seen.task_master, self.seen.memory):
            await self._loop.first_of(optional.first_look, timeout_s=FIRST_LOOK_S)
        while not self._life.is_command and not self._sees_session():
            self.seen.tmux.look_again()
            await self._loop.sleep(LOOK_PACE_S)

    def _sees_session(self) -> bool:
        return SESSION in {pane.session for pane in self.seen.tmux.value or ()}

    def agent_volume_hangs(self) -> bool:
        """Say whether touching /agent would hang us too."""
        return self.seen.volumes[volumes.AGENT].trouble.startswith("hung")

    def _agent_volume_is_sick(self) -> bool:
        """Say whether tmux, whose socket is on /agent, may suffer from what no restart would mend."""
        probe = self.seen.volumes[volumes.AGENT]
        return bool(probe.trouble or (probe.value and probe.value.trouble))

    def judge(self) -> None:
        """Tell what changed, and notice when recovery has failed for too long."""
        checks = {check.name: check for check in all_checks(self.seen)}
        if self._life.phase == "running":
            for name, check in checks.items():
                self._tell_change(name, check.status, check.detail, required=check.required)
        if any(checks[name].status == FAIL for name in BEING_MENDED) and not self._agent_volume_is_sick():
            self._keep_time(checks["tmux"].detail if checks["tmux"].status == FAIL else checks["agent"].detail)
        else:
            self._failing_since = None

    def _keep_time(self, detail: str) -> None:
        limit = self._life.settings.unhealthy_limit_s
        if self._failing_since is None:
            since = self._failing_since = self._loop.now()
            if limit:
                self._loop.call_later(limit, lambda: self._limit_reached(since, detail))

    def _limit_reached(self, since: float, detail: str) -> None:
        if self._failing_since == since:
            self.lasting.set(f"unhealthy for {self._life.settings.unhealthy_limit_s:g} s: {detail}")

    def _tell_change(self, name: str, status: str, detail: str, *, required: bool) -> None:
        before, _ = self._told.get(name, (PASS, ""))
        if before == status:
            return
        self._told[name] = (status, detail)
        words = f"{name} {status}: {detail}"
        if status == FAIL and required:
            self._events.warning("health", words)
        else:
            self._events.info("health", words)

    async def _panes(self) -> list[Pane]:
        if not self._tmux.is_up:
            raise ProbeError(self._life.trouble or "the tmux server is not running")
        try:
            panes = await self._tmux.panes()
        except TmuxError as error:
            raise ProbeError(str(error)) from None
        if SESSION not in {pane.session for pane in panes}:
            self.on_missing_session()  # should its hook have been lost
        return panes

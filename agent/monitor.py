"""Runs the health checks, logs what changed, and notices when recovery has failed for too long."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from agent import certificates, paths, volumes
from agent.tmux import TmuxError
from agent.waiting import new_future, set_once
from healthcheck.check import FAIL, PASS
from healthcheck.checks import all_checks
from healthcheck.checks.tmux import TmuxCheck
from healthcheck.checks.volumes import VolumesCheck
from healthcheck.facts import RUNNING, SESSION, Sources
from healthcheck.facts import Pane as SeenPane
from healthcheck.probe import ProbeError
from healthcheck.status import Result, results

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agent.events import Events
    from agent.run_state import RunState
    from agent.tmux import Pane, Tmux
    from healthcheck.check import Check

C = TypeVar("C", bound="Check")

OPTIONAL_FIRST_S = 0.2
"""How long the start waits for the first result of a check that is not required."""
LOOK_PACE_S = 0.01
"""Used only between the opening of the session and its first observation."""


class Monitor:
    """Runs all checks and acts on their results."""

    def __init__(self, run_state: RunState, events: Events, tmux: Tmux, manifest: dict[str, Any]) -> None:
        self.lasting_failure: asyncio.Future[str] = new_future()
        self.on_missing_session: Callable[[], None] = lambda: None
        self._run_state = run_state
        self._events = events
        self._tmux = tmux
        self._logged: dict[str, str] = {}
        self._failing_since: float | None = None
        self._clock = asyncio.get_running_loop()
        self.checks = all_checks(
            Sources(
                panes=None if run_state.is_command else self._panes,
                volumes={path: partial(volumes.observe, path, mount) for path, mount in volumes.mounts().items()},
                bridge_socket=run_state.settings.bridge_socket,
                certificates=partial(certificates.renew, lambda line: events.warning("certificates", line)),
                task_master_version=str(manifest.get("tools", {}).get("task-master", "unknown version")),
            )
        )
        self._sessions = _of_kind(self.checks, TmuxCheck)
        self._volumes = _of_kind(self.checks, VolumesCheck)

    def start(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Start to observe. Returns the tasks, which never end by themselves."""
        probes = [probe for check in self.checks for probe in check.probes]
        for probe in probes:
            probe.changed = self.evaluate
        return [group.create_task(probe.keep_observing()) for probe in probes]

    async def first_results(self) -> None:
        """Wait until every check has a result; for optional checks only OPTIONAL_FIRST_S."""
        for check in self.checks:
            for probe in check.probes:
                with contextlib.suppress(TimeoutError):  # ignored because it may come later
                    async with asyncio.timeout(None if check.required else OPTIONAL_FIRST_S):
                        await probe.first.wait()
        while not self._run_state.is_command and SESSION not in self._sessions.sessions:
            self._sessions.observe_again()
            await asyncio.sleep(LOOK_PACE_S)

    def look_at_sessions(self) -> None:
        """Observe tmux now."""
        self._sessions.observe_again()

    def agent_volume_hangs(self) -> bool:
        """Say whether access to /agent would block."""
        return self._volumes.hangs(paths.AGENT)

    def evaluate(self) -> None:
        """Log what changed, and notice when recovery has failed for too long."""
        found = results(self.checks, self._run_state.facts())
        if self._run_state.phase == RUNNING:
            for result in found:
                self._log_change(result)
        recoverable = {check.name for check in self.checks if check.recoverable}
        failing = [result for result in found if result.name in recoverable and result.status == FAIL]
        # tmux fails too when /agent fails, because its socket is there; a restart would not repair that
        if failing and not self._volumes.is_bad(paths.AGENT):
            self._keep_time(failing[0].detail)
        else:
            self._failing_since = None

    def _keep_time(self, detail: str) -> None:
        limit_s = self._run_state.settings.unhealthy_limit_s
        if self._failing_since is None:
            since = self._failing_since = self._clock.time()
            if limit_s:
                self._clock.call_later(limit_s, self._limit_reached, since, detail)

    def _limit_reached(self, since: float, detail: str) -> None:
        if self._failing_since == since:
            limit_s = self._run_state.settings.unhealthy_limit_s
            set_once(self.lasting_failure, f"unhealthy for {limit_s:g} s: {detail}")

    def _log_change(self, result: Result) -> None:
        if self._logged.get(result.name, PASS) == result.status:
            return
        self._logged[result.name] = result.status
        text = f"{result.name} {result.status}: {result.detail}"
        if result.status == FAIL:  # only a required check fails; others warn at worst
            self._events.warning("health", text)
        else:
            self._events.info("health", text)

    async def _panes(self) -> list[SeenPane]:
        if not self._tmux.is_up:
            raise ProbeError(self._run_state.problem or "the tmux server is not running")
        try:
            panes = await self._tmux.panes()
        except TmuxError as error:
            raise ProbeError(str(error)) from None
        if SESSION not in {pane.session for pane in panes}:
            self.on_missing_session()  # in case the hook's signal was lost
        return [_seen(pane) for pane in panes]


def _seen(pane: Pane) -> SeenPane:
    return SeenPane(
        session=pane.session,
        attached=pane.attached,
        window_index=pane.window_index,
        window_name=pane.window_name,
        window_active=pane.window_active,
        activity=pane.activity,
        pane=pane.pane,
        pid=pane.pid,
        command=pane.command,
        has_ended=pane.exit_code is not None,
    )


def _of_kind(checks: Iterable[Check], kind: type[C]) -> C:
    return next(check for check in checks if isinstance(check, kind))

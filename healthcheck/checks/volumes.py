"""`volumes`: /agent can be written; the others can be read, and written unless they were mounted read-only."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from healthcheck.check import FAIL, PASS, Check, Finding, Metric
from healthcheck.probe import Observation, Probe
from healthcheck.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from healthcheck.facts import AgentFacts, VolumeStatus

EVERY_S, DEADLINE_S = 3.0, 1.5
"""Interval and deadline together stay below 5 s, the limit within which health has to be right."""


class VolumesCheck(Check):
    """Observes each volume with its own function, which may block."""

    name = "volumes"
    required = True

    def __init__(self, observe: Mapping[str, Callable[[], VolumeStatus]]) -> None:
        # one thread for each volume, so that one that hangs does not hide the others
        self._probes = {
            path: Probe(path, partial(Worker().call, look), every_s=EVERY_S, deadline_s=DEADLINE_S)
            for path, look in observe.items()
        }
        self.probes = tuple(self._probes.values())

    @property
    def seen(self) -> dict[str, Observation[VolumeStatus]]:
        """Return the last observations, by path."""
        return {path: probe.last for path, probe in self._probes.items()}

    def hangs(self, path: str) -> bool:
        """Say whether access to this volume would block."""
        return self._probes[path].last.problem.startswith("hung")

    def is_bad(self, path: str) -> bool:
        """Say whether something is wrong with this volume."""
        last = self._probes[path].last
        return bool(last.problem or (last.value and last.value.problem))

    def evaluate(self, agent: AgentFacts) -> Finding:
        """Return which volumes have problems, and which problems."""
        problems, words = [], []
        seen = self.seen
        for path, observation in seen.items():
            if observation.value is None:
                problems.append(f"{path} {observation.why_missing}")
            elif observation.value.problem:
                problems.append(observation.value.problem)
            else:
                words.append(f"{path} {'is mounted read-only' if observation.value.read_only else 'can be written'}")
        age_s = max(observation.age_s for observation in seen.values())
        return Finding(FAIL, "; ".join(problems), age_s) if problems else Finding(PASS, ", ".join(words), age_s)

    def metrics(self) -> Iterable[Metric]:
        """Return free and total size of each volume."""
        found = [observation.value for observation in self.seen.values() if observation.value is not None]
        free = tuple(({"path": volume.path}, float(volume.free)) for volume in found)
        total = tuple(({"path": volume.path}, float(volume.total)) for volume in found)
        yield Metric("volume_free_bytes", "gauge", "Free for the agent.", free)
        yield Metric("volume_size_bytes", "gauge", "Size of its file system.", total)

    def details(self) -> dict[str, Any]:
        """List the volumes."""
        return {"volumes": [_row(path, observation) for path, observation in self.seen.items()]}


def _row(path: str, observation: Observation[VolumeStatus]) -> dict[str, Any]:
    volume = observation.value
    if volume is None:
        return {"path": path, "trouble": observation.problem}
    return {
        "path": path,
        "trouble": volume.problem,
        "kind": volume.kind,
        "read_only": volume.read_only,
        "total_bytes": volume.total,
        "free_bytes": volume.free,
    }

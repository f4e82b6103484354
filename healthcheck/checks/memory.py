"""`memory`: the container is not about to run out of memory, according to its own cgroup."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from healthcheck.check import PASS, WARN, Check, Finding, Metric, counter, gauge, size
from healthcheck.probe import Observation, Probe
from healthcheck.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterable

    from healthcheck.facts import AgentFacts

EVERY_S, DEADLINE_S = 5.0, 2.0
MUCH = 0.9

UNLIMITED = 1 << 60
"""cgroup v1 shows "no limit" as a number near 2^63."""


@dataclass(frozen=True)
class Memory:
    """Memory use and limit of the container in bytes; `limit` is 0 where there is none."""

    used: int
    limit: int
    oom_kills: int


class MemoryCheck(Check):
    """Warns when most of the limit is used."""

    name = "memory"

    def __init__(self) -> None:
        self._probe = Probe(self.name, partial(Worker().call, read), every_s=EVERY_S, deadline_s=DEADLINE_S)
        self.probes = (self._probe,)

    def evaluate(self, agent: AgentFacts) -> Finding:
        """Return how much is used."""
        return evaluate(self._probe.last)

    def metrics(self) -> Iterable[Metric]:
        """Return use, limit and the number of kills."""
        memory = self._probe.last.value
        if memory is None:
            return
        yield gauge("memory_used_bytes", "Used by the container.", memory.used)
        yield gauge("memory_limit_bytes", "0 where there is none.", memory.limit)
        yield counter("oom_kills_total", "Processes killed for want of memory.", memory.oom_kills)

    def details(self) -> dict[str, Any]:
        """Return the numbers."""
        memory = self._probe.last.value
        return {"memory": asdict(memory) if memory else {}}


def evaluate(seen: Observation[Memory]) -> Finding:
    """Return how much of the limit is used, and what to do when it is too much."""
    memory, age_s = seen.value, seen.age_s
    if memory is None:
        return Finding(WARN, seen.why_missing, age_s)
    if not memory.limit:
        return Finding(PASS, f"{size(memory.used)} used, no limit", age_s)
    words = f"{size(memory.used)} of {size(memory.limit)} used"
    if memory.used > MUCH * memory.limit:
        return Finding(WARN, f"{words}; give the container more with `--memory`, or run less in it", age_s)
    if memory.oom_kills:
        return Finding(PASS, f"{words}; {memory.oom_kills} processes were killed for want of memory", age_s)
    return Finding(PASS, words, age_s)


def read(root: Path = Path("/sys/fs/cgroup")) -> Memory:
    """Read the container's own cgroup, version 2 or 1. Cache that can be dropped at once does not count."""
    if (root / "memory.current").exists():
        return Memory(
            used=_number(root / "memory.current") - _field(root / "memory.stat", "inactive_file"),
            limit=_number(root / "memory.max"),
            oom_kills=_field(root / "memory.events", "oom_kill"),
        )
    limit = _number(root / "memory/memory.limit_in_bytes")
    return Memory(
        used=_number(root / "memory/memory.usage_in_bytes")
        - _field(root / "memory/memory.stat", "total_inactive_file"),
        limit=0 if limit > UNLIMITED else limit,
        oom_kills=_field(root / "memory/memory.oom_control", "oom_kill"),
    )


def _number(path: Path) -> int:
    text = path.read_text().strip()
    return 0 if text == "max" else int(text)


def _field(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0

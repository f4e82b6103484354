"""One to a hundred agents: how long one command takes to start and to stop them, and what they cost while they idle.

`nox -s bench -- fleet` takes the sizes of `SIZES`. `rows` is for whoever draws them.
"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import docker
from docker.models.containers import Container

from pipeline.agents import compose
from pipeline.files import ROOT
from tests.bench import plots
from tests.bench.figures import Figure, sizes
from tests.support.bridge_host import FAKE_CLI, descendants
from tests.support.fleets import Fleet
from tests.support.waiting import let_pass

SIZES = (1, 5, 10, 25, 50, 100)
IDLE_S = 20.0
TICK = os.sysconf("SC_CLK_TCK")
SERVERS = ("dockerd", "containerd", "docker-proxy")
LEAST_PROBES = 25
LISTED = 7


@dataclass(frozen=True)
class Row:
    """What was measured of so many agents."""

    agents: int
    up_s: float
    """From the command's start to its end: all are healthy, with a tmux session and a grant."""
    up_cpu_s: float
    """Processor time of the whole machine meanwhile."""
    again_s: float
    """The same command once more, which changes nothing."""
    ps_s: float
    """`agents.ps --json`; the median of some."""
    probe_ms: float
    """Processor time of one probe: in the container, in the engine's helpers and in the engine."""
    probe_cores: float
    """Processors for all probes, at the interval that the agents have."""
    own_cores: float
    """Processors that the agents need by themselves while nobody does anything."""
    counted_cores: float | None
    """Processors of all that is no agent's own, counted over a whole interval, so that each agent is probed once.
    None: not counted."""
    memory_mb: float
    """Memory of one agent's container, without the page cache; the mean."""
    helper_mb: float
    """Memory of the engine's helper process of one agent (containerd-shim); the mean."""
    down_s: float
    left: tuple[str, ...]
    """What was left of the agents afterwards: containers, networks, grants, processes."""


def rows(client: docker.DockerClient, counts: Sequence[int]) -> Iterator[Row]:
    """Start so many agents by one command, for each size; let them idle; stop them by one command.

    With the most of them, the engine's own probes are counted, which takes a whole interval.
    """
    for size in counts:
        with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="fleet-") as directory:
            yield _Measured(client, Path(directory), size, cli=FAKE_CLI).row(is_counted=size == max(counts))


def measure(client: docker.DockerClient) -> Iterator[Figure]:
    """Print the figures of each size, and keep them for the plot."""
    kept: list[Row] = []
    for row in rows(client, sizes(SIZES)):
        kept.append(row)
        plots.keep("fleet", kept)  # each time, as a later size may fail
        of = f"{row.agents} agent{'s' * (row.agents > 1)}"
        yield Figure(f"{of}: healthy, with session and grant, after one command", row.up_s, "s", 240)
        yield Figure(f"{of}: the same command again", row.again_s, "s", 60)
        yield Figure(f"{of}: `agents.ps --json`", row.ps_s, "s", 0.5)
        probes = f"{of}: processors for probes ({row.probe_ms:.0f} ms each; {row.own_cores:.2f} for themselves)"
        yield Figure(probes, row.probe_cores, "", 0.1)
        if row.counted_cores is not None:
            yield Figure(f"{of}: the same and the idle engine, over a whole interval", row.counted_cores, "", 0.1)
        yield Figure(f"{of}: memory of one (and {row.helper_mb:.0f} MB for its shim)", row.memory_mb, "MB", 30)
        yield Figure(f"{of}: stopped after one command", row.down_s, "s", 60)
        yield Figure(f"{of}: left behind {', '.join(row.left)}", len(row.left), "", 0)


class _Measured(Fleet):
    """Agents whose costs are measured."""

    def row(self, *, is_counted: bool) -> Row:
        """Start them, let them idle, stop them."""
        try:
            before = _machine_cpu_s()
            up_s = self._seconds(*self.up)
            up_cpu_s = _machine_cpu_s() - before
            containers = self.containers()
            self._check(containers)
            again_s = self._seconds(*self.up)
            ps_s = statistics.median(self._listing_s() for _ in range(LISTED))
            interval_s = containers[0].attrs["Config"]["Healthcheck"]["Interval"] / 1e9
            own, counted = _idle_cores(containers, interval_s if is_counted else IDLE_S)
            probe_s = _probe_s(containers, own)
            memory = sum(map(_memory_mb, containers)) / self.size
            helpers = sum(_resident_mb(pid) for pid in _shims(containers)) / self.size
            down_s = self._seconds(*self.down)
            left = (*self.left(), *(f"process {_command(pid)}" for pid in _shims(containers)))
        finally:
            self.remove()
        return Row(
            self.size,
            up_s,
            up_cpu_s,
            again_s,
            ps_s,
            1000 * probe_s,
            self.size * probe_s / interval_s,
            own,
            counted if is_counted else None,
            memory,
            helpers,
            down_s,
            left,
        )

    def _seconds(self, *words: str) -> float:
        begun = time.monotonic()
        self.good(*words)
        return time.monotonic() - begun

    def _listing_s(self) -> float:
        begun = time.monotonic()
        listing = [str(ROOT / "bin" / "invoke"), "agents.ps", "--json"]  # as people type it
        subprocess.run(listing, env=self.environment, stdout=subprocess.DEVNULL, check=True)
        return time.monotonic() - begun

    def _check(self, containers: list[Container]) -> None:
        """Fail unless each agent is healthy, and has a session and a grant that it reaches."""
        assert len(containers) == self.size, f"{len(containers)} of {self.size} run"
        for each in containers:
            assert compose.health(each) == "healthy", each.name
            asked = each.exec_run(["sh", "-c", "tmux has-session -t =agent && test -S /host/claude-bridge.sock"])
            assert asked.exit_code == 0, f"{each.name}: {asked.output!r}"
        assert self.grants() == sorted(self.names)


# Probes


def _idle_cores(containers: Sequence[Container], idle_s: float) -> tuple[float, float]:
    """Return the processors that agents need by themselves, and that the engine and its helpers need for them.

    A probe is a child of a helper, so its time is the helper's once it has ended. The processes of a container are its
    first one and those below it.
    """
    before, begun = _Spent.of(containers), time.monotonic()
    let_pass(idle_s)
    after, taken = _Spent.of(containers), time.monotonic() - begun
    return (after.own_s - before.own_s) / taken, (after.engine_s - before.engine_s) / taken


def _probe_s(containers: Sequence[Container], own_cores: float) -> float:
    """Return the processor time of one probe of each agent's, run as the engine runs it; the mean."""
    before, begun = _Spent.of(containers), time.monotonic()
    probes = list(containers) * math.ceil(LEAST_PROBES / len(containers))
    for each in probes:
        _, *words = each.attrs["Config"]["Healthcheck"]["Test"]
        asked = each.exec_run(words)
        assert asked.exit_code == 0, f"{each.name}: {asked.output!r}"
    after, taken = _Spent.of(containers), time.monotonic() - begun
    return (after.all_s - before.all_s - own_cores * taken) / len(probes)


@dataclass(frozen=True)
class _Spent:
    """Processor time that was spent until now."""

    own_s: float
    """By the processes in containers."""
    engine_s: float
    """By the engine and by its helpers, with what these started and what has ended."""

    @property
    def all_s(self) -> float:
        return self.own_s + self.engine_s

    @classmethod
    def of(cls, containers: Sequence[Container]) -> _Spent:
        """Read it from the kernel alone: asking the engine would cost it processor time."""
        helpers = _shims(containers)
        inside = {pid for helper in helpers for pid in descendants(helper)}
        servers = [pid for pid in _pids() if _command(pid) in SERVERS]
        return cls(sum(map(_process_cpu_s, inside)), sum(map(_process_cpu_s, [*helpers, *servers])))


# What the kernel says


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""  # ignored because it has ended


def _shims(containers: Sequence[Container]) -> list[int]:
    """Return the processes of the engine that look after these containers."""
    wanted = {str(each.id) for each in containers}
    found = []
    for pid in _pids():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # ignored because it has ended
        if "containerd-shim" in words[0] and wanted & set(words):
            found.append(pid)
    return found


def _process_cpu_s(pid: int) -> float:
    """Return the processor time of a process and of its children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / TICK


def _machine_cpu_s() -> float:
    user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    return (user + nice + system + irq + softirq) / TICK


def _resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _memory_mb(container: Container) -> float:
    memory = container.stats(stream=False, one_shot=True)["memory_stats"]
    cache = memory["stats"]["active_file"] + memory["stats"]["inactive_file"]
    return float(memory["usage"] - cache) / 1e6

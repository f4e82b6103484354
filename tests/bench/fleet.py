"""One to a hundred agents: how long one command takes to start and to stop them, and what they cost while they idle.

`nox -s bench -- fleet` takes the sizes of `SIZES`. `rows` is for whoever draws them.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import docker
from docker.models.containers import Container

from pipeline.agents import compose
from tests.bench import plots
from tests.bench.figures import Figure
from tests.support.bridge_host import FAKE_CLI
from tests.support.fleets import Fleet
from tests.support.waiting import let_pass, wait_until

SIZES = (1, 5, 10, 25, 50, 100)
IDLE_S = 60.0
TICK = os.sysconf("SC_CLK_TCK")
SERVERS = ("dockerd", "containerd")
UNPROBED = 4


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
    probe_cores: float
    """Processors that the engine's probes need in the containers and in the engine's helpers."""
    engine_cores: float
    """Processors that the engine itself needs meanwhile, for whatever else runs on it as well."""
    own_cores: float
    """Processors that the agents need by themselves while nobody does anything."""
    memory_mb: float
    """Memory of one agent's container, without the page cache; the mean."""
    helper_mb: float
    """Memory of the engine's helper process of one agent (containerd-shim); the mean."""
    down_s: float
    left: tuple[str, ...]
    """What was left of the agents afterwards: containers, networks, grants, processes."""


def rows(client: docker.DockerClient, sizes: Iterable[int], idle_s: float = IDLE_S) -> Iterator[Row]:
    """Start so many agents by one command, for each size; let them idle; stop them by one command."""
    for size in sizes:
        with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="fleet-") as directory:
            yield _Measured(client, Path(directory), size, cli=FAKE_CLI).row(idle_s)


def measure(client: docker.DockerClient) -> Iterator[Figure]:
    """Print the figures of each size, and keep them for the plot."""
    kept: list[Row] = []
    for row in rows(client, SIZES):
        kept.append(row)
        probes = row.probe_cores + row.engine_cores
        of = f"{row.agents} agent{'s' * (row.agents > 1)}"
        yield Figure(f"{of}: healthy, with session and grant, after one command", row.up_s, "s", 240)
        yield Figure(f"{of}: the same command again", row.again_s, "s", 60)
        yield Figure(f"{of}: processors for probes ({row.own_cores:.2f} for themselves)", probes, "", 0.1)
        yield Figure(f"{of}: memory of one (and {row.helper_mb:.0f} MB for its shim)", row.memory_mb, "MB", 30)
        yield Figure(f"{of}: stopped after one command", row.down_s, "s", 60)
        yield Figure(f"{of}: left behind {', '.join(row.left)}", len(row.left), "", 0)
    plots.keep("fleet", kept)


class _Measured(Fleet):
    """Agents whose costs are measured."""

    def row(self, idle_s: float) -> Row:
        """Start them, let them idle, stop them."""
        try:
            before = _machine_cpu_s()
            up_s = self._seconds(*self.up)
            up_cpu_s = _machine_cpu_s() - before
            containers = self.containers()
            self._check(containers)
            again_s = self._seconds(*self.up)
            probes, engine, own = self._idle(containers, idle_s)
            memory = sum(map(_memory_mb, containers)) / self.size
            helpers = sum(_resident_mb(pid) for pid in _shims(containers)) / self.size
            down_s = self._seconds(*self.down)
            left = (*self.left(), *(f"process {_command(pid)}" for pid in _shims(containers)))
        finally:
            self.remove()
        return Row(self.size, up_s, up_cpu_s, again_s, probes, engine, own, memory, helpers, down_s, left)

    def _seconds(self, *words: str) -> float:
        begun = time.monotonic()
        self.good(*words)
        return time.monotonic() - begun

    def _check(self, containers: list[Container]) -> None:
        """Fail unless each agent is healthy, and has a session and a grant that it reaches."""
        assert len(containers) == self.size, f"{len(containers)} of {self.size} run"
        for each in containers:
            assert compose.health(each) == "healthy", each.name
            asked = each.exec_run(["sh", "-c", "tmux has-session -t =agent && test -S /host/claude-bridge.sock"])
            assert asked.exit_code == 0, f"{each.name}: {asked.output!r}"
        assert self.grants() == sorted(self.names)

    def _idle(self, containers: list[Container], idle_s: float) -> tuple[float, float, float]:
        """Return the processors that the probes, the engine and the agents themselves need while nothing happens.

        What an agent needs by itself is known from some of the same image that nobody probes.
        """
        with self._unprobed(containers[0]) as others:
            helpers, servers = _shims(containers), [pid for pid in _pids() if _command(pid) in SERVERS]

            def spent() -> tuple[float, float, float]:
                probed = sum(map(_process_cpu_s, helpers)) + sum(map(_container_cpu_s, containers))
                return probed, sum(map(_process_cpu_s, servers)), sum(map(_container_cpu_s, others))

            before, begun = spent(), time.monotonic()
            let_pass(idle_s)
            after, taken = spent(), time.monotonic() - begun
        probed, engine, unprobed = ((now - then) / taken for now, then in zip(after, before, strict=True))
        own = unprobed / len(others) * len(containers)
        return probed - own, engine, own

    @contextmanager
    def _unprobed(self, like: Container) -> Iterator[list[Container]]:
        made: list[Container] = []
        try:
            made += [self._start_unprobed(like) for _ in range(UNPROBED)]
            for each in made:
                wait_until(partial(_has_session, each), 30, "the session of an agent without probes")
            yield made
        finally:
            for each in made:
                each.remove(force=True, v=True)

    def _start_unprobed(self, like: Container) -> Container:
        return self.client.containers.run(
            like.attrs["Image"],
            detach=True,
            healthcheck={"test": ["NONE"]},
            labels={"io.magents.test": "bench"},
            environment={"AGENT_NAME": self.name},
        )


def _has_session(container: Container) -> bool:
    return bool(container.exec_run(["tmux", "has-session", "-t", "=agent"]).exit_code == 0)


# What the kernel says


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""  # ignored because it has ended


def _shims(containers: list[Container]) -> list[int]:
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


def _stats(container: Container) -> dict[str, dict[str, dict[str, int]]]:
    found: dict[str, dict[str, dict[str, int]]] = container.stats(stream=False, one_shot=True)
    return found


def _container_cpu_s(container: Container) -> float:
    return _stats(container)["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9


def _memory_mb(container: Container) -> float:
    memory = container.stats(stream=False, one_shot=True)["memory_stats"]
    cache = memory["stats"]["active_file"] + memory["stats"]["inactive_file"]
    return float(memory["usage"] - cache) / 1e6

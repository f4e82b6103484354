"""A hundred people's sessions of Claude Code over one bridge: ten at work, the others idle; then all of them asleep.

Each session has a grant, a workspace and a terminal of its own. The CLI is the real one; the model's API is ours.
"""

from __future__ import annotations

import contextlib
import io
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import docker
import yaml

from tests.bench import plots
from tests.bench.figures import Figure, sizes
from tests.support.bridge_cli import NEWEST
from tests.support.bridge_host import descendants
from tests.support.fake_messages_api import Reply, Request, Say
from tests.support.real_host import RealHost, real_server
from tests.support.screen import READY, SHELL, Screen
from tests.support.waiting import let_pass, wait_until

SIZES = (1, 5, 10, 25, 50, 100)
AT_WORK = 10
START_AT_ONCE = 4
LOOK_S = 0.05
"""Between two looks at the screens, which take processor time from what is measured."""
ALL_S = 600.0
SLEEP_MINUTES = 0.05
LEFT_MB = 2000
"""Memory that the machine keeps. No more sessions are started beyond that."""
ALONE_MB = 300
"""The limit of a single one, which shares no page of the CLI's program with others."""
WORD = "Which animals build dams?"


@dataclass(frozen=True)
class Row:
    """What was measured with so many sessions."""

    sessions: int
    awake_mb: float
    """Memory of the server and of all that it started; pages that processes share count once."""
    asleep_mb: float
    answer_s: float
    """From a prompt to its answer on the screen, ten at the same time; the median."""
    slowest_s: float
    wake_s: float
    """From a key in a session that sleeps until its screen is back; the median."""


def measure(_: docker.DockerClient) -> Iterator[Figure]:
    """Print the figures of each size, and keep them for the plot."""
    kept: list[Row] = []
    for size in sizes(SIZES):
        with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="sessions-") as directory:
            Path(directory).chmod(0o755)
            kept.append(_row(Path(directory), size))
        plots.keep("sessions", kept)  # each time, as a later size may fail
        row = kept[-1]
        of = f"{size} interactive session{'s' * (size > 1)}"
        yield Figure(f"{of}: memory of one, awake", row.awake_mb / size, "MB", ALONE_MB if size == 1 else 250)
        yield Figure(f"{of}: memory asleep / awake", row.asleep_mb / row.awake_mb, "x", 0.3)
        yield Figure(f"{of}: slowest answer of {min(AT_WORK, size)} at work", row.slowest_s, "s", 30)
        yield Figure(f"{of}: from a key until the screen is back", row.wake_s, "s", 2)


def _row(directory: Path, size: int) -> Row:
    limits = {"sessions": size + AT_WORK, "connections": 2 * size}
    with contextlib.ExitStack() as stack:
        real = stack.enter_context(real_server(directory, NEWEST, sleep=0, limits=limits))
        real.api.part = _answer
        screens = [_screen(stack, directory, real) for _ in range(size)]
        for batch in (screens[first : first + START_AT_ONCE] for first in range(0, size, START_AT_ONCE)):
            for screen in batch:
                screen.type(screen.claude, "Enter")
            for screen in batch:
                _wait(screen, READY)
            assert _available_mb() > LEFT_MB, "this machine has too little memory for so many sessions"
        _wait_for(real, "idle", size)
        awake = _memory_mb(real)
        took = _work(screens[:AT_WORK])
        _wait_for(real, "idle", size)
        _sleep_after(real, SLEEP_MINUTES)
        _wait_for(real, "asleep", size)
        let_pass(2)  # until the processes have ended
        asleep = _memory_mb(real)
        _sleep_after(real, 0)
        woken = [_wake(screen) for screen in screens[:AT_WORK]]
    return Row(size, awake, asleep, statistics.median(took), max(took), statistics.median(woken))


def _screen(stack: contextlib.ExitStack, directory: Path, real: RealHost) -> Screen:
    place = real.place()
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it shows, for the report of a test
        screen = Screen(directory / place.name, place.box(*SHELL), "/app/claude")
    stack.callback(screen.close)
    return screen


def _answer(request: Request) -> Reply:
    return Say("beavers do" if WORD in request.heard else "nothing")


def _work(screens: Sequence[Screen]) -> list[float]:
    """Ask in all sessions at the same time. Returns the seconds until each has its answer on the screen."""
    begun: dict[Screen, float] = {}
    for screen in screens:
        screen.type(WORD)
        _wait(screen, WORD)
    for screen in screens:
        begun[screen] = time.monotonic()
        screen.type("", "Enter")
    took: dict[Screen, float] = {}
    deadline = time.monotonic() + ALL_S
    while len(took) < len(begun):
        assert time.monotonic() < deadline, "a session does not answer"
        for screen in begun.keys() - took.keys():
            if "beavers do" in screen.text:
                took[screen] = time.monotonic() - begun[screen]
        let_pass(LOOK_S)
    return list(took.values())


def _wake(screen: Screen) -> float:
    begun = time.monotonic()
    screen.type("x")
    _wait(screen, READY)
    took = time.monotonic() - begun
    _wait(screen, "x")
    return took


def _wait(screen: Screen, text: str) -> None:
    wait_until(lambda: text in screen.text, ALL_S, f"{text!r} on a screen")


def _wait_for(real: RealHost, state: str, size: int) -> None:
    def states() -> list[str]:
        return [call["state"] for grant in real.host.status()["grants"].values() for call in grant["calls"]]

    wait_until(lambda: states() == [state] * size, ALL_S, f"{size} sessions that are {state}")


def _sleep_after(real: RealHost, minutes: float) -> None:
    """Change the setting of the server that runs."""
    assert real.host.process
    real.host.configure(**{**yaml.safe_load(real.host.config.read_text()), "sleep": minutes})
    real.host.process.send_signal(signal.SIGHUP)


def _memory_mb(real: RealHost) -> float:
    """Return the memory of the server and of all that it started."""
    server = int(real.host.status()["pid"])
    return sum(_proportional_kb(pid) for pid in {server, *descendants(server)}) / 1024


def _proportional_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0  # ignored because it has ended
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _available_mb() -> float:
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) / 1024

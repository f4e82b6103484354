"""One grant cannot slow down another: all floods run at once while a fifth grant measures response times."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.server.host.log import MAX_LOG
from tests.support.bridge_host import ROOT, BridgeHost, Place, bridge_host
from tests.support.waiting import let_pass, wait_until

SECONDS = 8.0
PING_P99_MS = 100.0
BUSY = 0.4
"""Share of the time in which the server could have run.

Above it, other load on the machine decides the wall-clock figures, and they are not tested.
"""
CALL_MS = 1000.0
MEMORY_MB = 150.0
AUDIT = {"size": 256 * 1024}
FLOODS = {
    "one": ("pings_unread", "signals"),
    "two": ("objects", "visits"),
    "three": ("pings_empty", "nonsense"),
    "four": ("refused", "refused_small", "deep"),
}


def begin(kind: str, host: BridgeHost, place: Place, seconds: float) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "tests.support.bridge_flood", kind]
    words += [str(place.mount / "claude-bridge.sock"), str(place.workspace), str(seconds)]
    assert host.process is not None
    env = {"PATH": "/usr/bin:/bin", "SERVER": str(host.process.pid)}
    process = subprocess.Popen(words, cwd=ROOT, env=env, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def told(process: subprocess.Popen[bytes]) -> Any:
    out, _ = process.communicate(timeout=40)
    assert process.returncode == 0
    return json.loads(out)


def memory_mb(host: BridgeHost) -> float:
    """Return the memory of the server and its policy workers in MB. A page that they share is counted once."""
    assert host.process is not None
    total = 0
    for pid in (host.process.pid, *host.judges()):
        with contextlib.suppress(OSError, AttributeError):  # ignored because policy workers come and go
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += int(re.search(r"^Pss: +(\d+) kB", text, re.MULTILINE)[1])  # type: ignore[index]
    return total * 1024 / 1e6


class Flooded:
    """Runs all floods and holds what was measured meanwhile."""

    def __init__(self, host: BridgeHost) -> None:
        self.host = host
        self.before = host.grant("before")
        assert self.before.run("-p", "out x").returncode == 0
        places = {name: host.grant(name) for name in (*FLOODS, "five")}
        floods = {
            kind: begin(kind, host, places[name], SECONDS + 3) for name, kinds in FLOODS.items() for kind in kinds
        }
        let_pass(1.0)
        watched = begin("victim", host, places["five"], SECONDS)
        self.peak_mb = 0.0
        wait_until(lambda: self._sample() and watched.poll() is not None, 60, "the end of the floods")
        self.victim = told(watched)
        self.sent = {kind: told(process) for kind, process in floods.items()}

    def _sample(self) -> bool:
        self.peak_mb = max(self.peak_mb, memory_mb(self.host))
        return True


@pytest.fixture(scope="module")
def flooded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flooded]:
    with bridge_host(tmp_path_factory.mktemp("floods"), audit=AUDIT) as host:
        yield Flooded(host)


def test_floods_were_sent(flooded: Flooded) -> None:
    assert all(one["sent"] > 0 for one in flooded.sent.values()), flooded.sent


def p99(values: list[float]) -> float:
    return values[int(len(values) * 0.99)]


def test_ping_of_another_grant_is_answered_in_time(flooded: Flooded) -> None:
    """The server's own time is always in the limit; wall-clock time only where the machine is not overloaded."""
    seen = flooded.victim
    print(
        f"{len(seen['pings'])} pings: p99 {p99(seen['pings']):.1f} ms, {p99(seen['own']):.1f} of them the server's own"
    )
    print(f"kept waiting: {seen['kept_waiting']:.0%} of the time; memory at its peak: {flooded.peak_mb:.0f} MB")
    assert len(seen["pings"]) > 100
    assert p99(seen["own"]) <= PING_P99_MS
    if seen["kept_waiting"] < BUSY:
        assert p99(seen["pings"]) <= PING_P99_MS


def test_call_of_another_grant_starts_in_time(flooded: Flooded) -> None:
    calls = flooded.victim["calls"]
    assert len(calls) >= 3
    assert max(calls) <= CALL_MS, calls


def test_memory_of_the_server_and_its_judges_is_bounded(flooded: Flooded) -> None:
    assert flooded.peak_mb <= MEMORY_MB


def test_audit_trail_of_an_earlier_call_is_still_there(flooded: Flooded) -> None:
    lines = [line for path in logs(flooded) for line in path.read_text().splitlines()]
    mine = [entry["event"] for entry in map(json.loads, lines) if entry.get("grant") == flooded.before.name]
    assert mine == ["asked", "started", "ended"]


def test_logs_are_bounded(flooded: Flooded) -> None:
    assert sum(path.stat().st_size for path in logs(flooded)) <= 5 * AUDIT["size"]
    assert max(len(line) for path in logs(flooded) for line in path.read_bytes().splitlines()) <= 4096
    assert flooded.host.log.stat().st_size < MAX_LOG / 100


def test_log_of_the_server_holds_no_traceback(flooded: Flooded) -> None:
    assert "Traceback" not in flooded.host.log.read_text()


def test_what_was_left_out_of_the_audit_log_is_counted(flooded: Flooded) -> None:
    lines = [json.loads(line) for path in logs(flooded) for line in path.read_text().splitlines()]
    assert {entry["grant"] for entry in lines if entry["event"] == "suppressed"} >= {"four"}


def logs(flooded: Flooded) -> list[Path]:
    """Return the audit log and its predecessors, the oldest first."""
    return sorted(flooded.host.state.glob("audit.jsonl*"), key=os.fspath, reverse=True)

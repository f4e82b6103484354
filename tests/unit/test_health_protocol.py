"""HTTP without sockets, and what the checks mean."""

from __future__ import annotations

import contextlib
import json
import re
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from healthcheck import world
from healthcheck.checks import TABLE, Check, is_short_of_space, size, verdict
from healthcheck.http import HEAD_LIMIT, RefusedError, Request, answer, parse
from healthcheck.metrics import labels
from healthcheck.table import aligned, duration, page

GOOD = b"GET /health?x=1 HTTP/1.1\r\nHost: a\r\nX-Y: z\r\n\r\n"


@pytest.mark.parametrize("cut", range(len(GOOD)))
def test_request_cut_anywhere_is_incomplete_and_no_refusal(cut: int) -> None:
    assert parse(GOOD[:cut]) is None


@pytest.mark.parametrize(
    "data", [GOOD, GOOD + b"GET /more", GOOD.replace(b"\r\n", b"\n"), b"GET http://h:1/health HTTP/1.0\r\n\r\n"]
)
def test_request_is_read(data: bytes) -> None:
    assert parse(data) == Request("GET", "/health")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/1.1 x\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\n\r\n", 400),
        (b" GET / HTTP/1.1\r\n\r\n", 400),
        (b"G@T / HTTP/1.1\r\n\r\n", 400),
        (b"GET health HTTP/1.1\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n folded: x\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"GET / FTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"GET /" + b"x" * HEAD_LIMIT, 431),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * HEAD_LIMIT + b"\r\n\r\n", 431),
    ],
)
def test_what_is_no_request_is_refused(data: bytes, status: int) -> None:
    with pytest.raises(RefusedError) as refused:
        parse(data)
    assert refused.value.status == status


@given(st.binary(max_size=300))
def test_garbage_is_refused_or_waited_for_but_never_an_accident(data: bytes) -> None:
    with contextlib.suppress(RefusedError):
        found = parse(data)
        assert found is None or found.path.startswith("/")


@pytest.mark.parametrize(("status", "body"), [(200, {"a": "ü"}), (405, {}), (503, "text\n")])
def test_answer_has_the_length_it_says(status: int, body: dict[str, str] | str) -> None:
    head, _, payload = answer(status, body).partition(b"\r\n\r\n")
    assert f"Content-Length: {len(payload)}".encode() in head
    assert (b"Allow: GET" in head) is (status == 405)
    assert isinstance(body, str) or json.loads(payload) == body


# -- verdict ----------------------------------------------------------------------------------------------


def rows(*statuses: tuple[str, bool]) -> list[Check]:
    return [Check(f"c{n}", required, status, "", 0) for n, (status, required) in enumerate(statuses)]


@pytest.mark.parametrize(
    ("phase", "checks", "word"),
    [
        ("running", [("pass", True), ("pass", False)], "healthy"),
        ("running", [("pass", True), ("warn", False)], "degraded"),
        ("running", [("warn", True)], "degraded"),
        ("running", [("fail", True), ("pass", False)], "unhealthy"),
        ("starting", [("fail", True)], "starting"),
        ("stopping", [("pass", True)], "stopping"),
    ],
)
def test_verdict_follows_the_contract(phase: str, checks: list[tuple[str, bool]], word: str) -> None:
    assert verdict(phase, rows(*checks)) == word


def test_table_has_the_contracts_checks() -> None:
    assert {name for name, required, _ in TABLE if required} == {"tmux", "agent", "volumes"}
    assert {name for name, required, _ in TABLE if not required} == {"bridge", "task-master", "disk", "memory"}


@pytest.mark.parametrize(
    ("free", "total", "short"),
    [(1 << 20, 100 << 20, True), (50 << 20, 100 << 20, False), (2 << 30, 1 << 40, False), (1 << 29, 1 << 40, True)],
)
def test_little_space_is_a_share_of_small_and_an_amount_of_large(free: int, total: int, short: bool) -> None:
    look: Any = SimpleNamespace(free=free, total=total, files=0, free_files=0)
    assert is_short_of_space(look) is short


V2 = {"memory.current": "1000\n", "memory.stat": "anon 900\ninactive_file 100\n"}


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"memory.max": "max\n", "memory.events": "low 0\noom_kill 2\n"} | V2, (900, 0, 2)),
        ({"memory.max": "5000\n", "memory.events": "oom_kill 0\n"} | V2, (900, 5000, 0)),
        (
            {
                "memory/memory.usage_in_bytes": "9000",
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "memory/memory.stat": "cache 1\ntotal_inactive_file 4000\n",
                "memory/memory.oom_control": "oom_kill_disable 0\noom_kill 1\n",
            },
            (5000, 0, 1),
        ),
    ],
    ids=["v2-unlimited", "v2", "v1"],
)
def test_memory_is_read_from_both_kinds_of_cgroup(tmp_path: Any, files: dict[str, str], found: tuple[int, ...]) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    memory = world.memory(tmp_path)
    assert (memory.used, memory.limit, memory.oom_kills) == found


# -- for people -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.9, "59s"), (75, "1m 15s"), (90061, "1d 1h"), (86400, "1d")]
)
def test_duration_has_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "2 KB"), (3.2e12, "3.2 TB")])
def test_size_is_readable(count: float, text: str) -> None:
    assert size(count) == text


def test_columns_are_aligned_and_lines_end_in_no_blank() -> None:
    assert aligned([("a", "b"), ("long", ""), ("x", "y")]) == "a     b\nlong\nx     y"


def test_labels_are_escaped() -> None:
    assert labels({"name": 'a"b\\c\nd'}) == '{name="a\\"b\\\\c\\nd"}'


STATUS: dict[str, Any] = {
    "status": "degraded",
    "phase": "running",
    "version": "1",
    "uptime_s": 75,
    "agent": {"name": "alpha", "state": "running", "restarts": 2, "runs": "x", "last_exit": None},
    "checks": {"tmux": {"status": "pass", "detail": "1 session"}, "bridge": {"status": "warn", "detail": "away"}},
    "sessions": [],
    "volumes": [],
    "notes": ["something lacks"],
}


def test_page_in_colour_says_the_same() -> None:
    plain = page(STATUS, colour=False)
    assert re.sub(r"\x1b\[\d+m", "", page(STATUS, colour=True)) == plain
    assert "note: something lacks" in plain

"""HTTP without sockets, who may read details, and the output for people."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from healthcheck.access import Access, Client, gateways, host_name
from healthcheck.check import size
from healthcheck.checks import memory
from healthcheck.checks.disk import is_short_of_space
from healthcheck.facts import VolumeStatus
from healthcheck.http import HEAD_LIMIT, RefusedError, answer, parse
from healthcheck.metrics import labels
from healthcheck.status import Result, overall_status
from healthcheck.table import aligned, duration, page

GOOD = b"GET /health?x=1 HTTP/1.1\r\nHost: a\r\nX-Y: z\r\n\r\n"


@pytest.mark.parametrize("cut", range(len(GOOD)))
def test_request_cut_anywhere_is_incomplete_and_no_refusal(cut: int) -> None:
    assert parse(GOOD[:cut]) is None


@pytest.mark.parametrize(
    "data", [GOOD, GOOD + b"GET /more", GOOD.replace(b"\r\n", b"\n"), b"GET http://h:1/health HTTP/1.0\r\n\r\n"]
)
def test_request_is_read(data: bytes) -> None:
    found = parse(data)
    assert found
    assert (found.method, found.path) == ("GET", "/health")


@pytest.mark.parametrize(
    ("data", "host"),
    [
        (GOOD, "a"),
        (GOOD.replace(b"Host: a", b"hOST:\t b:80 "), "b:80"),
        (b"GET /health HTTP/1.0\r\n\r\n", ""),
        (b"GET http://h:1/health HTTP/1.1\r\nHost: localhost\r\n\r\n", "h:1"),
        (b"GET /health HTTP/1.1\r\nHost: \xff\r\n\r\n", "\ufffd"),
    ],
)
def test_request_says_whom_it_asks(data: bytes, host: str) -> None:
    found = parse(data)
    assert found
    assert found.host == host


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
        (b"GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", 400),
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


# -- overall status ---------------------------------------------------------------------------------------


def rows(*statuses: tuple[str, bool]) -> list[Result]:
    return [Result(f"c{n}", required, status, "", 0) for n, (status, required) in enumerate(statuses)]


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
def test_overall_status_follows_the_contract(phase: str, checks: list[tuple[str, bool]], word: str) -> None:
    assert overall_status(phase, rows(*checks)) == word


@pytest.mark.parametrize(
    ("free", "total", "short"),
    [(1 << 20, 100 << 20, True), (50 << 20, 100 << 20, False), (2 << 30, 1 << 40, False), (1 << 29, 1 << 40, True)],
)
def test_little_space_is_a_share_of_small_and_an_amount_of_large(free: int, total: int, short: bool) -> None:
    assert is_short_of_space(VolumeStatus("/shared", "ext4", False, "", total, free)) is short


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
    assert memory.read(tmp_path) == memory.Memory(*found)


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


ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t{gateway}\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
eth1\t0000000A\t030011AC\t0003\t0\t0\t0\t000000FF\t0\t0\t0
"""
IPV6_ROUTES = (
    f"{'0' * 32} 00 {'0' * 32} 00 fd000000000000000000000000000001 00000400 00000001 00000000 00000003 eth0\n"
    f"{'0' * 32} 00 {'0' * 32} 00 {'0' * 32} ffffffff 00000001 00000000 00200200 lo\n"
)


@pytest.fixture
def access(tmp_path: Path) -> Access:
    """A container `alpha` at 172.17.0.2 whose default gateways are 172.17.0.1 and fd00::1."""
    gateway = int.from_bytes(socket.inet_aton("172.17.0.1"), sys.byteorder)
    (tmp_path / "route").write_text(ROUTES.format(gateway=f"{gateway:08X}"))
    (tmp_path / "ipv6_route").write_text(IPV6_ROUTES)
    return Access(("alpha", "0123456789ab"), frozenset({"agents.example.org", "10.1.2.3"}), tmp_path)


OWN = "172.17.0.2"
HOST_MACHINE, NEIGHBOUR = "172.17.0.1", "172.17.0.3"


@pytest.mark.parametrize(
    ("host", "peer", "sees"),
    [
        ("localhost", "127.0.0.1", True),
        ("LOCALHOST.:3999", "127.0.0.1", True),
        ("127.0.0.1:3999", HOST_MACHINE, True),
        ("[::1]:3999", HOST_MACHINE, True),
        ("alpha", HOST_MACHINE, True),
        ("0123456789AB", OWN, True),
        (f"{OWN}:3999", HOST_MACHINE, True),
        ("localhost", "fd00::1", True),
        # a page of somebody else whose name resolves to this host
        ("rebound.example.org", "127.0.0.1", False),
        ("rebound.example.org", HOST_MACHINE, False),
        ("", "127.0.0.1", False),
        # another container, whatever its Host header says
        ("localhost", NEIGHBOUR, False),
        (f"{OWN}:3999", NEIGHBOUR, False),
        ("alpha", NEIGHBOUR, False),
        ("localhost", "", False),
        # names that the operator allowed
        ("agents.example.org", NEIGHBOUR, True),
        ("Agents.Example.Org:443", NEIGHBOUR, True),
        ("10.1.2.3", NEIGHBOUR, True),
        ("example.org", NEIGHBOUR, False),
        # not names at all
        ("localhost:x", "127.0.0.1", False),
        ("localhost, alpha", "127.0.0.1", False),
        ("user@localhost", "127.0.0.1", False),
        ("[localhost", "127.0.0.1", False),
        ("\ufffd", "127.0.0.1", False),
    ],
)
def test_details_are_for_the_container_and_its_host(access: Access, host: str, peer: str, sees: bool) -> None:
    assert access.may_see(host, Client(peer, OWN)) is sees


def test_container_without_a_network_has_no_gateway(tmp_path: Path) -> None:
    assert gateways(tmp_path) == gateways(tmp_path, ipv6=True) == set()


def test_gateways_of_this_machine_are_read_from_the_kernel() -> None:
    routes = subprocess.run(["ip", "-4", "route", "show", "default"], capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"via (\S+)", routes)) <= gateways()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("::FFFF:172.17.0.1", "172.17.0.1"),
        ("[0:0::1]", "::1"),
        ("Example.ORG.", "example.org"),
        ("a b", ""),
        ("a:1", ""),
        ("fe80::1%eth0", ""),
        ("a" * 300, ""),
        ("", ""),
    ],
)
def test_name_has_one_form(text: str, name: str) -> None:
    assert host_name(text) == name


@given(st.text(), st.text())
def test_any_host_and_peer_is_an_answer(host: str, peer: str) -> None:
    assert Access((), frozenset(), Path("/nowhere")).may_see(host, Client(peer, OWN)) in (True, False)


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


def test_page_shows_no_control_character_of_the_agents() -> None:
    agent = STATUS["agent"] | {"name": "a\x1b]52;;eA==\x07", "runs": "x\ny\x9b1m"}
    text = page(STATUS | {"agent": agent, "notes": ["\x1b[2J"]}, colour=False)
    assert all(line.isprintable() for line in text.split("\n"))
    assert "a?]52;;eA==?" in text

"""The connection that a program keeps open, against a running server with a scripted CLI."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

from bridge.client.connection import Connection
from bridge.protocol.errors import FaultError
from tests.support.bridge_host import BridgeHost, HostMaker, Place
from tests.support.waiting import wait_until


@pytest.fixture
def connection(place: Place) -> Iterator[Connection]:
    with Connection(str(place.mount / "claude-bridge.sock"), 5) as opened:
        yield opened


def connections(host: BridgeHost, place: Place) -> int:
    return int(host.status()["grants"][place.name]["connections"])


def test_many_questions_need_one_connection(shared_host: BridgeHost, place: Place, connection: Connection) -> None:
    for _ in range(5):
        assert connection.ping().text("cli") == "9.9.9 (Claude Code)"
    assert connections(shared_host, place) == 1


CALLS = """
import json, sys
sys.path.insert(0, "/app")
from bridge.client.connection import Connection
with Connection("/host/claude-bridge.sock", 5) as bridge:
    for _ in range(3):
        answer = bridge.call([b"-p", b"cat;err x;exit 7"], bytes(range(256)) * 8000)
        right = answer.stdout == bytes(range(256)) * 8000
        print(json.dumps([answer.code, right, answer.stderr.decode()]), flush=True)
    sys.stdin.read()
"""
"""A program in the container. It keeps its connection until it is told to end."""


def test_calls_follow_one_another(shared_host: BridgeHost, place: Place) -> None:
    with place.start(words=place.box("python3", "-c", CALLS)) as running:
        for _ in range(3):
            assert json.loads(running.line()) == [7, True, f"{256 * 8000}x"]
        assert connections(shared_host, place) == 1
        assert running.end()[0] == 0


def test_connection_is_opened_anew_after_a_restart(host_per_test: HostMaker) -> None:
    host = host_per_test()
    with Connection(str(host.grant("one").mount / "claude-bridge.sock"), 5) as connection:
        connection.ping()
        host.end(signal.SIGKILL)
        with pytest.raises(FaultError, match="nobody listens"):
            connection.ping()
        host.start()
        assert connection.ping().text("grant") == "one"


def test_idle_connection_is_closed_and_opened_anew(host_per_test: HostMaker) -> None:
    host = host_per_test(limits={"idle": 1})
    place = host.grant("one")
    with Connection(str(place.mount / "claude-bridge.sock"), 5) as connection:
        connection.ping()
        wait_until(lambda: connections(host, place) == 0, 15, "the server to close an idle connection")
        assert connection.ping().number("idle") == 1


def test_revoked_grant_is_said_so(shared_host: BridgeHost, place: Place, connection: Connection) -> None:
    connection.ping()
    shared_host.tell("revoke", place.name)
    with pytest.raises(FaultError, match=r"revoked|does not exist"):
        connection.ping()

"""The account's usage limit: new work of all grants waits, is told why and until when, and starts again in fair order.

With the real CLI, and an API that answers 429 with the header fields of a subscription.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bridge.server.holds import ALONE_S, GAP_S
from healthcheck.checks import bridge as healthcheck
from tests.support import schemas
from tests.support.bridge_cli import NEWEST, VERSIONS, installed
from tests.support.bridge_host import BridgeHost, passable
from tests.support.fake_account import FakeAccount
from tests.support.fake_messages_api import Fail, Request, Say
from tests.support.real_host import RealHost, real_server
from tests.support.screen import SHELL, Screen, ask, begin
from tests.support.stream_json import STREAM
from tests.support.usage_limits import Account
from tests.support.waiting import wait_until

WITHIN_S = 90
DAY_S = 86400

newest_alone = pytest.mark.parametrize("limited_host", [NEWEST], indirect=True)


@pytest.fixture(scope="module", params=VERSIONS)
def limited_host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealHost]:
    """One server for each version of the CLI, whose API has an account with a limit."""
    with real_server(tmp_path_factory.mktemp("limited"), request.param, limits={"held": 3600}) as host:
        yield host


@pytest.fixture
def limited(limited_host: RealHost) -> Iterator[RealHost]:
    limited_host.api.requests.clear()
    yield limited_host
    limited_host.host.tell("release")


def held(host: RealHost) -> dict[str, object] | None:
    document = json.loads(host.host._ask("status", "--json"))
    schemas.check("bridge-status", document)
    found: dict[str, object] | None = document["server"]["held"]
    return found


def test_new_work_of_another_grant_waits_for_the_end_that_the_api_told(limited: RealHost) -> None:
    account = limited.api.part = Account()
    place, other = limited.place(), limited.place()
    account.reach(6)
    assert place.run("-p", "first").returncode == 1, "the call that meets the limit ends as the CLI ends it"
    assert account.refused == 1, "neither the CLI nor the bridge tries again"
    done = other.run("-p", "second")
    assert (done.returncode, done.stdout) == (0, b"heard: second\n")
    assert account.refused == 1, "nobody asked before the end of the limit"
    (start,) = [entry for entry in limited.host.audit() if entry["event"] == "started" and entry["grant"] == other.name]
    assert account.until <= start["time"] <= account.until + 5
    assert held(limited) is None


def plain_cli(version: str, home: Path, environment: dict[str, str]) -> None:
    """Run the CLI as a person of the host does."""
    home.mkdir()
    variables = {name: value for name, value in environment.items() if value} | {"HOME": str(home)}
    command = [str(installed(version)), "-p", "hello"]
    done = subprocess.run(command, cwd=home, env=variables, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    assert done.stdout == b"heard: hello\n"


def head(request: Request) -> tuple[str, str, dict[str, str]]:
    """Return the head of a request without what differs each time."""
    fields = {name: value for name, value in request.headers.items() if name not in OF_ONE_REQUEST}
    return request.method, request.path, fields


OF_ONE_REQUEST = ("content-length", "x-claude-code-prompt-id", "x-claude-code-session-id", "x-client-request-id")


@pytest.mark.parametrize(("version", "variable"), [
    *((version, "CLAUDE_CODE_OAUTH_TOKEN") for version in VERSIONS),
    (NEWEST, "ANTHROPIC_API_KEY"), (NEWEST, "ANTHROPIC_AUTH_TOKEN"),
])  # fmt: skip
def test_limit_is_heard_of_with_each_kind_of_login(
    tmp_path_factory: pytest.TempPathFactory, version: str, variable: str
) -> None:
    """Without a gateway: the API has TLS and its own name. A plain `claude -p` tells nothing of a limit itself."""
    directory = passable(tmp_path_factory.mktemp("limit"))
    with FakeAccount(directory / "account", DAY_S) as account:
        part = account.part = Account()
        environment = {"CLAUDE_CODE_MAX_RETRIES": "0", **account.variables, "ANTHROPIC_API_KEY": ""}
        environment[variable] = account.give()["accessToken"]
        host = BridgeHost(directory, claude=str(installed(version)), environment=environment)
        host.start()
        try:
            place, other = host.grant("one"), host.grant("other")
            assert place.run("-p", "hello").stdout == b"heard: hello\n"
            plain_cli(version, directory / "plain", {**environment, "PATH": os.environ["PATH"]})
            bridged, plain = account.api.prompts
            assert head(bridged) == head(plain), "the API sees what it sees of the host's own CLI"
            part.reach(6)
            assert place.run("-p", "first").returncode == 1
            done = other.run("-p", "second")
            assert (done.returncode, done.stdout) == (0, b"heard: second\n")
            assert b"limit is reached; waiting until " in done.stderr
            assert (part.refused, not account.rejected) == (1, True)
        finally:
            host.end()


@newest_alone
def test_work_that_waited_starts_one_by_one_in_fair_order_and_nothing_is_lost(limited: RealHost) -> None:
    account = limited.api.part = Account()
    places = [limited.place() for _ in range(3)]
    account.reach(1800)
    assert places[0].run("-p", "first").returncode == 1
    assert held(limited) == {
        "cause": "limit",
        "until": pytest.approx(account.until, abs=5),
        "why": "the account's 5-hour limit is reached",
    }
    with ExitStack() as stack:
        # two grants have two calls each: a second one may not come before a grant that waits
        calls = [
            (number, stack.enter_context(place.start("-p", f"call {number}")))
            for number, place in [*enumerate(places), *enumerate(places[1:], 1)]
        ]
        wait_until(lambda: held_calls(limited) == len(calls), WITHIN_S, "all calls to be held")
        account.until = 0
        limited.host.tell("release")
        for number, running in calls:
            code, out, err = running.end(timeout=WITHIN_S)
            assert (code, out) == (0, f"heard: call {number}\n".encode())
            assert err.startswith(b"bridge: the account's 5-hour limit is reached; waiting until ")
            assert err.count(b"bridge: ") == 1
    starts = [entry for entry in limited.host.audit() if entry["event"] == "started"][-len(calls) :]
    times = [entry["time"] for entry in starts]
    assert times[1] - times[0] >= 0.8 * ALONE_S, "the first goes alone"
    assert times[-1] - times[1] >= 0.8 * GAP_S * (len(calls) - 2), "a burst"
    assert {entry["grant"] for entry in starts[:3]} == {place.name for place in places}, "one was twice before another"


def held_calls(host: RealHost) -> int:
    calls = [call for grant in host.host.status()["grants"].values() for call in grant["calls"]]
    waiting = [call for call in calls if call["state"] == "waiting_for_quota"]
    assert all(call["until"] and "limit is reached" in call["waits_for"] for call in waiting)
    return len(waiting)


@newest_alone
def test_limit_that_ends_too_late_refuses_a_new_call_at_once_and_an_operator_can_end_it(limited: RealHost) -> None:
    account = limited.api.part = Account("seven_day")
    place, other = limited.place(), limited.place()
    account.reach(5 * DAY_S)
    assert place.run("-p", "first").returncode == 1
    begun = time.monotonic()
    done = other.run("-p", "hi", env={"CLAUDE_BRIDGE_ERRORS": "json"})
    assert time.monotonic() - begun < 5
    told = json.loads(done.stderr)
    assert (done.returncode, done.stdout, told["error"]) == (125, b"", "held")
    assert told["message"].startswith("the account's weekly limit is reached, and new work goes on at ")
    assert healthcheck.Client(str(other.mount / "claude-bridge.sock")).ask().is_held
    account.until = 0
    assert "starts again" in limited.host.tell("release").stdout
    assert other.run("-p", "hi").stdout == b"heard: hi\n"
    assert limited.host.tell("release").stderr == "bridge: nothing is held by a usage limit\n"


def test_program_sees_during_a_limit_what_it_sees_without_a_bridge(limited: RealHost) -> None:
    """The CLI starts at once, and its answer has the API's own form. Its request does not reach the API."""
    account = limited.api.part = Account()
    place, other = limited.place(), limited.place()
    account.reach(2 * DAY_S)
    message = {"type": "user", "message": {"role": "user", "content": "hi"}}
    results = []
    for each in (place, other):
        done = each.run(*STREAM, stdin=json.dumps(message).encode() + b"\n")
        (result,) = [line for line in map(json.loads, done.stdout.splitlines()) if line["type"] == "result"]
        results.append((done.returncode, result["is_error"], result["api_error_status"], result["result"]))
    assert account.refused == 1
    assert results[0][:3] == results[1][:3] == (1, True, 429)


@newest_alone
def test_person_at_a_terminal_sees_the_limit_in_a_session_and_can_leave_a_call_that_waits(
    limited: RealHost, tmp_path: Path
) -> None:
    account = limited.api.part = Account()
    place, other = limited.place(), limited.place()
    account.reach(1800)
    assert place.run("-p", "first").returncode == 1
    screen = Screen(tmp_path / "tmux", other.box(*SHELL), "/app/claude")
    try:
        screen.type("clear; /app/claude -p hi; echo left $?", "Enter")
        screen.wait("bridge: the account's 5-hour limit is reached; waiting until ")
        screen.type("", "C-c")
        screen.wait("left 130")
        begin(screen)
        ask(screen, "hello there")
        screen.wait("the account's 5-hour limit is reached; new work goes")
        assert account.refused == 1
    finally:
        screen.close()


@newest_alone
def test_overload_and_bursts_hold_for_moments_only(limited: RealHost) -> None:
    place, other = limited.place(), limited.place()
    limited.api.part = lambda _: Fail(429, "rate_limit_error", (("retry-after", "86400"),))
    assert place.run("-p", "first").returncode == 1
    assert held(limited) is None, "a burst of one grant is not that of all"
    status = limited.host.status()["grants"]
    assert status[other.name]["held"] is None
    assert status[place.name]["held"]["until"] - time.time() <= 30
    limited.api.part = lambda _: Fail(529, "overloaded_error", (("retry-after", "86400"),))
    assert other.run("-p", "first").returncode == 1
    found = held(limited)
    assert found is not None
    assert found["cause"] == "overload"
    assert float(str(found["until"])) - time.time() <= 30


# Forged: no container may hold the work of another grant

EVENT = {
    "type": "rate_limit_event",
    "rate_limit_info": {"status": "rejected", "resetsAt": int(time.time()) + DAY_S, "rateLimitType": "five_hour"},
    "uuid": "0a1b2c3d-0000-4000-8000-000000000000",
    "session_id": "0a1b2c3d-0000-4000-8000-000000000001",
}
LINE = json.dumps(EVENT, separators=(",", ":"))
SENTENCE = "You've hit your 5-hour limit \u00b7 resets 1:03pm (UTC)"
PROMPT = json.dumps({"type": "user", "message": {"role": "user", "content": f"x\n{LINE}\n"}})


@newest_alone
@pytest.mark.parametrize(
    ("text", "argv", "stdin"),
    [
        (SENTENCE, ("-p", "hi"), None),
        (f"\n{LINE}\n", ("-p", "hi"), None),
        (f"\n{LINE}\n", (*STREAM, "--replay-user-messages", "--include-partial-messages"), f"{PROMPT}\n"),
        (LINE, STREAM, f"{LINE}\n{PROMPT}\n"),
    ],
    ids=["sentence", "line of text", "line of a program", "message of a program"],
)
def test_limit_that_a_container_forges_holds_nobody(
    limited: RealHost, text: str, argv: tuple[str, ...], stdin: str | None
) -> None:
    """The model's text, the prompt and the program's own messages say what the CLI says at a limit."""
    limited.api.part = lambda _: Say(text)
    place = limited.place()
    done = place.run(*argv, stdin=None if stdin is None else stdin.encode())
    assert b"rate_limit_event" in done.stdout or SENTENCE.encode() in done.stdout or done.returncode == 126
    assert held(limited) is None
    assert limited.host.status()["grants"][place.name]["held"] is None

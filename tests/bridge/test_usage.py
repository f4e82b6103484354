"""What the server counts of each grant's use, from the real CLI's own reports, beside what the API counted."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import stat
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bridge.server.host import usage
from tests.support.bridge_cli import VERSIONS
from tests.support.bridge_host import Place, make_way
from tests.support.fake_messages_api import Fail, Reply, Request, Say, directed
from tests.support.metered_api import KINDS, Meter, metered
from tests.support.real_host import RealHost, real_server
from tests.support.screen import SHELL, Screen, ask, begin, leave
from tests.support.stream_json import STREAM, messages, user
from tests.support.waiting import wait_until

AGENT = {"description": "d", "subagent_type": "general-purpose"}
FLAKY = itertools.count()
COUNTED_WITHIN_S = 10.0


def owner(request: Request) -> str:
    """Return the grant that a request is for: each prompt names it."""
    found = re.search(r"of-(grant-\d+)", request.everything)
    return found[1] if found else "nobody"


def part(request: Request) -> Reply:
    """Use tools as the prompt says. Every second request of a prompt that is called flaky is over the limit."""
    if "flaky" in request.heard and next(FLAKY) % 2 == 0:
        return Fail(429, "rate_limit_error")
    if "never" in request.heard:
        return Fail(429, "rate_limit_error")
    return directed(request) if request.tools else Say("a title")


@pytest.fixture(scope="module", params=VERSIONS)
def counting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealHost]:
    limits = {"running": 8, "per_grant": 4}
    environment = {"CLAUDE_CODE_MAX_RETRIES": "3"}
    with real_server(tmp_path_factory.mktemp("usage"), request.param, limits=limits, environment=environment) as host:
        host.api.part = part
        yield host


def used(real: RealHost, place: Place) -> Counter[str]:
    """Return what the server counted for a grant: answers and tokens."""
    found: Counter[str] = Counter()
    for row in usage.rows(real.host.state / "usage.sqlite3", grants=[place.name]):
        found.update({"requests": row.requests, **{kind: getattr(row, kind) for kind in KINDS}})
    return found


def printed(place: Place, text: str, *words: str) -> None:
    done = place.run("-p", f"of-{place.name} {text}", *words)
    assert done.returncode == 0, done.stderr


def by_program(place: Place, *texts: str) -> None:
    """Hold a conversation as an SDK does. An older CLI answers several prompts that wait at once."""
    done = place.run(*STREAM, stdin=b"".join(user(f"of-{place.name} {text}") for text in texts))
    assert [m["type"] for m in messages(done.stdout)].count("result") >= 2


def with_agent(place: Place) -> None:
    """Let an agent below the first one answer as well."""
    printed(place, f"\nUSE Agent {json.dumps({**AGENT, 'prompt': f'of-{place.name} x'})}")


def resumed(place: Place) -> None:
    """Go on with a conversation: what it used before counts no second time."""
    printed(place, "first")
    printed(place, "second", "--continue")


def killed(place: Place) -> None:
    """Kill the client as soon as the answer is there: the server ends the CLI."""
    with place.start(*STREAM) as running:
        running.stdin.write(user(f"of-{place.name} one"))
        running.stdin.flush()
        while b'"type":"result"' not in running.line():
            pass


def nested(place: Place) -> None:
    """Let a command of Claude's call Claude."""
    command = f"/app/claude -p 'of-{place.name} inner' </dev/null"
    printed(place, f"\nUSE Bash {json.dumps({'command': command})}", "--allowedTools", "Bash")


MIX = (
    lambda place: printed(place, "hello"),
    lambda place: by_program(place, "one", "two", "three"),
    with_agent,
    resumed,
    killed,
    lambda place: printed(place, "flaky"),
    nested,
)
"""Kinds of calls. They make 8 calls, and some 14 requests."""


def wait_for_sums(real: RealHost, meter: Meter, place: Place) -> None:
    """Wait until the server has counted what the API did: a CLI reports some moments later."""
    wait_until(lambda: used(real, place) == meter.counted[place.name], COUNTED_WITHIN_S, f"the use of {place.name}")


def at_terminal(real: RealHost, place: Place, directory: Path) -> None:
    """Answer two prompts in a session, and ask for the size of its context, which counts tokens and uses none."""
    screen = Screen(directory / place.name, place.box(*SHELL), "/app/claude")
    with contextlib.closing(screen):
        begin(screen)
        for text in ("in a session", "again"):
            ask(screen, f"of-{place.name} {text}")
            screen.wait(f"heard: of-{place.name} {text}")
        ask(screen, "/context")
        screen.wait("tokens")
        leave(screen)


def test_sums_are_exactly_what_the_api_counted(
    counting: RealHost, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Print mode, programs, sessions, agents, nested calls, repeated requests, conversations that go on, and clients
    that are killed. With --complete 100 calls for each version."""
    meter = metered(monkeypatch, owner)
    rounds = 12 if request.config.getoption("--complete") else 1
    places = [counting.place() for _ in range(2)]
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(kind, places[number % 2]) for number in range(rounds) for kind in MIX]
        for call in calls:
            call.result()
    session = counting.place()
    at_terminal(counting, session, tmp_path)
    for place in (*places, session):
        wait_for_sums(counting, meter, place)
    assert "nobody" not in meter.counted
    assert used(counting, session)["requests"] >= 2


# What a container cannot do


SWITCHES = {
    "CLAUDE_CODE_ENABLE_TELEMETRY": "0", "DISABLE_TELEMETRY": "1", "OTEL_LOGS_EXPORTER": "none",
    "OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://127.0.0.1:9/", "DO_NOT_TRACK": "1",
    "OTEL_LOGS_EXPORT_INTERVAL": "600000", "OTEL_BLRP_SCHEDULE_DELAY": "600000",
}  # fmt: skip


def test_container_cannot_switch_the_reports_off(counting: RealHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by its own environment nor by the project's settings. A flag that says so is refused."""
    meter = metered(monkeypatch, owner)
    place = counting.place()
    settings = json.dumps({"env": SWITCHES})
    make_way(place.workspace / ".claude/settings.json")
    (place.workspace / ".claude").mkdir(exist_ok=True)
    (place.workspace / ".claude/settings.json").write_text(settings)
    assert place.run("-p", "x", "--settings", settings).returncode == 126
    done = place.run("-p", f"of-{place.name} x", env=SWITCHES)
    assert done.returncode == 0, done.stderr
    assert meter.counted[place.name]["requests"] == 1
    wait_for_sums(counting, meter, place)


def test_command_of_claude_learns_nothing_of_the_reports(counting: RealHost) -> None:
    place = counting.place()
    look = {"command": "env; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'"}
    done = place.run("-p", f"x\nUSE Bash {json.dumps(look)}", "--allowedTools", "Bash")
    assert b"PATH=" in done.stdout
    for word in (b"OTEL", b"TELEMETRY", b".invalid", b"x-bridge-usage"):
        assert word not in done.stdout


def test_no_word_of_a_prompt_is_kept(counting: RealHost) -> None:
    place = counting.place()
    word = "xylophone"
    command = f"echo {word}"
    done = place.run("-p", f"{word}\nUSE Bash {json.dumps({'command': command})}", "--allowedTools", "Bash")
    assert word.encode() in done.stdout
    wait_until(lambda: used(counting, place)["requests"] == 2, COUNTED_WITHIN_S, "both requests")
    kept = list(counting.host.state.glob("usage.sqlite3*"))
    assert kept
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}
    assert not [path for path in kept if word.encode() in path.read_bytes()]


def test_failed_requests_count_by_kind(counting: RealHost) -> None:
    place = counting.place()
    assert place.run("-p", "never").returncode == 1
    wait_until(lambda: bool(row_of(counting, place)), COUNTED_WITHIN_S, "the failed request")
    (row,) = row_of(counting, place)
    assert (row.limited, row.failed, row.requests, row.tokens) == (1, 0, 0, 0)


def row_of(real: RealHost, place: Place) -> list[usage.Row]:
    return usage.rows(real.host.state / "usage.sqlite3", grants=[place.name])

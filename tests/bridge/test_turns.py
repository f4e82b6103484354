"""Places are for calls that work: sessions at rest hold none, nested calls share one, and nobody waits for ever.

With the real CLI, and with few places, so that a call that holds one without need is noticed at once.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.protocol.frames import Frame
from healthcheck.checks import bridge as healthcheck
from tests.support.bridge_cli import NEWEST, VERSIONS
from tests.support.bridge_flood import Client
from tests.support.bridge_host import BridgeHost, HostMaker, Place, Running
from tests.support.fake_messages_api import Reply, Request, Say, directed, in_turn
from tests.support.real_host import RealHost, real_server
from tests.support.screen import READY, SHELL, Screen, ask, begin
from tests.support.tool_calls import FREE, bash
from tests.support.waiting import stays, wait_until

CLAUDE = "/app/claude"
WITHIN_S = 60
"""Seconds for anything that should take a few. Long before `limits.wait`, at whose end a ring would break."""

newest_alone = pytest.mark.parametrize("tight_host", [NEWEST], indirect=True)


@pytest.fixture(scope="module", params=VERSIONS)
def tight_host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealHost]:
    """One server for each version of the CLI, with one place."""
    limits = {"running": 1, "per_grant": 1, "nested": 2, "sessions_per_grant": 3}
    with real_server(tmp_path_factory.mktemp("tight"), request.param, limits=limits) as host:
        yield host


@pytest.fixture
def tight(tight_host: RealHost) -> RealHost:
    """The same server for one test. Its API uses the tools that a prompt names."""
    tight_host.api.part = directed
    tight_host.api.requests.clear()
    return tight_host


@pytest.fixture
def screens(tmp_path: Path) -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def screen(screens: contextlib.ExitStack, directory: Path, place: Place) -> Screen:
    """Open a terminal in the grant's container."""
    made = Screen(directory / f"tmux{next(NUMBERS)}", place.box(*SHELL), CLAUDE)
    screens.callback(made.close)
    return made


NUMBERS = itertools.count()


def states(host: BridgeHost, place: Place) -> list[str]:
    return sorted(call["state"] for call in host.calls(place))


def running(host: RealHost) -> int:
    return int(host.host.status()["running"])


def use(tool: str, command: str) -> str:
    """Return the line of a prompt at which the API uses a command."""
    return f'USE {tool} {{"command": "{command}", "description": "x"}}'


def answer(place: Place, *words: str) -> str:
    """Return what `claude -p` answers."""
    done = place.run("-p", *words, timeout=WITHIN_S)
    assert done.returncode == 0, done
    return done.stdout.decode().strip()


def test_sessions_at_rest_hold_no_place(tight: RealHost, tmp_path: Path, screens: contextlib.ExitStack) -> None:
    """Three sessions come up although a call works, wait for their turn, and give it back by themselves."""
    place, other = tight.place(), tight.place()
    three = [screen(screens, tmp_path, place) for _ in range(3)]
    release = threading.Event()

    def busy_until_release(request: Request) -> Reply:
        if "hello" in request.heard:
            release.wait(2 * WITHIN_S)
        return directed(request)

    tight.api.part = busy_until_release
    with other.start("-p", "hello") as busy:
        wait_until(lambda: tight.api.prompts, WITHIN_S, "the working call's request")
        for each in three:
            begin(each)
        ask(three[0], "and me")
        wait_until(lambda: "waiting_for_turn" in states(tight.host, place), WITHIN_S, "a session that waits")
        (waits,) = [call for call in tight.host.calls(place) if call["state"] == "waiting_for_turn"]
        assert (waits["kind"], waits["ahead"], "limits.running" in waits["waits_for"]) == ("interactive", 0, True)
        title = "#{pane_title}"
        wait_until(lambda: "next in line" in three[0].tell("display-message", "-p", title), WITHIN_S, "the title")
        release.set()
        assert busy.end()[1].strip() == b"heard: hello"
    three[0].wait("heard: and me")
    wait_until(lambda: "waiting" not in three[0].tell("display-message", "-p", title), WITHIN_S, "another title")
    wait_until(lambda: states(tight.host, place) == ["idle"] * 3, WITHIN_S, "three sessions at rest")
    for each in three[1:]:
        ask(each, "and you")
        each.wait("heard: and you")
    assert answer(other, "quick") == "heard: quick"
    fourth = screen(screens, tmp_path, place)
    fourth.type(CLAUDE, "Enter")
    fourth.wait("limits.sessions_per_grant")


def test_session_that_waits_for_a_person_holds_no_place(
    tight: RealHost, tmp_path: Path, screens: contextlib.ExitStack
) -> None:
    place = tight.place()
    asking, stopped = screen(screens, tmp_path, place), screen(screens, tmp_path, place)
    begin(asking, "--permission-mode", "default")
    tight.api.part = in_turn(bash("touch made.txt"), Say("it is done"))
    ask(asking, "make it")
    asking.wait("Do you want")
    wait_until(lambda: running(tight) == 0, WITHIN_S, "the place of a session that asks")
    begin(stopped)
    tight.api.part = in_turn(Say("never " * 50, over=30))
    ask(stopped, "tell me")
    wait_until(lambda: running(tight) == 1, WITHIN_S, "the place of a session at work")
    stopped.wait("never")
    stopped.type("", "Escape")
    wait_until(lambda: running(tight) == 0, WITHIN_S, "the place of an interrupted session")
    tight.api.part = in_turn(bash("touch made.txt"), Say("it is done"))
    assert answer(tight.place(), "hello", "--tools", "") == "title"
    asking.type("", "Enter")
    asking.wait("it is done")


@newest_alone
def test_nested_calls_share_the_place(tight: RealHost) -> None:
    """With the one place, a call of a call of a call answers. One more is refused at once, with a sentence."""
    place = tight.place()
    inner = [f"{CLAUDE} -p {FREE} {shlex.quote(use('Bash', f'{CLAUDE} -p inner'))}"]
    (place.workspace / "two.sh").write_text(inner[0])
    (place.workspace / "three.sh").write_text(f"{CLAUDE} -p {FREE} {shlex.quote(use('Bash', 'sh two.sh'))} 2>&1")
    told = answer(place, FREE, use("Bash", "sh two.sh"))
    assert told == "told: told: heard: inner"
    assert "limits.nested" in answer(place, FREE, use("Bash", "sh three.sh 2>&1"))
    assert running(tight) == 0


@newest_alone
def test_four_calls_that_call_each_end(tight: RealHost) -> None:
    place = tight.place()
    words = place.claude("-p", FREE, use("Bash", f"{CLAUDE} -p inner"))
    pipe = subprocess.PIPE
    four = [
        subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=pipe, env={"PATH": "/usr/bin:/bin"}) for _ in "1234"
    ]
    assert [each.communicate(timeout=2 * WITHIN_S)[0] for each in four] == [b"told: heard: inner\n"] * 4


@newest_alone
def test_pipe_between_two_calls_needs_one_place(tight: RealHost) -> None:
    """The second call gets the place first, and gives it back: what fills its stdin needs the place."""
    place = tight.place()
    place.workspace.joinpath("pipe.sh").write_text(
        f"{{ echo part; until test -e go; do sleep 0.1; done; {CLAUDE} -p first; }} | {CLAUDE} -p second"
    )
    with place.start(words=place.box("sh", "pipe.sh")) as both:
        wait_until(lambda: running(tight) == 1, WITHIN_S, "the second call")
        place.workspace.joinpath("go").touch()
        assert both.end(timeout=WITHIN_S)[1].split() == b"heard: second part heard: first".split()


@newest_alone
def test_background_command_holds_no_place(tight: RealHost, tmp_path: Path, screens: contextlib.ExitStack) -> None:
    place = tight.place()
    session = screen(screens, tmp_path, place)
    begin(session, FREE)
    tight.api.part = in_turn(bash("perl -e 'sleep 900'", run_in_background=True), Say("it runs"))
    ask(session, "start it")
    session.wait("it runs")
    wait_until(lambda: running(tight) == 0, WITHIN_S, "the place")
    tight.api.part = directed
    ask(session, use("Bash", "perl -e 'sleep 4'; echo ran"))
    wait_until(lambda: running(tight) == 1, WITHIN_S, "the place of a command")
    stays(lambda: running(tight) == 1, 3, "the place during a command")
    session.wait("told: ran")


def test_sessions_of_nine_agents_work_with_the_usual_limits(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, screens: contextlib.ExitStack
) -> None:
    with real_server(tmp_path_factory.mktemp("nine"), NEWEST) as host:
        nine = [screen(screens, tmp_path, host.place()) for _ in range(9)]
        for each in nine:
            each.type(CLAUDE, "Enter")
        for each in nine:
            wait_until(lambda each=each: READY in each.text, 3 * WITHIN_S, "nine sessions")  # type: ignore[misc]
        for number, each in enumerate(nine):
            ask(each, f"number {number}")
        for number, each in enumerate(nine):
            each.wait(f"heard: number {number}")
        wait_until(lambda: running(host) == 0, WITHIN_S, "nine sessions at rest")


# Words that a hostile container could try, with a scripted CLI


def begun(place: Place, word: str, stack: contextlib.ExitStack) -> Running:
    """Start a call from a command that was told the word."""
    env = {"PATH": "/usr/bin:/bin", "CLAUDE_BRIDGE_CALL": word}
    pipe = subprocess.PIPE
    process = stack.enter_context(
        subprocess.Popen(place.claude("-p", "ready;wait"), stdin=pipe, stdout=pipe, stderr=pipe, env=env)
    )
    stack.callback(process.kill)
    return Running(process)


def test_word_of_a_call_opens_its_place_only_and_only_so_far(
    host_per_test: HostMaker, screens: contextlib.ExitStack
) -> None:
    host = host_per_test(limits={"running": 1, "per_grant": 1, "nested": 2, "wait": 5})
    mine, other = host.grant("mine"), host.grant("other")
    outer = Client(str(mine.mount / "claude-bridge.sock"), str(mine.workspace))
    screens.callback(outer.sock.close)
    outer.call([b"-p", b"handed"], stdin="none")
    told = outer.wait(lambda event: event.kind == Frame.RUN).fields.all("env")
    (word,) = [os.fsdecode(entry).partition("=")[2] for entry in told if entry.startswith(b"CLAUDE_BRIDGE_CALL=")]
    two = [begun(mine, word, screens) for _ in range(2)]
    assert [each.line() for each in two] == [b"ready\n"] * 2
    third = begun(mine, word, screens).end()
    assert (third[0], b"limits.nested" in third[2]) == (125, True)
    foreign, guessed = begun(other, word, screens), begun(mine, "0" * 32, screens)
    wait_until(lambda: host.status()["queued"] == 2, 20, "two calls that wait")
    assert host.status()["running"] == 1
    check = healthcheck.Client(str(other.mount / "claude-bridge.sock"))
    screens.callback(check.close)
    assert check.ask().text.endswith("for grant other; 1 waiting for a turn, 0 ahead")
    for each in (foreign, guessed):
        code, out, err = each.end()
        assert (code, out, b"limits.running" in err) == (125, b"", True), err
    assert check.ask().text.endswith("for grant other")
    outer.sock.close()
    assert [each.process.poll() for each in two] == [None, None], "they run on"
    assert host.status()["running"] == 1, "and hold the place"


def test_call_whose_stdin_does_not_end_stands_in_nobody_s_way(host_per_test: HostMaker) -> None:
    """The first one runs on without a place. For the second one that would be a session too many."""
    host = host_per_test(limits={"running": 1, "sessions_per_grant": 1})
    place = host.grant("mine")
    with place.start("-p", "cat") as first:
        wait_until(lambda: host.status()["running"] == 1, 20, "the first call")
        with place.start("-p", "cat") as second:
            wait_until(lambda: states(host, place) == ["idle", "starting"], 20, "the second call's turn")
            assert place.run("-p", "out third").stdout == b"third"
            code, _, err = second.end()
            assert (code, b"does not end" in err) == (125, True)
        assert first.end(b"at last")[1] == b"at last"

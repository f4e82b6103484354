"""Places are for calls that work: sessions at rest hold none, nested calls share one, and nobody waits for ever.

With the real CLI, and with few places, so that a call that holds one without need is noticed at once.
"""

from __future__ import annotations

import contextlib
import itertools
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.bridge_cli import VERSIONS
from tests.support.bridge_host import Place
from tests.support.fake_messages_api import Say, directed, in_turn
from tests.support.real_host import RealHost, real_server
from tests.support.screen import SHELL, Screen, ask, begin
from tests.support.tool_calls import FREE, bash
from tests.support.waiting import stays, wait_until

CLAUDE = "/app/claude"
WITHIN_S = 60
"""Seconds for anything that should take a few. Long before `limits.wait`, at whose end a ring would break."""


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


def calls(host: RealHost, place: Place) -> list[dict[str, Any]]:
    """Return what `status` shows of a grant's calls."""
    found: list[dict[str, Any]] = host.host.status()["grants"][place.name]["calls"]
    return found


def states(host: RealHost, place: Place) -> list[str]:
    return sorted(call["state"] for call in calls(host, place))


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
    tight.api.part = in_turn(Say("heard it", after=6.0))
    with other.start("-p", "hello") as busy:
        wait_until(lambda: tight.api.prompts, WITHIN_S, "the working call's request")
        for each in three:
            begin(each)
        ask(three[0], "and me")
        wait_until(lambda: "waiting_for_turn" in states(tight, place), WITHIN_S, "a session that waits")
        (waits,) = [call for call in calls(tight, place) if call["state"] == "waiting_for_turn"]
        assert (waits["kind"], waits["ahead"], "limits.running" in waits["waits_for"]) == ("interactive", 0, True)
        title = "#{pane_title}"
        wait_until(lambda: "next in line" in three[0].tell("display-message", "-p", title), WITHIN_S, "the title")
        assert b"heard it" in busy.end()[1]
    three[0].wait("heard it")
    wait_until(lambda: "waiting" not in three[0].tell("display-message", "-p", title), WITHIN_S, "another title")
    wait_until(lambda: states(tight, place) == ["idle"] * 3, WITHIN_S, "three sessions at rest")
    tight.api.part = directed
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


def test_four_calls_that_call_each_end(tight: RealHost) -> None:
    place = tight.place()
    words = place.claude("-p", FREE, use("Bash", f"{CLAUDE} -p inner"))
    pipe = subprocess.PIPE
    four = [
        subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=pipe, env={"PATH": "/usr/bin:/bin"}) for _ in "1234"
    ]
    assert [each.communicate(timeout=2 * WITHIN_S)[0] for each in four] == [b"told: heard: inner\n"] * 4


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

"""Sessions that nobody uses sleep, and go on at any key; with both versions. A pane of tmux is the terminal."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.bridge_cli import VERSIONS
from tests.support.bridge_host import Place, make_way
from tests.support.fake_messages_api import Reply, Request, Say, Use
from tests.support.real_host import RealHost, real_server
from tests.support.screen import ASLEEP, SHELL, Screen, ask, begin
from tests.support.tool_calls import FREE
from tests.support.waiting import wait_until

SLEEPS_WITHIN_S = 60.0
CHOICE = {"label": "otters", "description": "x"}, {"label": "beavers", "description": "x"}
QUESTION = {"questions": [{"question": "Which?", "header": "Pick", "multiSelect": False, "options": CHOICE}]}


def part(request: Request) -> Reply:
    """Ask a question or leave something running if the prompt says so. Otherwise repeat the prompt."""
    heard = request.heard.strip().splitlines()[-1:] or [""]
    if request.tools and "ask me" in heard[0] and not request.results:
        return Use("AskUserQuestion", QUESTION)
    if request.tools and "serve" in heard[0] and not request.results:
        return Use("Bash", {"command": "tail -f /dev/null >/dev/null 2>&1 & echo on", "description": "x"})
    if "serve" in heard[0]:
        return Say("it is " + (request.results or ["nothing"])[-1])
    return Say("heard: " + heard[0])


@pytest.fixture(scope="module", params=VERSIONS)
def sleepy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealHost]:
    """A server whose sessions sleep after three seconds."""
    with real_server(tmp_path_factory.mktemp("sleepy"), request.param, sleep=0.05) as host:
        host.api.part = part
        yield host


@contextlib.contextmanager
def screen_of(directory: Path, place: Place) -> Iterator[Screen]:
    screen = Screen(directory / place.name, place.box(*SHELL), "/app/claude")
    try:
        yield screen
    finally:
        screen.close()


def call_of(real: RealHost, place: Place) -> dict[str, Any]:
    """Return what status says about the only call of a grant."""
    (call,) = real.host.status()["grants"][place.name]["calls"]
    return dict(call)


def count(real: RealHost, place: Place, event: str) -> int:
    """Return how often the audit log has an event of a grant."""
    return sum((entry["event"], entry.get("grant")) == (event, place.name) for entry in real.host.audit())


def wait_for_sleep(real: RealHost, place: Place, screen: Screen) -> dict[str, Any]:
    wait_until(lambda: call_of(real, place)["state"] == "asleep", SLEEPS_WITHIN_S, "a session that sleeps")
    screen.wait(ASLEEP)
    return call_of(real, place)


def test_session_sleeps_and_goes_on_with_its_conversation(sleepy: RealHost, tmp_path: Path) -> None:
    """A project that switches its own hooks off does not stop those of the bridge."""
    place = sleepy.place()
    make_way(place.workspace / ".claude/settings.json")
    (place.workspace / ".claude/settings.json").write_text(json.dumps({"disableAllHooks": True}))
    with screen_of(tmp_path, place) as screen:
        before = screen.settings()
        begin(screen, "'about otters'")
        screen.wait("heard: about otters")
        asleep = wait_for_sleep(sleepy, place, screen)
        assert (asleep["kind"], asleep["prompts"], asleep["waits_for"]) == ("interactive", 1, "")
        assert not place.cli()
        assert not list((sleepy.host.state / "scratch").glob("*/tools")), "nothing is left of the namespace"
        ask(screen, "and beavers")
        screen.wait("heard: and beavers")
        last = sleepy.api.prompts[-1].everything
        assert "heard: about otters" in last, "the conversation goes on"
        assert last.count("about otters") == 2, "the first prompt is not given again"
        awake = call_of(sleepy, place)
        assert (awake["session"], awake["prompts"]) == (asleep["session"], 2)

        wait_for_sleep(sleepy, place, screen)
        before_it = count(sleepy, place, "woke")
        screen.resize(90)  # as when somebody attaches
        wait_until(lambda: count(sleepy, place, "woke") > before_it, SLEEPS_WITHIN_S, "a session that was woken")

        wait_for_sleep(sleepy, place, screen)
        sleepy.host.end()
        try:
            screen.type("x")
            screen.wait("bridge: ")
        finally:
            sleepy.host.start()
        screen.type("y")
        screen.wait("xy")
        screen.type("", "C-c")

        wait_for_sleep(sleepy, place, screen)
        assert sleepy.host.tell("revoke", place.name).returncode == 0
        screen.wait("was revoked on the host")
        screen.wait_for_shell()
        screen.resize(100)
        assert screen.settings() == before


def test_lines_that_are_pasted_during_the_wake_are_one_prompt(sleepy: RealHost, tmp_path: Path) -> None:
    """The server stands still from the key that wakes until the paste and its Enter wait in the terminal."""
    place = sleepy.place()
    with screen_of(tmp_path, place) as screen:
        begin(screen)
        wait_for_sleep(sleepy, place, screen)
        screen.tell("set-buffer", "-b", "lines", "first line\nlast line")
        server = sleepy.host.process
        assert server is not None
        server.send_signal(signal.SIGSTOP)
        try:
            screen.type("", "Enter")
            wait_until(lambda: ASLEEP not in screen.text, SLEEPS_WITHIN_S, "a client that wakes the session")
            screen.tell("paste-buffer", "-dp", "-b", "lines")
            screen.type("", "Enter")
        finally:
            server.send_signal(signal.SIGCONT)
        wait_until(lambda: "first line" in screen.text, SLEEPS_WITHIN_S, "the paste on the screen")
        if not any("first line" in request.heard for request in sleepy.api.prompts):
            screen.type("", "Enter")  # the CLI takes an Enter that comes in one piece with a text for a part of it
        screen.wait("heard: last line")
        heard = [request.heard for request in sleepy.api.prompts if "last line" in request.heard]
        assert "first line\nlast line" in heard[0], heard[0]


def test_signal_ends_a_session_that_sleeps(sleepy: RealHost, tmp_path: Path) -> None:
    place = sleepy.place()
    with screen_of(tmp_path, place) as screen:
        begin(screen)
        assert wait_for_sleep(sleepy, place, screen)["prompts"] == 0
        screen.type("", "C-z")
        screen.wait("Stopped")
        screen.type("clear; fg", "Enter")
        screen.wait(ASLEEP)
        (client,) = [pid for pid, words in place.processes().items() if words[-1:] == ["/app/claude"]]
        os.kill(client, signal.SIGTERM)
        screen.wait_for_shell()
        screen.type("echo it ended with $?", "Enter")
        screen.wait("it ended with 143")


def test_draft_question_and_background_command_keep_a_session_awake(sleepy: RealHost, tmp_path: Path) -> None:
    """Another session, which rests for a shorter time, sleeps meanwhile."""
    with ExitStack() as stack:

        def start(*argv: str) -> tuple[Place, Screen]:
            place = sleepy.place()
            screen = stack.enter_context(screen_of(tmp_path, place))
            begin(screen, *argv)
            return place, screen

        draft = start()
        draft[1].type("half a pro")
        question = start(FREE)
        ask(question[1], "ask me")
        serving = start(FREE)
        ask(serving[1], "serve")
        serving[1].wait("it is on")
        wait_until(lambda: call_of(sleepy, question[0])["waits_for"], 20, "a question")
        asks = call_of(sleepy, question[0])
        assert (asks["state"], asks["waits_for"]) == ("waiting_for_person", "an answer to a question")
        yardstick = start()
        wait_for_sleep(sleepy, *yardstick)
        states = [call_of(sleepy, place)["state"] for place, _ in (draft, question, serving)]
        assert states == ["idle", "waiting_for_person", "idle"]

        question[1].type("", "Enter")
        draft[1].type("", "C-c")
        for place, screen in (question, draft):
            wait_for_sleep(sleepy, place, screen)
        assert call_of(sleepy, serving[0])["state"] == "idle"

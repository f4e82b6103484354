"""The interactive session in a terminal: tmux draws it, types into it and changes its size; with both versions."""

from __future__ import annotations

import re
import signal
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.bridge_host import Place
from tests.support.fake_messages_api import Say, Use, in_turn
from tests.support.real_host import RealHost
from tests.support.screen import DRAWN_WITHIN_S, SHELL, Screen, ask, begin, leave, play_session
from tests.support.tool_calls import FREE
from tests.support.waiting import wait_until


@pytest.fixture
def place(real: RealHost) -> Place:
    return real.place()


@pytest.fixture
def screen(tmp_path: Path, place: Place) -> Iterator[Screen]:
    screen = Screen(tmp_path / "tmux", place.box(*SHELL), "/app/claude")
    try:
        yield screen
    finally:
        screen.close()


def test_session(screen: Screen) -> None:
    play_session(screen)


def test_command_of_a_session_runs_in_the_container(real: RealHost, place: Place, screen: Screen) -> None:
    begin(screen, FREE)
    real.api.part = in_turn(Use("Bash", {"command": "ls / > made.txt", "description": "x"}), Say("it is done"))
    ask(screen, "make it")
    screen.wait("it is done")
    assert "app" in (place.workspace / "made.txt").read_text().split()


def test_ctrl_z_and_fg(screen: Screen) -> None:
    """The prompt has text in it. Until that text is visible, the CLI keeps letters for later and drops a Ctrl-Z."""
    before = screen.settings()
    begin(screen)
    screen.type("hello")
    screen.wait("hello")
    screen.type("", "C-z")
    screen.wait("Stopped")
    assert screen.settings() == before
    screen.type("fg", "Enter")
    screen.wait("hello")
    ask(screen, " again")
    screen.wait("heard: hello again")


def test_shift_enter_makes_a_new_line_and_sends_nothing(screen: Screen) -> None:
    begin(screen)
    screen.type("what are otters")
    screen.wait("what are otters")
    screen.type("", "S-Enter")
    screen.type("and beavers")
    wait_until(lambda: re.search(r"otters *\n *and beavers", screen.text), DRAWN_WITHIN_S, "two lines")
    assert "heard:" not in screen.text
    screen.type("", "Enter")
    screen.wait("heard: and beavers")  # the prompt's last line


def search(screen: Screen) -> None:
    """Search with Ctrl-R. Until text is visible, the CLI drops control keys."""
    screen.type("hello")
    screen.wait("hello")
    screen.type("", "C-u", "C-r")
    screen.wait("earch prompts")
    screen.type("otter")


EARLIER: dict[str, tuple[str, Callable[[Screen], None]]] = {
    "arrow": ("", lambda screen: screen.type("", "Up")),
    "search": ("", search),
    "conversations": ("--resume", lambda screen: None),
}
"""Where people find what they typed in an earlier call: the CLI's arguments, and the keys."""


@pytest.mark.parametrize("where", EARLIER)
def test_prompt_of_an_earlier_call_comes_back(screen: Screen, where: str) -> None:
    begin(screen)
    ask(screen, "what are otters")
    screen.wait("heard: what are otters")
    leave(screen)
    arguments, press = EARLIER[where]
    begin(screen, arguments)
    press(screen)
    screen.wait("what are otters")


def test_long_lines_that_are_pasted_before_the_session_is_ready_arrive_whole(
    real: RealHost, screen: Screen, tmp_path: Path
) -> None:
    text = "begins here\n" + "x" * 10_000 + "\nends here"
    (tmp_path / "text").write_text(text)
    screen.tell("load-buffer", "-b", "long", str(tmp_path / "text"))
    screen.type(screen.claude, "Enter")
    with Path(screen.tell("display-message", "-p", "#{pane_tty}").strip()).open("rb") as tty:
        wait_until(lambda: not termios.tcgetattr(tty)[3] & termios.ICANON, 60, "a client that has the terminal")
    screen.tell("paste-buffer", "-dp", "-b", "long")
    screen.wait("Pasted text")
    screen.type("", "Enter")
    wait_until(lambda: any(text in request.heard for request in real.api.prompts), 60, "the whole text in one prompt")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["lost", "restarted"])
def test_server_s_end_gives_the_terminal_back(real: RealHost, place: Place, screen: Screen, number: int) -> None:
    before = screen.settings()
    begin(screen)
    # 2.1.197 writes a broken conversation file when the first answer comes before the question is in the file.
    real.api.part = in_turn(Say("heard: hello there", after=1.0))
    ask(screen, "hello there")
    screen.wait("heard: hello there")
    kept = real.host.state / "private" / place.name
    wait_until(lambda: any("heard" in path.read_text() for path in kept.rglob("*.jsonl")), 5, "the conversation's file")
    real.host.end(number)
    try:
        screen.wait_for_shell()
        assert "bridge: " in screen.text
        assert "claude-code --continue" in screen.text
        assert screen.settings() == before
    finally:
        real.host.start()
    begin(screen)
    screen.wait("/resume")
    screen.type("", "C-c", "C-c")
    screen.wait_for_shell()
    begin(screen, "--continue")
    screen.wait("heard: hello there")

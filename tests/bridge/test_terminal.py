"""The interactive session in a terminal: tmux draws it, types into it, changes its size; with both versions."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bridge.conftest import RealHost
from tests.support.bridge_host import Place
from tests.support.fake_messages_api import Say, Use, in_turn
from tests.support.waiting import wait_until

DRAWN_WITHIN_S = 20.0
FREE = "--dangerously-skip-permissions"
READY = "❯"  # noqa: RUF001 - the interface's own


SHELL = ("bash", "--norc", "--noprofile")
PROMPT = "PS1=shell> "


class Screen:
    """A shell of the container's in a terminal of 100 by 30, on a tmux server of its own."""

    def __init__(self, socket: Path, shell: list[str], claude: str) -> None:
        self.claude = claude
        self._tmux = ["tmux", "-u", "-S", str(socket), "-f", "/dev/null"]
        variables = ["PATH=/usr/bin:/bin", "LANG=C.UTF-8", "TERM=screen-256color", PROMPT]
        self.tell("new-session", "-d", "-x", "100", "-y", "30", "env", "-i", *variables, *shell)
        self.wait_for_shell()

    def tell(self, *words: str) -> str:
        """A command of tmux."""
        return subprocess.run([*self._tmux, *words], check=True, capture_output=True, text=True, timeout=10).stdout

    def type(self, text: str, *keys: str) -> None:
        if text:
            self.tell("send-keys", "-l", text)
        for key in keys:
            self.tell("send-keys", key)

    @property
    def text(self) -> str:
        return self.tell("capture-pane", "-p")

    def wait(self, text: str) -> None:
        try:
            wait_until(lambda: text in self.text, DRAWN_WITHIN_S, f"{text!r} on the screen")
        finally:
            print(self.text)  # for the report of a test that failed

    def resize(self, columns: int) -> None:
        """Another width; tmux tells the terminal of it up to a quarter of a second later."""
        self.tell("resize-window", "-x", str(columns), "-y", "30")
        with Path(self.tell("display-message", "-p", "#{pane_tty}").strip()).open("rb") as tty:
            wait_until(lambda: os.get_terminal_size(tty.fileno()).columns == columns, 5, f"{columns} columns")

    def rules(self) -> set[int]:
        """The lengths of the lines drawn from side to side; tmux itself folds and unfolds what was drawn before."""
        return {len(line) for line in self.text.splitlines() if line and not line.strip("─")}

    def wait_for_shell(self) -> None:
        """The shell has the terminal."""
        wait_until(lambda: self.text.rstrip().endswith("shell>"), DRAWN_WITHIN_S, "the shell's prompt")

    def settings(self) -> str:
        """The terminal's settings, as the shell's stty sees them."""
        self.type("clear; stty -a", "Enter")
        wait_until(lambda: "extproc\nshell>" in self.text, DRAWN_WITHIN_S, "the terminal's settings")
        return self.text

    def close(self) -> None:
        self.tell("kill-server")


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


def begin(screen: Screen, *argv: str) -> None:
    """No question comes before the prompt: neither about the looks, nor the folder, nor the account."""
    screen.type(" ".join([f"clear; {screen.claude}", *argv]), "Enter")
    screen.wait(READY)


def ask(screen: Screen, text: str) -> None:
    screen.type(text)
    screen.wait(text)  # what comes in one piece with the line feed would be pasted text
    screen.type("", "Enter")


def play_session(screen: Screen) -> None:
    """Drawn, answered, drawn anew in another size, left; the terminal is as before."""
    before = screen.settings()
    begin(screen)
    ask(screen, "hello there")
    screen.wait("heard: hello there")
    for columns in (60, 90):
        screen.resize(columns)
        wait_until(lambda c=columns: screen.rules() == {c}, DRAWN_WITHIN_S, f"lines of {columns}")  # type: ignore[misc]
    screen.resize(100)
    screen.type("", "C-c")
    screen.wait("again to exit")
    screen.type("", "C-c")
    screen.wait_for_shell()
    assert screen.settings() == before


def test_session(screen: Screen) -> None:
    play_session(screen)


def test_command_of_a_session_runs_in_the_container(real: RealHost, place: Place, screen: Screen) -> None:
    begin(screen, FREE)
    real.api.part = in_turn(Use("Bash", {"command": "ls / > made.txt", "description": "x"}), Say("it is done"))
    ask(screen, "make it")
    screen.wait("it is done")
    assert "app" in (place.workspace / "made.txt").read_text().split()


def test_ctrl_z_and_fg(screen: Screen) -> None:
    before = screen.settings()
    begin(screen)
    screen.type("", "C-z")
    screen.wait("Stopped")
    assert screen.settings() == before
    screen.type("fg", "Enter")
    screen.wait(READY)
    ask(screen, "hello again")
    screen.wait("heard: hello again")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["lost", "restarted"])
def test_server_s_end_gives_the_terminal_back_and_says_how_to_go_on(
    real: RealHost, place: Place, screen: Screen, number: int
) -> None:
    before = screen.settings()
    begin(screen)
    # 2.1.197 garbles the file of a conversation whose first answer comes before the question is in it.
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

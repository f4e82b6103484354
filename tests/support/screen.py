"""A person's terminal: tmux draws it, types into it and changes its size."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.waiting import wait_until

DRAWN_WITHIN_S = 60.0
READY = "❯"  # noqa: RUF001 - the CLI's own prompt
ASLEEP = "asleep; any key goes on"
"""What the client shows in place of a session that the host has put to sleep."""
SHELL = ("bash", "--norc", "--noprofile")
PROMPT = "PS1=shell> "
OF_A_PANE = ("TERM=tmux-256color", "TERM_PROGRAM=tmux", "TERM_PROGRAM_VERSION=3.3a", "COLORTERM=truecolor")
"""What the image's tmux gives to programs in its panes. `env -i` removes it."""


class Screen:
    """A shell of the container in a terminal of 100 columns and 30 lines, on its own tmux server."""

    def __init__(self, socket: Path, shell: list[str], claude: str) -> None:
        self.claude = claude
        self._tmux = ["tmux", "-u", "-S", str(socket), "-f", "/dev/null"]
        variables = ["PATH=/usr/bin:/bin", "LANG=C.UTF-8", *OF_A_PANE, PROMPT]
        self.tell(
            "set-option",
            "-s",
            "extended-keys",
            "on",
            ";",
            "new-session",
            "-d",
            "-x",
            "100",
            "-y",
            "30",
            "env",
            "-i",
            *variables,
            *shell,
        )
        self.wait_for_shell()

    def tell(self, *words: str) -> str:
        """Run a tmux command. Returns its output."""
        return subprocess.run([*self._tmux, *words], check=True, capture_output=True, text=True, timeout=10).stdout

    def type(self, text: str, *keys: str) -> None:
        if text:
            self.tell("send-keys", "-l", text)
        for key in keys:
            self.tell("send-keys", key)

    @property
    def text(self) -> str:
        return self.tell("capture-pane", "-p")

    def wait(self, *texts: str) -> None:
        """Wait until one of the texts is on the screen."""

        def is_drawn() -> bool:
            drawn = self.text
            return any(text in drawn for text in texts)

        try:
            wait_until(is_drawn, DRAWN_WITHIN_S, f"{' or '.join(map(repr, texts))} on the screen")
        finally:
            print(self.text)  # for the report of a test that failed

    def resize(self, columns: int) -> None:
        """Change the width. tmux tells the terminal up to a quarter of a second later."""
        self.tell("resize-window", "-x", str(columns), "-y", "30")
        with Path(self.tell("display-message", "-p", "#{pane_tty}").strip()).open("rb") as tty:
            wait_until(lambda: os.get_terminal_size(tty.fileno()).columns == columns, 5, f"{columns} columns")

    def rules(self) -> set[int]:
        """Return the lengths of the lines drawn across the screen. tmux itself rewraps what was drawn before."""
        return {len(line) for line in self.text.splitlines() if line and not line.strip("─")}

    def wait_for_shell(self) -> None:
        """Wait until the shell has the terminal."""
        try:
            wait_until(lambda: self.text.rstrip().endswith("shell>"), DRAWN_WITHIN_S, "the shell's prompt")
        finally:
            print(self.text)

    def settings(self) -> str:
        """Return the terminal's settings as the shell's stty shows them."""
        self.type("clear; stty -a", "Enter")
        wait_until(lambda: "extproc\nshell>" in self.text, DRAWN_WITHIN_S, "the terminal's settings")
        return self.text

    def close(self) -> None:
        self.tell("kill-server")


def begin(screen: Screen, *argv: str) -> None:
    """Start the CLI. The prompt must come first: no question about the theme, the folder or the account."""
    screen.type("clear", "Enter")  # what an earlier call has drawn must not be taken for this call's
    wait_until(lambda: screen.text.strip() == "shell>", DRAWN_WITHIN_S, "an empty screen")
    screen.type(" ".join([screen.claude, *argv]), "Enter")
    screen.wait(READY, ASLEEP)


def ask(screen: Screen, text: str) -> None:
    screen.type(text)
    screen.wait(text)  # text that comes in one piece with the line feed would count as pasted
    screen.type("", "Enter")


def leave(screen: Screen) -> None:
    """Leave the CLI with Ctrl-C twice. It forgets the first one after 0.8 s, so on a busy machine it takes three.

    During an answer, the first one would only interrupt it.
    """
    wait_until(lambda: "to interrupt" not in screen.text, DRAWN_WITHIN_S, "the end of the answer")
    screen.type("", "C-c")
    screen.wait("again to exit")
    screen.tell("send-keys", "C-c", "C-c")
    screen.wait_for_shell()


def play_session(screen: Screen) -> None:
    """Draw, answer, draw again in another size, leave. The terminal's settings must be the same afterwards."""
    before = screen.settings()
    begin(screen)
    assert "⚠" not in screen.text, "the CLI finds nothing to warn of"
    ask(screen, "hello there")
    screen.wait("heard: hello there")
    for columns in (60, 90):
        screen.resize(columns)
        wait_until(lambda c=columns: screen.rules() == {c}, DRAWN_WITHIN_S, f"lines of {columns}")  # type: ignore[misc]
    screen.resize(100)
    leave(screen)
    assert screen.settings() == before

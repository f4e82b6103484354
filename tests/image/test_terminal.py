"""Clients of the agent's session: keys, colours, clipboard, sequences for the outer terminal, control mode."""

from __future__ import annotations

import base64
import contextlib
import itertools
import random
from collections.abc import Iterator

import pytest

from pipeline.agents.terminal import attaching
from tests.support.attached import COLUMNS, KEYS_ARE_ON, ROWS, SECONDARY_ATTRIBUTES, SHIFT_ENTER, attached
from tests.support.containers import Agent, Agents
from tests.support.containers import agents as live_agents
from tests.support.waiting import wait_until

pytest_plugins = ("tests.support.fixtures",)

MARK = base64.b64encode(b"a program's own words").decode()
LARGE = base64.b64encode(random.Random(16).randbytes(75 * 1024)).decode()
OWN_CONFIGURATION = "set -s set-clipboard on\nset -g allow-passthrough on\n"
TRUE_COLOUR = "38;2;11;22;33"
PROGRESS_AND_NOTIFICATION = "\x1b]9;4;1;50\x07\x1b]9;all-done\x07"
KEYS = itertools.count(1)

PROGRAMS = {
    "copy": f"printf '\\033]52;c;{MARK}\\007'",
    "copy-large": "printf '\\033[?1049h\\033]52;c;'; tr -d '\\n' < /tmp/large; printf '\\007\\033[?1049l'",
    "copy-wrapped": f"printf '\\033Ptmux;\\033\\033]52;c;{MARK}\\007\\033\\\\'",
    "notify": "printf '\\033Ptmux;\\033\\033]9;4;1;50\\007\\033\\033]9;all-done\\007\\033\\\\'",
    "colour": 'printf "\\033[38;2;11;22;33m$TERM, $COLORTERM\\033[0m\\n"',
    "titles": "for number in 0 1 2; do printf '\\033]%d;title-of-a-program\\007' $number; done",
    "read-key": 'stty raw -echo; printf "$2asks:$1"; got=$(head -c $3 | od -A n -t x1); stty sane; echo "got:$1$got"',
}


@contextlib.contextmanager
def with_programs(agent: Agent) -> Iterator[Agent]:
    for name, script in {
        **PROGRAMS,
        "large": "\n".join(LARGE[at : at + 70] for at in range(0, len(LARGE), 70)),
    }.items():
        agent.run("sh", "-c", f"cat > /tmp/{name} <<'END'\n{script}\nEND")
    yield agent


@pytest.fixture(scope="module")
def agent(image: str) -> Iterator[Agent]:
    """An agent as `docker run` starts it. Each test leaves its session at an empty prompt."""
    with live_agents(image) as made, with_programs(made.healthy()) as agent:
        yield agent


@pytest.mark.parametrize(
    ("term", "colours", "clipboard"),
    [
        ("", True, True),
        ("xterm-256color", True, True),
        ("tmux-256color", True, True),
        ("screen", False, True),
        ("screen-256color", False, True),
        ("xterm-color", False, True),
        ("rxvt-unicode-256color", False, False),
        ("linux", False, False),
        ("vt100", False, False),
    ],
)
def test_client_gets_what_its_terminal_can_do(agent: Agent, term: str, colours: bool, clipboard: bool) -> None:
    """The clipboard is set from the alternate screen, with 100 KB, whole. Programs may use true colour for each."""
    with attached(agent, term) as terminal:
        terminal.run("sh /tmp/notify", "sh /tmp/colour")
        terminal.wait(PROGRESS_AND_NOTIFICATION)
        assert terminal.sees("tmux-256color, truecolor")
        assert terminal.sees(TRUE_COLOUR) == colours
        terminal.run("sh /tmp/copy-large")
        assert terminal.sees(LARGE) == clipboard


@pytest.mark.parametrize(
    ("term", "colorterm", "colours"),
    [("xterm-256color", "", True), ("a-new-terminal", "", True), ("linux", "", False), ("screen", "truecolor", True)],
)
def test_attach_says_what_terminal_it_is(agent: Agent, term: str, colorterm: str, colours: bool) -> None:
    """`agents.attach` knows the terminal's own name and COLORTERM. Plain `docker exec` does not."""
    with attached(agent, command=attaching(agent.id), TERM=term, COLORTERM=colorterm) as terminal:
        terminal.run("sh /tmp/colour")
        assert terminal.sees(TRUE_COLOUR) == colours


@pytest.mark.parametrize("term", ["", "xterm-256color", "tmux-256color"])
def test_program_that_asks_gets_shift_enter(agent: Agent, term: str) -> None:
    """Terminals send it in two forms. A program that does not ask gets plain keys as before."""
    with attached(agent, term) as terminal:
        terminal.type(SECONDARY_ATTRIBUTES)
        terminal.wait(KEYS_ARE_ON)
        for asks, key, got in (
            ("\\033[>4;2m", SHIFT_ENTER, SHIFT_ENTER),
            ("\\033[>4;1m", b"\x1b[27;2;13~", SHIFT_ENTER),
            ("\\033[>4m", b"\r", b"\r"),
        ):
            number = next(KEYS)
            terminal.type(f"sh /tmp/read-key {number} '{asks}' {len(got)}\r".encode())
            terminal.wait(f"asks:{number}")
            terminal.type(key)
            terminal.wait(f"got:{number} {got.hex(' ')}")


def test_titles_of_programs_do_not_reach_the_terminal(agent: Agent) -> None:
    with attached(agent) as terminal:
        terminal.run("sh /tmp/titles")
        assert not terminal.sees("title-of-a-program")


def test_nothing_of_a_program_reaches_the_terminal_where_the_clipboard_is_off(agents: Agents) -> None:
    volume = agents.volume()
    write = f"printf '{OWN_CONFIGURATION}' > /agent/home/.tmux.conf"
    assert agents.once("sh", "-c", write, volumes=[f"{volume}:/agent"])[0] == 0
    started = agents.healthy(environment={"AGENT_CLIPBOARD": "off"}, volumes=[f"{volume}:/agent"])
    with with_programs(started) as agent, attached(agent) as terminal:
        for program in ("copy", "copy-wrapped", "notify", "copy-large"):
            terminal.run(f"sh /tmp/{program}")
        assert not [text for text in (MARK, LARGE, PROGRESS_AND_NOTIFICATION) if terminal.sees(text)]


def test_control_mode_attaches_and_leaves_and_the_size_comes_back(agent: Agent) -> None:
    """As iTerm2 does. It leaves again where aggressive-resize is on."""

    def wait_for_size(columns: int, rows: int) -> None:
        form = "#{window_width} #{window_height} #{aggressive-resize}"
        expected = f"{columns} {rows} 0"
        wait_until(lambda: agent.tmux("display-message", "-p", "-t", "=agent:", form) == expected, 5, expected)

    with attached(agent):
        wait_for_size(COLUMNS, ROWS - 1)
    with attached(agent, command=["docker", "exec", "-it", agent.id, "tmux", "-CC", "attach"]) as control:
        control.wait("\x1bP1000p%begin")
        control.type(b"refresh-client -C 120,40\n")
        wait_for_size(120, 40)
        control.type(b"detach-client\n")
        control.wait("%exit\r\n\x1b\\")
        assert control.client.wait(5) == 0
    with attached(agent):
        wait_for_size(COLUMNS, ROWS - 1)

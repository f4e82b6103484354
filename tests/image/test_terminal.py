"""What a program in a pane can send to an attached person's terminal: clipboard and title."""

from __future__ import annotations

import base64
import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.containers import Agent, Agents
from tests.support.waiting import wait_until

pytest_plugins = ("tests.support.fixtures",)

MARK = base64.b64encode(b"a program's own words").decode()
COPY = f"printf '\\033]52;c;{MARK}\\007'"
WRAPPED = f"printf '\\033Ptmux;\\033\\033]52;c;{MARK}\\007\\033\\\\'"
OWN_CONFIGURATION = "set -s set-clipboard on\nset -g allow-passthrough on\n"


@dataclass
class Attached:
    """A terminal that is attached to the agent's session."""

    agent: Agent
    terminal: int
    shown: bytes = b""

    def sees(self, text: str) -> bool:
        """Read new output. Say whether the whole output so far holds the text."""
        with contextlib.suppress(BlockingIOError):  # ignored because there is no more output
            while chunk := os.read(self.terminal, 65536):
                self.shown += chunk
        return text.encode() in self.shown

    def run(self, script: str, ready: str) -> None:
        """Run a script in the pane that prints something and then `ready`. Wait until that is shown."""
        self.agent.run("sh", "-c", f"cat > /tmp/script <<'END'\n{script}\necho {ready[:2]}''{ready[2:]}\nEND")
        self.agent.tmux("send-keys", "-t", "=agent:", "sh /tmp/script", "Enter")
        wait_until(lambda: self.sees(ready), 10, f"{ready} on the terminal")


@contextlib.contextmanager
def attached(agent: Agent) -> Iterator[Attached]:
    """Attach as people do."""
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)
    command = ["docker", "exec", "-it", agent.id, "tmux", "attach"]
    client = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    made = Attached(agent, ours)
    try:
        wait_until(lambda: agent.tmux("list-clients"), 10, "somebody to be attached")
        yield made
    finally:
        client.terminate()
        client.wait(10)
        os.close(ours)


def test_program_sets_the_clipboard_of_who_is_attached(agents: Agents) -> None:
    with attached(agents.healthy()) as terminal:
        terminal.run(COPY, "printed")
        wait_until(lambda: terminal.sees(MARK), 5, "the clipboard's sequence")


@pytest.mark.parametrize("copy", [COPY, WRAPPED], ids=["plain", "wrapped"])
def test_program_does_not_where_the_clipboard_is_off(agents: Agents, copy: str) -> None:
    volume = agents.volume()
    write = f"printf '{OWN_CONFIGURATION}' > /agent/home/.tmux.conf"
    assert agents.once("sh", "-c", write, volumes=[f"{volume}:/agent"])[0] == 0
    with attached(agents.healthy(environment={"AGENT_CLIPBOARD": "off"}, volumes=[f"{volume}:/agent"])) as terminal:
        terminal.run(copy, "printed")
        terminal.run(":", "finished")
        assert not terminal.sees(MARK)


def test_passthrough_sequences_do_not_reach_the_outer_terminal(agents: Agents) -> None:
    with attached(agents.healthy()) as terminal:
        terminal.run(WRAPPED, "printed")
        terminal.run(":", "finished")
        assert not terminal.sees(MARK)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_programs_title_does_not_reach_the_terminal(agents: Agents, number: int) -> None:
    with attached(agents.healthy()) as terminal:
        terminal.run(f"printf '\\033]{number};title-of-a-program\\007'", "printed")
        terminal.run(":", "finished")
        assert not terminal.sees("title-of-a-program")

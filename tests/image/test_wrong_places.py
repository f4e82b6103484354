"""Something else stands in place of the supervisor's files on /agent. The agent still starts normally."""

from __future__ import annotations

import json

import pytest

from tests.support.containers import Agents

pytest_plugins = ("tests.support.fixtures",)

FILES = (
    "state.json", "run/lock", "run/passwd", "run/group", "log/agent.log", "home/.tmux.conf",
    "home/.config/tmux/tmux.conf",
)  # fmt: skip
DIRECTORIES = ("log", "scrollback", "home", "run")
KINDS = {
    "fifo": "os.mkfifo(path)",
    "socket": "socket.socket(socket.AF_UNIX).bind(path)",
    "directory": "os.mkdir(path)",
    "device": "os.symlink('/dev/zero', path)",
    "dangling": "os.symlink('nowhere', path)",
}
PUT = """\
import os, shutil, socket
for path in {places!r}:
    path = f'/agent/{{path}}'
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    {put}
"""


@pytest.mark.parametrize("user", ["1000", "1234:1234"])
@pytest.mark.parametrize("kind", KINDS)
def test_agent_starts_whatever_stands_in_place_of_its_files(agents: Agents, kind: str, user: str) -> None:
    places = [*FILES, f"run/tmux-{user.partition(':')[0]}"]
    if kind == "dangling":  # tmux does not see a dangling link as a configuration
        places = [place for place in places if not place.endswith("tmux.conf")]
    volumes = [f"{agents.volume()}:/agent"]
    put = PUT.format(places=places, put=KINDS[kind])
    assert agents.once("python3", "-c", put, user=user, volumes=volumes)[0] == 0
    if kind == "directory":
        places.remove(f"run/tmux-{user.partition(':')[0]}")  # a directory is right here
    agent = agents.healthy(user=user, volumes=volumes).expect("moved aside to")
    for place in places:
        assert agent.wait_log(f"/agent/{place} is ").count(f"/agent/{place} is ") == 1
    agent.stop()
    assert json.loads(agents.once("cat", "/agent/state.json", user=user, volumes=volumes)[1])["phase"] == "stopped"
    again = agents.healthy(user=user, volumes=volumes)
    assert "moved aside" not in again.log()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "directory"])
def test_agent_starts_with_files_in_place_of_directories(agents: Agents, kind: str) -> None:
    volumes = [f"{agents.volume()}:/agent"]
    put = PUT.format(places=DIRECTORIES, put=KINDS[kind])
    assert agents.once("python3", "-c", put, volumes=volumes)[0] == 0
    agent = agents.healthy(volumes=volumes).expect("moved aside to")
    for place in DIRECTORIES:
        assert agent.wait_log(f"/agent/{place} is ").count(f"/agent/{place} is ") == 1


def test_directory_in_place_of_the_socket_of_tmux_is_moved_aside(agents: Agents) -> None:
    volumes = [f"{agents.volume()}:/agent"]
    make = "rm -f /agent/run/tmux-1000/default; mkdir -p /agent/run/tmux-1000/default/x; chmod 777 /agent/run/tmux-1000"
    assert agents.once("sh", "-c", make, volumes=volumes)[0] == 0
    agents.healthy(volumes=volumes).expect("default is a directory and no socket; moved aside to")


@pytest.mark.parametrize("text", ['{"cut_off": "three"}', '{"cut_off": [1]}', "[" * 200_000, '{"phase": "\\u001b[2J"}'])
def test_agent_starts_whatever_its_state_says(agents: Agents, text: str) -> None:
    volume = agents.volume()
    write = "import sys; open('/agent/state.json', 'w').write(sys.argv[1])"
    if len(text) > 100_000:
        write, text = "open('/agent/state.json', 'w').write('[' * 200_000)", ""
    assert agents.once("python3", "-c", write, text, volumes=[f"{volume}:/agent"])[0] == 0
    agent = agents.healthy(volumes=[f"{volume}:/agent"]).expect("was cut off", "could not be read")
    assert "\x1b" not in agent.log()


def test_pipe_as_shared_configuration_stops_no_task_master(agents: Agents) -> None:
    agent = agents.healthy()
    agent.sh("mkdir /shared/taskmaster; mkfifo /shared/taskmaster/config.json")
    said = agent.sh("cd /workspace; timeout 20 task-master models 2>&1")
    assert "/shared/taskmaster/config.json is left out (it is no file)" in said


def test_program_of_the_agent_s_takes_no_place_of_the_session_s(agents: Agents) -> None:
    """The agent's home comes first on PATH. A tmux that somebody installed there keeps no agent from starting."""
    volumes = [f"{agents.volume()}:/agent"]
    plant = "mkdir -p ~/.local/bin && cd ~/.local/bin && printf '#!/bin/sh\\nexec sleep 99' > tmux && chmod +x tmux"
    assert agents.once("sh", "-c", plant, volumes=volumes)[0] == 0
    agents.healthy(volumes=volumes)

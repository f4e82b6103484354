"""Ten agents at work at the same time, each in a container of its own: nothing of one reaches another."""

from __future__ import annotations

import os
import re
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.bridge_box import Box
from tests.support.bridge_host import OWNER
from tests.support.containers import Agents
from tests.support.fake_messages_api import Reply, Request, Say, Together, Use
from tests.support.real_host import RealHost
from tests.support.tool_calls import FREE

COUNT = 10
START_AT_ONCE = 4
ANSWER_S = 180
"""With ten CLIs that start on two processors which others use as well."""
MARK = re.compile(r"mark-[0-9a-f]{32}")


@dataclass(frozen=True)
class Worker:
    """An agent, and the word that is its alone."""

    box: Box
    mark: str

    def begin(self) -> subprocess.Popen[bytes]:
        return self.box.begin("claude-code", "-p", f"Write down {self.mark}", FREE)


def part(request: Request) -> Reply:
    """Let the agent write its word by a command and by a tool of the CLI's own, then say what the command printed."""
    mark = "".join(sorted(set(MARK.findall(request.everything))))  # two of them make an answer that nobody expects
    if not request.tools:
        return Say("title")
    if request.results:
        return Say(f"{mark} {request.results[0]}")
    command = f"echo {mark} | tee by-command /shared/{mark} >> /shared/all && cat /etc/hostname"
    file = {"file_path": "/workspace/by-tool", "content": f"{mark}\n"}
    return Together((Use("Bash", {"command": command, "description": "x"}), Use("Write", file)))


@pytest.fixture
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all agents, as the agents' user has it."""
    folder = tmp_path_factory.mktemp("shared")
    os.chown(folder, OWNER, OWNER)
    return folder


@pytest.mark.parametrize("image", ["prod"], indirect=True)
def test_ten_agents_at_work_at_the_same_time_do_not_mix(newest_host: RealHost, agents: Agents, shared: Path) -> None:
    newest_host.api.part = part
    places = [newest_host.place() for _ in range(COUNT)]

    def worker(number: int) -> Worker:
        box = Box(agents, places[number], volumes_of_all={shared: "/shared"})
        box.agent.expect("no answer in", "not seen")  # ten CLIs on two processors leave health little time
        return Worker(box, f"mark-{uuid.uuid4().hex}")

    with ThreadPoolExecutor(START_AT_ONCE) as pool:
        workers = list(pool.map(worker, range(COUNT)))
    asked = [each.begin() for each in workers]
    told = [process.communicate(timeout=ANSWER_S)[0].decode() for process in asked]
    assert told == [f"{each.mark} {each.box.agent.id[:12]}\n" for each in workers], "each has its own answer"
    for each in workers:
        found = {path.name: path.read_text() for path in each.box.place.workspace.iterdir() if path.is_file()}
        assert (found["by-command"], found["by-tool"]) == (f"{each.mark}\n",) * 2
        assert set(MARK.findall("".join(found.values()))) == {each.mark}, "nothing of another's is in its workspace"
    marks = sorted(each.mark for each in workers)
    assert {path.name: path.read_text() for path in shared.glob("mark-*")} == {mark: f"{mark}\n" for mark in marks}
    assert sorted((shared / "all").read_text().split()) == marks, "all wrote to the same file, and no line is torn"

"""What a live container endures: memory and pids that run out, pauses, TERM at any moment of its start, doing nothing.

These tests take long. They are a module of their own, because each module runs in one process of pytest.
"""

from __future__ import annotations

import functools
import random
import re
import signal
from pathlib import Path

import pytest

from tests.support.containers import Agent, Agents
from tests.support.waiting import let_pass, stays, wait_until

pytest_plugins = ("tests.support.fixtures",)

FLAPPED = "health: (agent|tmux) fail"
STARTS_PER_TEST = 10
RESIDENT_KB = 30_000
LONG_PAUSE_S = 6.0
"""Longer than every deadline: the longest is the 5 s that a client of the health server has."""


def test_out_of_memory_takes_the_culprit_and_not_the_agent(agents: Agents) -> None:
    agent = agents.healthy(mem_limit="128m", memswap_limit="128m").expect(FLAPPED, "tmux server ended", "was killed")
    agent.try_run("python3", "-c", "x = bytearray(10**9)")
    agent.wait_healthy(10)
    wait_until(lambda: agent.get("/status")[1]["memory"].get("oom_kills", 0) > 0, 10, "the kill to be counted")


def test_exhausted_pids_are_survived(agents: Agents) -> None:
    agent = agents.healthy(pids_limit=40).expect(FLAPPED, "no process")
    agent.container.exec_run(["bash", "-c", "for n in $(seq 60); do sleep 8 & done; wait"], detach=True)
    agent.wait_status("unhealthy", timeout=15)
    agent.wait_healthy(20)


def test_long_pause_is_no_failure(agents: Agents) -> None:
    """The pause is longer than every deadline of the supervisor. tests/unit tests an hour with a simulated clock."""
    agent = agents.healthy()
    agent.wait_probed()
    agent.pause()
    let_pass(LONG_PAUSE_S)
    agent.container.unpause()
    agent.wait_log("resumed after a pause")
    stays(lambda: agent.health()["status"] == "degraded", 3, "health after the pause")


def test_pause_does_not_count_towards_the_unhealthy_limit(agents: Agents) -> None:
    agent = agents.healthy(environment={"AGENT_UNHEALTHY_LIMIT": "6"}).expect("health: tmux")
    agent.wait_probed()
    agent.sh("kill -STOP $(pgrep -f '^/usr/bin/tmux -u -D')")
    agent.wait_status("unhealthy", timeout=6)
    agent.pause()
    let_pass(7)
    agent.container.unpause()
    agent.sh("kill -CONT $(pgrep -f '^/usr/bin/tmux -u -D')")
    agent.wait_healthy(5)


@pytest.mark.parametrize("seed", range(10))
def test_term_at_any_moment_of_the_start_stops_at_once(agents: Agents, seed: int) -> None:
    moments = random.Random(seed)
    for _ in range(STARTS_PER_TEST):
        agent = agents.start()
        wait_until(functools.partial(init_listens, agent), 5, "init to take signals")
        let_pass(moments.uniform(0.0, 0.3))
        code, took = agent.stop()
        assert (code, took < 3) == (0, True), f"{code} after {took:.1f} s: {agent.log()}"
        agents.remove(agent)


def init_listens(agent: Agent) -> bool:
    """Say whether TERM is kept for pid 1. Before `env` blocks it the kernel drops it, because pid 1 has no handler.

    tini blocks it as well, but that does not show while it waits for signals. It also ignores TTIN, which does show.
    """
    status = Path(f"/proc/{agent.state()['Pid']}/status").read_text()
    blocked, ignored = (int(found, 16) for found in re.findall(r"^Sig(?:Blk|Ign):\s*(\w+)", status, re.MULTILINE))
    return bool(
        blocked >> (signal.SIGTERM - 1) & 1 or ("Name:\ttini" in status and ignored >> (signal.SIGTTIN - 1) & 1)
    )


def test_supervisor_is_small_and_idle(agents: Agents) -> None:
    agent = agents.healthy()
    let_pass(3)
    before = used_ticks(agent)
    let_pass(20)
    assert (used_ticks(agent) - before) / 100 / 20 <= 0.005
    assert agent.get("/status")[1]["supervisor"]["resident_kb"] <= RESIDENT_KB


def used_ticks(agent: Agent) -> int:
    """Return the hundredths of a second that the supervisor and its helpers have used."""
    pid = agent.get("/status")[1]["supervisor"]["pid"]
    return sum(int(field) for field in agent.run("cat", f"/proc/{pid}/stat").split()[13:17])

"""agent-status in live containers."""

from __future__ import annotations

import json

import pytest

from tests.support.containers import Agents
from tests.support.waiting import wait_until

pytest_plugins = ("tests.support.fixtures",)


@pytest.mark.parametrize("user", ["", "0", "4242:4242"])
def test_any_user_may_ask(agents: Agents, user: str) -> None:
    agent = agents.healthy(environment={"AGENT_NAME": "alpha"})
    wait_until(lambda: "0:bash" in agent.run("agent-status"), 5, "tmux to name the window")
    code, text = agent.try_run("agent-status", user=user)
    assert code == 0
    for part in ("alpha", "a login shell", "SESSION", "agent", "0:bash", "CHECK", "tmux", "VOLUME", "/workspace"):
        assert part in text


def test_json_is_what_status_says(agents: Agents) -> None:
    agent = agents.healthy()
    wait_until(lambda: "0:bash" in agent.run("agent-status"), 5, "tmux to name the window")
    found = json.loads(agent.run("agent-status", "--json"))
    assert set(agent.get("/status")[1]) == set(found)
    assert found["sessions"][0]["windows"][0]["name"] == "bash"


def test_second_window_shows(agents: Agents) -> None:
    agent = agents.healthy()
    agent.tmux("new-window", "-d", "-n", "tests", "sleep", "1000")
    wait_until(lambda: "1:tests" in agent.run("agent-status"), 5, "the window")


def test_last_exit_and_restarts_show(agents: Agents) -> None:
    agent = agents.healthy()
    agent.tmux("send-keys", "-t", "=agent:", "exit 3", "Enter")
    wait_until(lambda: "the shell ended with 3" in agent.run("agent-status"), 5, "the last exit")


def test_unhealthy_is_1(agents: Agents) -> None:
    agent = agents.start(environment={"AGENT_COMMAND": "exit 3"}).expect("ended with 3", "health: agent")
    agent.wait_log("starting again in 1 s")
    assert agent.try_run("agent-status")[0] == 1


def test_hanging_supervisor_is_told_of_within_2_s(agents: Agents) -> None:
    agent = agents.healthy()
    agent.sh("kill -STOP $(pgrep -x python3)")
    code, text = agent.try_run("bash", "-c", "TIMEFORMAT=%R; time agent-status")  # without the time of docker exec
    agent.sh("kill -CONT $(pgrep -x python3)")
    assert code == 69
    assert "hangs" in text
    assert float(text.split()[-1]) < 3


@pytest.mark.parametrize("init", [False, True])
def test_replaced_entry_point_is_told_of(agents: Agents, init: bool) -> None:
    agent = agents.start(entrypoint=["sleep", "1000"], user="1234:1234", init=init)
    words = "no supervisor runs here; the entry point was replaced"
    log = wait_until(lambda: agent.state()["Health"]["Log"], 10, "the engine's first probe")
    assert log[0]["Output"].startswith(words)
    code, told = agent.try_run("agent-status")
    assert (code, told.count("\n")) == (69, 0)
    assert told.startswith(f"agent-status: {words}")


def test_watch_shows_it_anew(agents: Agents) -> None:
    agent = agents.healthy()
    assert agent.sh("timeout 20 agent-status --watch | grep -c -m 2 ^uptime") == "2"

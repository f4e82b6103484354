"""The stop ladder on live containers: who is signalled, who is waited for, who is killed, and the exit code."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from tests.support.containers import Agent, Agents
from tests.support.waiting import wait_until

pytest_plugins = ("tests.support.fixtures",)

IDLE_STOP_S = 0.5
AFTER_THE_LAST_S = 0.5
KILLED = "killed, as they did not leave"
GRACE = {"AGENT_STOP_GRACE": "4"}

TAKES_3_S = (
    "trap 'sleep 3; echo done >/shared/marker; exit 0' TERM; echo ready >/shared/ready; while :; do sleep 0.1; done"
)
IGNORES_ALL = "trap '' TERM HUP INT; echo ready >/shared/ready; while :; do sleep 0.1; done"


def in_window(agent: Agent, script: str) -> None:
    """Run a script in a second window and wait until it is ready."""
    agent.tmux("new-window", "-d", "bash", "-c", script)
    wait_until(lambda: agent.has("/shared/ready"), 5, "the script to be ready")


def read_after(agents: Agents, volume: str, path: str) -> str:
    """Read a file of a volume after the container has stopped."""
    code, out, _ = agents.once("cat", path, volumes=[f"{volume}:/shared"])
    return out.strip() if code == 0 else ""


def test_idle_agent_stops_at_once(agents: Agents) -> None:
    """The best of three counts, because other tests share the machine. An agent that waits fails all three."""
    stops = [agents.healthy().stop() for _ in range(3)]
    assert {code for code, _ in stops} == {0}
    assert min(took for _, took in stops) <= IDLE_STOP_S


@pytest.mark.parametrize("signal", ["TERM", "INT", "HUP", "QUIT"])
def test_signal_stops_cleanly(agents: Agents, signal: str) -> None:
    agent = agents.healthy()
    agent.container.kill(signal)
    assert agent.wait_exit(5) == 0


def test_trap_in_second_window_is_allowed_to_finish(agents: Agents) -> None:
    volume = agents.volume()
    agent = agents.healthy(volumes=[f"{volume}:/shared"])
    in_window(agent, TAKES_3_S)
    code, took = agent.stop()
    assert (code, took >= 3) == (0, True)
    assert read_after(agents, volume, "/shared/marker") == "done"
    _, written, _ = agents.once("stat", "--format=%.Y", "/shared/marker", volumes=[f"{volume}:/shared"])
    gone = datetime.fromisoformat(agent.state()["FinishedAt"][:26] + "+00:00")
    assert gone.timestamp() - float(written) <= AFTER_THE_LAST_S


def test_trap_outlives_the_hangup_of_the_shell_above(agents: Agents) -> None:
    volume = agents.volume()
    agent = agents.healthy(volumes=[f"{volume}:/shared"])
    agent.sh(f"cat > /agent/worker <<'EOF'\n{TAKES_3_S}\nEOF")
    agent.tmux("send-keys", "-t", "=agent:", "bash /agent/worker", "Enter")
    wait_until(lambda: agent.has("/shared/ready"), 5, "the worker to be ready")
    code, _ = agent.stop()
    assert (code, read_after(agents, volume, "/shared/marker")) == (0, "done")


def test_trap_below_a_script_outlives_the_terminal(agents: Agents) -> None:
    volume = agents.volume()
    agent = agents.healthy(volumes=[f"{volume}:/shared"])
    agent.sh(f"cat > /agent/worker <<'EOF'\n{TAKES_3_S}\nEOF")
    in_window(agent, "bash /agent/worker; echo not reached")
    code, _ = agent.stop()
    assert (code, read_after(agents, volume, "/shared/marker")) == (0, "done")


@pytest.mark.parametrize("how", ["setsid --fork", "tmux -L other new-session -d", "exec"])
def test_process_outside_the_session_is_asked_and_waited_for(agents: Agents, how: str) -> None:
    volume = agents.volume()
    agent = agents.healthy(volumes=[f"{volume}:/shared"])
    agent.sh(f"cat > /agent/worker <<'EOF'\n{TAKES_3_S}\nEOF")
    if how == "exec":
        agent.container.exec_run(["bash", "/agent/worker"], detach=True)
    else:
        agent.sh(f"{how} bash /agent/worker </dev/null >/dev/null 2>&1")
    wait_until(lambda: agent.has("/shared/ready"), 5, "the worker to be ready")
    code, _ = agent.stop()
    assert (code, read_after(agents, volume, "/shared/marker")) == (0, "done")


def test_process_that_ignores_signals_is_killed_after_the_grace(agents: Agents) -> None:
    agent = agents.healthy(environment=GRACE).expect(KILLED)
    in_window(agent, IGNORES_ALL)
    code, took = agent.stop()
    assert code == 137
    assert 4 <= took <= 5.5


def test_nohup_job_is_asked_by_term(agents: Agents) -> None:
    agent = agents.healthy()
    in_window(agent, "echo ready >/shared/ready; nohup sleep 1000")
    assert agent.stop()[0] == 0
    assert agent.shutdown_s() <= 1


def test_stopped_job_hears_that_it_should_leave(agents: Agents) -> None:
    agent = agents.healthy()
    # outside every terminal: inside one, tmux and the kernel continue stopped processes themselves
    agent.sh("setsid --fork bash -c 'echo ready >/shared/ready; kill -STOP $$' </dev/null >/dev/null 2>&1")
    wait_until(lambda: "T" in agent.run("ps", "-eo", "stat="), 5, "the job to be stopped")
    assert agent.stop()[0] == 0
    assert agent.shutdown_s() <= 1


def test_second_signal_skips_the_wait(agents: Agents) -> None:
    agent = agents.healthy(environment={"AGENT_STOP_GRACE": "60"}).expect(KILLED)
    in_window(agent, IGNORES_ALL)
    agent.container.kill("TERM")
    agent.wait_status("stopping", timeout=2)
    agent.container.kill("TERM")
    assert agent.wait_exit(3) == 137


def test_health_says_stopping_while_a_process_takes_its_time(agents: Agents) -> None:
    agent = agents.healthy()
    in_window(agent, TAKES_3_S)
    agent.container.kill("TERM")
    agent.wait_status("stopping", timeout=1)
    assert agent.get("/health")[0] == agent.get("/ready")[0] == 503
    assert agent.get("/live")[0] == 200
    assert agent.wait_exit(5) == 0


def test_hung_tmux_server_does_not_keep_the_stop(agents: Agents) -> None:
    agent = agents.healthy()
    agent.sh("kill -STOP $(pgrep -f '^/usr/bin/tmux -u -D')")
    assert agent.stop()[0] == 0
    assert agent.shutdown_s() <= 2


def test_scrollback_of_every_window_is_kept(agents: Agents) -> None:
    volume = agents.volume()
    agent = agents.healthy(volumes=[f"{volume}:/agent"])
    agent.tmux(
        "new-window",
        "-d",
        "-n",
        "second",
        "bash",
        "-c",
        # The pause after the words is for tmux: it loses what is written at the very end (docs/runtime.md).
        "trap 'echo last words; sleep 0.3; exit' TERM; echo first; while :; do sleep 0.1; done",
    )
    wait_until(lambda: "first" in agent.tmux("capture-pane", "-p", "-t", "=agent:second"), 5, "the window's words")
    assert agent.stop()[0] == 0
    code, out, _ = agents.once(
        "bash", "-c", "cat /agent/scrollback/*-agent-1-second-*.txt", volumes=[f"{volume}:/agent"]
    )
    assert code == 0
    assert "first" in out
    assert "last words" in out


def test_scrollback_files_stay_bounded(agents: Agents) -> None:
    agent = agents.healthy()
    agent.sh("cd /agent/scrollback && for n in $(seq 100); do touch 20200101T000000Z-old-$n.txt; done")
    volume = next(m["Name"] for m in agent.container.attrs["Mounts"] if m["Destination"] == "/agent")
    agent.stop()
    _, out, _ = agents.once("bash", "-c", "ls /agent/scrollback | wc -l", volumes=[f"{volume}:/agent"])
    assert int(out) == 40


def test_state_tells_of_the_stop(agents: Agents) -> None:
    volume = agents.volume()
    agent = agents.healthy(volumes=[f"{volume}:/agent"], environment={"AGENT_NAME": "alpha"})
    agent.stop()
    _, out, _ = agents.once("cat", "/agent/state.json", volumes=[f"{volume}:/agent"])
    state = json.loads(out)
    assert (state["phase"], state["name"], state["stop"]["code"]) == ("stopped", "alpha", 0)


def test_ctrl_c_on_a_terminal_stops_the_agent(agents: Agents) -> None:
    agent = agents.start(tty=True, stdin_open=True)
    terminal = agent.container.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    agent.wait_healthy()
    terminal._sock.send(b"\x03")
    assert agent.wait_exit(5) == 0
    terminal.close()


@pytest.mark.parametrize(
    ("script", "code"),
    [("trap 'exit 5' TERM; echo ready; while :; do sleep 0.1; done", 5), ("echo ready; exec sleep 100", 143)],
)
def test_command_that_is_asked_gives_its_own_code(agents: Agents, script: str, code: int) -> None:
    for _ in range(5):  # the supervisor learns of the end and of the exit code in two ways, in either order
        agent = agents.start("bash", "-c", script)
        agent.wait_log("ready")
        assert agent.stop()[0] == code
        agents.remove(agent)


def test_background_process_is_asked_before_the_end(agents: Agents) -> None:
    volume = agents.volume()
    worker = "trap 'echo done >/shared/marker; exit' TERM; echo >/shared/ready; while :; do sleep 0.1; done"
    script = f"({worker}) & until [ -e /shared/ready ]; do sleep 0.1; done; exit 3"
    code, _, _ = agents.once("bash", "-c", script, volumes=[f"{volume}:/shared"])
    assert (code, read_after(agents, volume, "/shared/marker")) == (3, "done")


def test_another_users_process_is_named_and_not_waited_for(agents: Agents) -> None:
    agent = agents.healthy().expect("another user's")
    agent.container.exec_run(["sleep", "1000"], user="0", detach=True)
    wait_until(lambda: agent.try_run("pgrep", "-x", "sleep")[0] == 0, 5, "root's process")
    assert agent.stop()[0] == 0
    assert agent.shutdown_s() <= 1


def test_stop_during_back_off_does_not_wait_for_it(agents: Agents) -> None:
    agent = agents.start(environment={"AGENT_COMMAND": "exit 1"}).expect("the command ended with 1", "health: agent")
    agent.wait_log("starting again in 2 s")
    assert agent.stop()[0] == 0
    assert agent.shutdown_s() <= 1

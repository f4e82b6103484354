"""Start, restart, end and recovery of live containers: each process is killed in turn."""

from __future__ import annotations

import re

import pytest

from tests.support.containers import Agent, Agents
from tests.support.waiting import stays, wait_until

pytest_plugins = ("tests.support.fixtures",)

ENDED = "the command ended with"
FLAPPED = "health: (agent|tmux) fail"


def commanded(agents: Agents, command: str, **variables: str) -> Agent:
    """Start an agent with AGENT_COMMAND. Log lines about the command's end are expected."""
    agent = agents.start(environment={"AGENT_COMMAND": command, **variables})
    return agent.expect(ENDED, FLAPPED)


def restarts(agent: Agent) -> int:
    return int(agent.health()["agent"].get("restarts", -1))


def recovered(agent: Agent, times: int = 1) -> None:
    """Wait until the agent was started again and runs. A start counts from when it is decided."""
    wait_until(lambda: restarts(agent) == times, 10, f"{times} restarts")
    wait_until(lambda: agent.try_run("tmux", "has-session", "-t", "=agent")[0] == 0, 10, "the session")
    agent.wait_healthy(10)


# -- start ------------------------------------------------------------------------------------------------


def test_session_runs_a_login_shell_in_the_workspace(agents: Agents) -> None:
    agent = agents.healthy()
    where = agent.tmux("display-message", "-p", "-t", "=agent:", "#{pane_current_path} #{pane_start_command}")
    assert where == "/workspace /bin/bash -l"


def test_login_shell_keeps_the_containers_path(agents: Agents) -> None:
    agent = agents.healthy(environment={"PATH": "/opt/own:/usr/local/bin:/usr/bin:/bin"})
    agent.tmux("send-keys", "-t", "=agent:", "echo $PATH > /shared/path", "Enter")
    wait_until(lambda: agent.has("/shared/path"), 5, "the shell's answer")
    assert agent.run("cat", "/shared/path").startswith("/opt/own:")


def test_command_runs_in_the_session_as_written(agents: Agents) -> None:
    agent = agents.healthy(environment={"AGENT_COMMAND": "echo \"a 'b' $((1+1))\" > /shared/out; sleep 1000;"})
    wait_until(lambda: agent.has("/shared/out"), 5, "the command's output")
    assert agent.run("cat", "/shared/out") == "a 'b' 2"


def test_plain_tmux_reaches_the_session_under_a_read_only_root(agents: Agents) -> None:
    agent = agents.healthy(read_only=True)
    assert agent.tmux("display-message", "-p", "#{session_name}") == "agent"


def test_users_own_tmux_configuration_cannot_end_the_session(agents: Agents) -> None:
    volume = agents.volume()
    settings = "set -g destroy-unattached on\nset -s exit-unattached on\nset -g remain-on-exit off\n"
    code, _, _ = agents.once("bash", "-c", f"printf '{settings}' > ~/.tmux.conf", volumes=[f"{volume}:/agent"])
    assert code == 0
    agent = agents.healthy(volumes=[f"{volume}:/agent"])
    stays(lambda: agent.health()["status"] == "degraded" and restarts(agent) == 0, 3, "the session")


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("AGENT_RESTART", "sometimes", "no, on-failure, always"),
        ("AGENT_ON_EXIT", "leave", "stay, exit"),
        ("AGENT_UNHEALTHY_LIMIT", "-1", "seconds from 0 to 86400"),
        ("AGENT_STOP_GRACE", "8s", "seconds from 0 to 3600"),
        ("HEALTH_PORT", "70000", "a port from 1 to 65535"),
        ("HEALTH_HOST", "localhost", "an IP address"),
        ("CLAUDE_BRIDGE_ERRORS", "xml", "text, json"),
        ("AGENT_LOG", "loud", "text, json"),
        ("AGENT_CLIPBOARD", "yes", "on, off"),
        ("HEALTH_ALLOWED_HOSTS", "example.org:80", "names or addresses without a port, separated by commas"),
        ("HEALTH_ALLOWED_HOSTS", "a,,b", "names or addresses without a port, separated by commas"),
    ],
)
def test_bad_value_ends_the_start_with_one_line(agents: Agents, name: str, value: str, allowed: str) -> None:
    code, out, err = agents.once(environment={name: value})
    assert (code, out, err.count("\n")) == (64, "", 1)
    assert all(part in err for part in (name, repr(value), allowed))


def test_second_agent_on_the_same_volume_is_refused(agents: Agents) -> None:
    volume = agents.volume()
    first = agents.healthy(volumes=[f"{volume}:/agent"])
    code, out, _ = agents.once(volumes=[f"{volume}:/agent"])
    assert code == 75
    assert "give each agent a volume of its own" in out
    assert first.health()["status"] == "degraded"


def test_json_log_has_one_object_a_line(agents: Agents) -> None:
    agent = agents.healthy(environment={"AGENT_LOG": "json"})
    agent.wait_log("running after")
    assert all(
        re.fullmatch(r'\{"at": ".+", "level": "\w+", "from": ".+", "event": ".+"\}', line)
        for line in agent.log().splitlines()
    )


# -- docker run IMAGE COMMAND -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "code", "out"),
    [
        (["printf", "%s|", "", "a b", "c\nd"], 0, "|a b|c\nd|"),
        (["sh", "-c", "exit 42"], 42, ""),
        (["sh", "-c", "kill -9 $$"], 137, ""),
        (["/etc/passwd"], 126, ""),
        (["no-such-command"], 127, ""),
        (["sh", "-c", "echo $PPID-$(cat)"], 0, None),
    ],
    ids=["arguments", "code", "signal", "not-executable", "not-found", "stdin"],
)
def test_command_passes_through(agents: Agents, argv: list[str], code: int, out: str | None) -> None:
    found = agents.once(*argv)
    assert found[0] == code
    assert out is None or found[1] == out


def test_commands_health_is_answered(agents: Agents) -> None:
    agent = agents.healthy("sleep", "1000")
    assert agent.health()["agent"]["state"] == "command"


def test_interactive_command_has_job_control_and_ctrl_c(agents: Agents) -> None:
    agent = agents.start("bash", "--norc", tty=True, stdin_open=True)
    terminal = agent.container.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    agent.wait_healthy()
    terminal._sock.send(b"sleep 1000\n")
    wait_until(lambda: agent.try_run("pgrep", "-x", "sleep")[0] == 0, 5, "the foreground job")
    terminal._sock.send(b"\x03")
    wait_until(lambda: agent.try_run("pgrep", "-x", "sleep")[0] == 1, 5, "Ctrl-C to end it")
    terminal._sock.send(b"exit 9\n")
    assert agent.wait_exit(5) == 9
    assert "no job control" not in agent.log()
    terminal.close()


def test_command_stopped_by_the_terminal_goes_on(agents: Agents) -> None:
    agent = agents.start("sleep", "1000", tty=True, stdin_open=True)
    terminal = agent.container.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    agent.wait_healthy()
    terminal._sock.send(b"\x1a")
    terminal._sock.send(b"\x03")
    assert agent.wait_exit(5) == 130
    terminal.close()


# -- restart policy ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("restart", ["no", "on-failure"])
def test_finished_command_leaves_a_shell(agents: Agents, restart: str) -> None:
    agent = commanded(agents, "true", AGENT_RESTART=restart)
    wait_until(lambda: agent.health()["agent"].get("state") == "finished", 10, "the state finished")
    agent.wait_healthy()
    assert agent.tmux("display-message", "-p", "-t", "=agent:", "#{pane_current_command}") == "bash"


@pytest.mark.parametrize(
    ("command", "variables", "code"),
    [
        ("true", {"AGENT_ON_EXIT": "exit"}, 0),
        ("exit 3", {"AGENT_RESTART": "no"}, 3),
        ("kill -9 $$", {"AGENT_RESTART": "no"}, 137),
        ("exit 7", {}, 7),
        ("exit 7", {"AGENT_RESTART": "always"}, 7),
    ],
    ids=["exit", "no", "no-signal", "crash-loop", "crash-loop-always"],
)
def test_container_ends_with_the_commands_code(
    agents: Agents, command: str, variables: dict[str, str], code: int
) -> None:
    assert commanded(agents, command, **variables).wait_exit(30) == code


def test_always_starts_a_finished_command_again(agents: Agents) -> None:
    agent = commanded(agents, "sleep 0.3", AGENT_RESTART="always")
    wait_until(lambda: restarts(agent) >= 2, 10, "two restarts")


def test_what_a_failed_run_left_behind_is_gone_before_the_next(agents: Agents) -> None:
    agent = commanded(agents, "sleep 1000 & exit 1")
    agent.wait_log("starting again in 2 s")
    agent.wait_status("unhealthy", timeout=2)
    assert agent.try_run("pgrep", "-x", "sleep")[0] == 1


def test_scrollback_of_a_failed_run_is_kept(agents: Agents) -> None:
    agent = commanded(agents, "echo the reason; exit 1")
    agent.wait_log("starting again in 0.5 s")
    assert "the reason" in agent.sh("cat /agent/scrollback/*.txt")


def test_login_shell_that_is_left_is_started_anew(agents: Agents) -> None:
    agent = agents.healthy()
    agent.tmux("send-keys", "-t", "=agent:", "exit 3", "Enter")
    recovered(agent)


def test_login_shell_with_a_broken_profile_starts_without_it(agents: Agents) -> None:
    agent = agents.healthy().expect(FLAPPED)
    agent.sh("echo exit 1 > ~/.bash_profile")
    agent.tmux("send-keys", "-t", "=agent:", "exit", "Enter")
    command = "#{pane_start_command}"
    wait_until(
        lambda: "--noprofile" in agent.tmux("display-message", "-p", "-t", "=agent:", command), 15, "a plain shell"
    )


# -- each process killed in turn --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kill",
    [
        "kill -9 $(pgrep -f '^/usr/bin/tmux -u -D')",
        "kill -15 $(pgrep -f '^/usr/bin/tmux -u -D')",
        "tmux kill-server",
        "tmux kill-session -t agent",
        "tmux kill-window -t agent:0",
        "kill -9 $(tmux display-message -p -t =agent: '#{pane_pid}')",
    ],
    ids=["server-KILL", "server-TERM", "kill-server", "kill-session", "kill-window", "shell-KILL"],
)
def test_what_was_killed_is_recovered(agents: Agents, kill: str) -> None:
    agent = agents.healthy().expect("starting again", FLAPPED)
    agent.sh(kill)
    recovered(agent)
    assert "Z" not in agent.run("ps", "-eo", "stat=")


ON_A_HELD_SOCKET = """
import asyncio, os, socket, sys
sys.path.insert(0, "/usr/lib/magents")
from agent import tmux

async def start():
    server = tmux.Tmux()
    server.start_server()
    print(await server.send_first(["new-session", "-d"], ["display-message", "-p", "#{pid}"]) == f"{server.pid}\\n")
    await server.end(5)

path = tmux.socket_path()
path.parent.mkdir(0o700, parents=True)
held = socket.socket(socket.AF_UNIX)
held.bind(str(path))
held.listen()
asyncio.run(start())
"""


def test_socket_that_a_child_of_the_dead_server_still_holds_is_not_used(agents: Agents) -> None:
    """A child of the last tmux server has its socket until it runs its program, and would let the next one wait."""
    agent = agents.healthy()
    script = ["timeout", "10", "/usr/bin/python3", "-IS", "-c", ON_A_HELD_SOCKET]
    assert agent.run("env", "TMUX_TMPDIR=/tmp/held", *script) == "True"


def test_command_that_outlives_tmux_is_ended_first(agents: Agents) -> None:
    agent = commanded(agents, "trap '' HUP; sleep 1000 & sleep 1000; wait", AGENT_STOP_GRACE="2").wait_healthy()
    agent.expect("tmux server ended").sh("kill -9 $(pgrep -f '^/usr/bin/tmux -u -D')")
    recovered(agent)
    assert agent.sh("pgrep -cx sleep") == "2"


def test_lost_session_is_missed_though_its_command_lives(agents: Agents) -> None:
    agent = commanded(agents, "trap '' HUP; while :; do sleep 0.1; done").expect("was killed").wait_healthy()
    agent.tmux("kill-session", "-t", "agent")
    wait_until(lambda: restarts(agent) == 1, 1.5, "the restart")
    recovered(agent)


def test_renamed_session_gets_its_name_back(agents: Agents) -> None:
    agent = agents.healthy()
    agent.tmux("rename-session", "-t", "agent", "mine")
    wait_until(lambda: agent.try_run("tmux", "has-session", "-t", "=agent")[0] == 0, 10, "the name")
    assert restarts(agent) == 0


def test_killed_supervisor_is_told_of_at_the_next_start(agents: Agents) -> None:
    volume = agents.volume()
    agent = agents.healthy(volumes=[f"{volume}:/agent"], restart_policy={"Name": "on-failure"}).expect("was cut off")
    agent.try_run("bash", "-c", "kill -9 $(pgrep -x python3)")  # the container may end before the command does
    agent.wait_log("was cut off")
    agent.wait_healthy()
    assert agent.get("/status")[1]["cut_off"] == 1


def test_kill_of_the_container_is_told_at_the_next_start(agents: Agents) -> None:
    agent = agents.healthy().expect("was cut off")
    agent.container.kill()
    agent.container.start()
    agent.wait_log("was cut off")


def test_clean_stop_is_not_told_as_cut_off(agents: Agents) -> None:
    agent = agents.healthy()
    agent.stop()
    agent.container.start()
    # For a moment the engine still shows the health of the run before, and the log still has that run's line.
    wait_until(lambda: agent.log().count("running after") == 2, 10, "the second start")
    assert "cut off" not in agent.log()

"""The faults. Each draws its choices from the run's random generator, so a seed repeats a run."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable

from tests.chaos.target import Target
from tests.support.waiting import let_pass

SIGNALS = ["TERM", "KILL", "HUP", "INT", "QUIT", "USR1", "USR2", "SEGV", "ABRT", "PIPE", "ALRM", "CHLD", "WINCH"]
BAD_REQUESTS = [
    b"",
    b"\r\n\r\n",
    b"GET /health",
    b"GET /health HTTP/1.1\r\nHost: " + b"x" * 20_000 + b"\r\n\r\n",
    b"POST /health HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
    b"GET " + b"/" * 9000 + b" HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    b"BREW /coffee HTCPCP/1.0\r\n\r\n",
]

Fault = Callable[[Target, random.Random], None]


def _processes(target: Target) -> list[int]:
    """Return the pids inside the container, tini's too, in ascending order."""
    rows = target.as_root("ps", "-eo", "pid=,comm=").split("\n")
    return sorted(int(row.split()[0]) for row in rows if row.strip() and row.split()[1] != "ps")


def signal_a_process(target: Target, chance: random.Random) -> None:
    """Send any signal to any process, pid 1 included."""
    where, name = chance.random(), chance.choice(SIGNALS)
    pids = _processes(target)
    if pids:
        target.as_root("kill", "-s", name, str(pids[int(where * len(pids))]))


def hang_a_process(target: Target, chance: random.Random) -> None:
    """Stop any process except tini for a while. Health must show it where it matters."""
    where, long = chance.random(), chance.uniform(0, 2)
    pids = [pid for pid in _processes(target) if pid > 1]
    if not pids:
        return
    target.as_root("kill", "-s", "STOP", str(pids[int(where * len(pids))]))
    if chance.random() < 0.5:
        target.check_health_agrees()
    let_pass(long)
    target.as_root("bash", "-c", "kill -s CONT -1")


def stop_and_start(target: Target, chance: random.Random) -> None:
    """Run `docker stop` with Docker's default grace or none, then `docker start`."""
    target.container.stop(timeout=chance.choice([10, 10, 0]))
    target.check_state()
    target.container.start()


def restart(target: Target, chance: random.Random) -> None:
    """Run `docker restart`, whatever the agent is doing."""
    let_pass(chance.uniform(0, 0.3))
    target.container.restart(timeout=chance.choice([10, 0]))


def power_cut(target: Target, chance: random.Random) -> None:
    """Kill the whole container at once. The run then starts it again."""
    let_pass(chance.uniform(0, 0.3))
    if target.agent.state()["Status"] == "running":
        target.container.kill()
    target.check_state()


def remove_and_make_anew(target: Target, chance: random.Random) -> None:
    """Run `docker rm -f`, then start another container on the same volumes."""
    let_pass(chance.uniform(0, 0.3))
    target.renew()


def freeze(target: Target, chance: random.Random) -> None:
    """Run `docker pause` for up to two seconds."""
    if target.agent.state()["Status"] == "running":
        target.container.pause()
        let_pass(chance.uniform(0, 2))
        target.container.unpause()


def fill(target: Target, chance: random.Random) -> None:
    """Fill /agent to the last byte, then free it again."""
    target.holder.try_run("dd", "if=/dev/zero", "of=/agent/fill", "bs=4k")
    try:
        if chance.random() < 0.7:
            target.check_health_agrees()
        target.check_state()
        if chance.random() < 0.3:
            target.container.restart(timeout=2)
            target.bring_up()
            target.check_health_agrees()
    finally:
        target.holder.run("rm", "-f", "/agent/fill")


def end_the_session(target: Target, chance: random.Random) -> None:
    """Run a tmux command that people run by mistake."""
    command = chance.choice(["kill-server", "kill-session -t =agent", "kill-pane -t =agent:", "rename-session mine"])
    if target.agent.state()["Status"] == "running":
        target.container.exec_run(["tmux", *command.split()])


def send_bad_http(target: Target, chance: random.Random) -> None:
    """Send many bad HTTP requests. The connections stay open until the end."""
    if target.agent.state()["Status"] != "running":
        return
    port = target.agent.port
    held: list[socket.socket] = []
    for _ in range(chance.randrange(10, 150)):
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=2)
            held.append(connection)
            connection.sendall(chance.choice(BAD_REQUESTS))
        except OSError:
            continue  # ignored because a refused connection is a valid answer
    target.check_health_agrees()
    for connection in held:
        connection.close()


FAULTS: dict[str, tuple[int, Fault]] = {
    "signal to a process": (40, signal_a_process),
    "process hung": (10, hang_a_process),
    "stop and start": (8, stop_and_start),
    "restart": (6, restart),
    "power cut": (6, power_cut),
    "removed and made anew": (4, remove_and_make_anew),
    "paused": (6, freeze),
    "/agent full": (6, fill),
    "tmux ended": (8, end_the_session),
    "bad HTTP": (6, send_bad_http),
}
"""For each fault its weight and its function, by name."""

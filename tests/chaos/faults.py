"""The faults. Each draws its choices from the run's random generator, so a seed repeats a run."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable

from tests.chaos.subject import Subject
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

Fault = Callable[[Subject, random.Random], None]


def _processes(subject: Subject) -> list[int]:
    """Return the pids inside the container, tini's too, in ascending order."""
    rows = subject.as_root("ps", "-eo", "pid=,comm=").split("\n")
    return sorted(int(row.split()[0]) for row in rows if row.strip() and row.split()[1] != "ps")


def signal_a_process(subject: Subject, chance: random.Random) -> None:
    """Send any signal to any process, pid 1 included."""
    where, name = chance.random(), chance.choice(SIGNALS)
    pids = _processes(subject)
    if pids:
        subject.as_root("kill", "-s", name, str(pids[int(where * len(pids))]))


def hang_a_process(subject: Subject, chance: random.Random) -> None:
    """Stop any process except tini for a while. Health must show it where it matters."""
    where, long = chance.random(), chance.uniform(0, 2)
    pids = [pid for pid in _processes(subject) if pid > 1]
    if not pids:
        return
    subject.as_root("kill", "-s", "STOP", str(pids[int(where * len(pids))]))
    if chance.random() < 0.5:
        subject.see_truth()
    let_pass(long)
    subject.as_root("bash", "-c", "kill -s CONT -1")


def stop_and_start(subject: Subject, chance: random.Random) -> None:
    """Run `docker stop` with Docker's default grace or none, then `docker start`."""
    subject.container.stop(timeout=chance.choice([10, 10, 0]))
    subject.see_state()
    subject.container.start()


def restart(subject: Subject, chance: random.Random) -> None:
    """Run `docker restart`, whatever the agent is doing."""
    let_pass(chance.uniform(0, 0.3))
    subject.container.restart(timeout=chance.choice([10, 0]))


def power_cut(subject: Subject, chance: random.Random) -> None:
    """Kill the whole container at once. The run then starts it again."""
    let_pass(chance.uniform(0, 0.3))
    if subject.agent.state()["Status"] == "running":
        subject.container.kill()
    subject.see_state()


def remove_and_make_anew(subject: Subject, chance: random.Random) -> None:
    """Run `docker rm -f`, then start another container on the same volumes."""
    let_pass(chance.uniform(0, 0.3))
    subject.renew()


def freeze(subject: Subject, chance: random.Random) -> None:
    """Run `docker pause` for up to two seconds."""
    if subject.agent.state()["Status"] == "running":
        subject.container.pause()
        let_pass(chance.uniform(0, 2))
        subject.container.unpause()


def fill(subject: Subject, chance: random.Random) -> None:
    """Fill /agent to the last byte, then free it again."""
    subject.holder.try_run("dd", "if=/dev/zero", "of=/agent/fill", "bs=4k")
    try:
        if chance.random() < 0.7:
            subject.see_truth()
        subject.see_state()
        if chance.random() < 0.3:
            subject.container.restart(timeout=2)
            subject.bring_up()
            subject.see_truth()
    finally:
        subject.holder.run("rm", "-f", "/agent/fill")


def end_the_session(subject: Subject, chance: random.Random) -> None:
    """Run a tmux command that people run by mistake."""
    command = chance.choice(["kill-server", "kill-session -t =agent", "kill-pane -t =agent:", "rename-session mine"])
    if subject.agent.state()["Status"] == "running":
        subject.container.exec_run(["tmux", *command.split()])


def shout(subject: Subject, chance: random.Random) -> None:
    """Send many bad HTTP requests. The connections stay open until the end."""
    if subject.agent.state()["Status"] != "running":
        return
    port = subject.agent.port
    held: list[socket.socket] = []
    for _ in range(chance.randrange(10, 150)):
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=2)
            held.append(connection)
            connection.sendall(chance.choice(BAD_REQUESTS))
        except OSError:
            continue  # ignored because a refused connection is a valid answer
    subject.see_truth()
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
    "bad HTTP": (6, shout),
}
"""For each fault its weight and its function, by name."""

"""The faults. Each draws what it needs from the run's own random numbers, so that a seed repeats a run."""

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
    """Return the pids inside, tini's too, oldest first."""
    rows = subject.as_root("ps", "-eo", "pid=,comm=").split("\n")
    return sorted(int(row.split()[0]) for row in rows if row.strip() and row.split()[1] != "ps")


def signal_a_process(subject: Subject, chance: random.Random) -> None:
    """Any signal to any process, the first too."""
    where, name = chance.random(), chance.choice(SIGNALS)
    pids = _processes(subject)
    if pids:
        subject.as_root("kill", "-s", name, str(pids[int(where * len(pids))]))


def hang_a_process(subject: Subject, chance: random.Random) -> None:
    """Stop any process but tini for a while; health must tell where it matters."""
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
    """`docker stop` with its default grace or none, then `docker start`."""
    subject.container.stop(timeout=chance.choice([10, 10, 0]))
    subject.see_state()
    subject.container.start()


def restart(subject: Subject, chance: random.Random) -> None:
    """`docker restart`, in the middle of whatever it is doing."""
    let_pass(chance.uniform(0, 0.3))
    subject.container.restart(timeout=chance.choice([10, 0]))


def power_cut(subject: Subject, chance: random.Random) -> None:
    """KILL to the whole container at once, then a start."""
    let_pass(chance.uniform(0, 0.3))
    if subject.agent.state()["Status"] == "running":
        subject.container.kill()
    subject.see_state()


def remove_and_make_anew(subject: Subject, chance: random.Random) -> None:
    """`docker rm -f` and another container on the same volumes."""
    let_pass(chance.uniform(0, 0.3))
    subject.renew()


def freeze(subject: Subject, chance: random.Random) -> None:
    """`docker pause` for a moment."""
    if subject.agent.state()["Status"] == "running":
        subject.container.pause()
        let_pass(chance.uniform(0, 2))
        subject.container.unpause()


def fill(subject: Subject, chance: random.Random) -> None:
    """Fill /agent to the last byte, and free it again."""
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
    """What people do to tmux by mistake."""
    command = chance.choice(["kill-server", "kill-session -t =agent", "kill-pane -t =agent:", "rename-session mine"])
    if subject.agent.state()["Status"] == "running":
        subject.container.exec_run(["tmux", *command.split()])


def shout(subject: Subject, chance: random.Random) -> None:
    """A burst of bad HTTP; the connections stay open until the end."""
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
            continue  # ignored because being refused is an answer
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
"""Name, weight and what is done."""

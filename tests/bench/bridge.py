"""What the bridge costs: the start of its client, the first byte of a call, and the rate of its output."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import docker

from bridge.policy.argv import rewrite
from bridge.policy.environment import build
from bridge.policy.terms import WORKSPACE, Scope
from bridge.server.host.grants import Grant
from bridge.server.host.state_directory import StateDirectory
from bridge.server.sandbox.bubblewrap import SandboxSpec, sandboxed
from pipeline.build.image import VARIANTS
from tests.bench.figures import Figure, paired, seconds
from tests.support.bridge_box import Box
from tests.support.bridge_host import FAKE_CLI, Place, bridge_host
from tests.support.containers import Agents

PAIRS = 20
SIZE = 1_000_000_000
# Runs a command in the container and prints the seconds until its end, or until the first byte of its output.
TIMED = """
import subprocess, sys, time
begun = time.monotonic()
where = subprocess.PIPE if sys.argv[1] == "first" else subprocess.DEVNULL
process = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, stdout=where)
first = process.stdout.read(1) if process.stdout else b"-"
taken = time.monotonic() - begun
code = process.wait()
print(taken if sys.argv[1] == "first" else time.monotonic() - begun)
sys.exit(code or not first)
"""
# Does in the container what the scripted CLI's step `hands` does: prints the median seconds of commands under bash.
COMMANDS = """
import os, sys, time
taken = []
for _ in range(int(sys.argv[1])):
    begun = time.monotonic()
    os.waitpid(os.posix_spawn("/bin/bash", ["bash", "-c", "true"], os.environ), 0)
    taken.append(time.monotonic() - begun)
print(sorted(taken)[len(taken) // 2])
"""
COMMANDS_AT_ONCE = 25
ASKED = ["-p", "out x"]
HANDED = ["claude-code", "-p", f"hands {COMMANDS_AT_ONCE}"]
PLAIN = ["python3", "-c", COMMANDS, str(COMMANDS_AT_ONCE)]


def measure(_: docker.DockerClient) -> Iterator[Figure]:
    """Time the client in a container of the production image, with a scripted CLI that starts at once."""
    agents = Agents(VARIANTS["prod"].reference)
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, bridge_host(Path(directory)) as host:
        try:
            place = host.grant("bench")
            box = Box(agents, place)
            whole = ["docker", "exec", box.agent.id, "true"]
            version, exec_ = paired(
                partial(_in_container, box, "all", "claude", "--version"), partial(seconds, whole), PAIRS
            )
            name = f"`claude --version` in the container ({version * 1000:.0f} ms) / `docker exec CONTAINER true`"
            yield Figure(name, version / exec_, "x", 0.5, 0.35)
            bridged, direct = paired(
                partial(_in_container, box, "first", "claude-code", *ASKED),
                partial(_directly, host.state, place),
                PAIRS,
            )
            name = f"first byte over the bridge, later than from the same namespace ({direct * 1000:.0f} ms)"
            yield Figure(name, (bridged - direct) * 1000, "ms", 60, 30)
            yield Figure("first byte over the bridge / directly", bridged / direct, "x", 3)
            handed, plain = paired(partial(_printed, box, *HANDED), partial(_printed, box, *PLAIN), 5)
            name = f"a command of the CLI in the container, later than in the container itself ({plain * 1000:.1f} ms)"
            yield Figure(name, (handed - plain) * 1000, "ms", 60, 30)
            taken = min(_in_container(box, "all", "claude-code", "-p", f"flood {SIZE}") for _ in range(3))
            yield Figure("relay of a call's output", SIZE / 1e6 / taken, "MB/s", 200, 300, more_is_better=True)
        finally:
            agents.close(show=False)


def _in_container(box: Box, until: str, *command: str) -> float:
    done = box.run("python3", "-c", TIMED, until, *command)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


def _printed(box: Box, *command: str) -> float:
    done = box.run(*command)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


def _directly(state: Path, place: Place) -> float:
    """Start the CLI as the server does, in the same namespace, and wait for its first byte."""
    scope = Scope()
    grant = Grant.of(place.name, place.workspace)
    with tempfile.TemporaryDirectory() as name, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        scratch = Path(name)
        listener.bind(str(scratch / "tools"))
        (scratch / "tools").chmod(0o666)
        listener.listen()
        threading.Thread(target=_answer, args=(listener,), daemon=True).start()
        begun = time.monotonic()
        plan = rewrite(ASKED, scope)
        spec = SandboxSpec(grant, FAKE_CLI, plan.argv, build([], {}), WORKSPACE, b"", None, plan.project, scratch)
        command = sandboxed(spec, StateDirectory(state), scope)
        process = subprocess.Popen(
            command.argv,
            env=command.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            pass_fds=command.descriptors,
        )
        command.close()
        with process:
            assert process.stdout is not None
            assert process.stdout.read(1)
            return time.monotonic() - begun


def _answer(listener: socket.socket) -> None:
    """Receive the namespace's listener from the shim and confirm it, as the server does."""
    connection, _ = listener.accept()
    with connection:
        connection.recv(64)
        connection.send(b"ok")

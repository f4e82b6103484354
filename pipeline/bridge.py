"""The host's bridge server, as the tasks see it: started, asked, stopped, and a grant for each agent's workspace."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bridge.server.host import config
from bridge.server.host.cli import HostCli
from bridge.server.host.grants import State, StateError, default_root
from bridge.server.operator import admin_socket
from bridge.server.operator.cli import main as command
from bridge.server.operator.cli import own
from bridge.server.sandbox import bubblewrap
from pipeline.bootstrap import engine_setup
from pipeline.errors import Problem
from pipeline.files import ROOT
from pipeline.reporting import Say
from pipeline.waiting import wait_until

START_S = 40  # two questions to a CLI on a cold disk, 20 s each at most; warm it is half a second
STOP_S = 20  # running calls get limits.stop_grace, 5 s by default
NO_CLAUDE = "this host has no Claude Code, so agents do without; install it and run `bin/invoke bridge.up`"

_started: list[subprocess.Popen[bytes]] = []
"""Servers that outlive this process on purpose; forgotten, each would be reported as a leak."""


def up(say: Say) -> str:
    """Have the server running; the answer says in one line which it is."""
    with _bridge_errors_as_problems():
        chosen, state = config.load(None), _state()
        state.prepare()
        if state.server_pid() is None:
            if chosen.confinement == "bubblewrap":
                have_bubblewrap(say)
            _start(state)
        answer = admin_socket.ask(state, "status")
    if answer is None:
        raise Problem(f"the bridge's server has ended again; see {state.root / 'server.log'}")
    cli = answer["cli"] or "no Claude Code; " + HostCli(chosen.claude).problem
    return f"bridge server {answer['pid']} serves {state.root} with {cli}"


def down(say: Say) -> None:
    """Stop the server; running calls get their grace."""
    with _bridge_errors_as_problems():
        state = _state()
        pid = state.server_pid() if state.root.is_dir() else None
        if pid is None:
            say(f"no bridge server runs in {state.root}")
            return
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: state.server_pid() is None, STOP_S, f"bridge server {pid} does not stop")
        for process in [process for process in _started if process.pid == pid]:
            process.wait(STOP_S)
            _started.remove(process)
    say(f"bridge server {pid} is stopped")


def status() -> int:
    """Print what runs and what waits, as `claude-bridge-server status` does; returns its exit code."""
    return command(["status"])


def doctor() -> int:
    """Check everything that a call needs, as `claude-bridge-server doctor` does; returns its exit code."""
    return command(["doctor"])


def grant(name: str, workspace: Path, user: str | None = None) -> Path:
    """Let containers that mount the directory returned use the host's Claude Code on `workspace`.

    It runs as `user` (UID[:GID]), without one as it did before, or as the workspace's owner. A workspace that was
    replaced is granted anew.
    """
    with _bridge_errors_as_problems():
        state = _state()
        state.prepare()
        known = state.grants().get(name)
        wanted = state.renewed(name, workspace, user=user)
        if known and known.workspace == wanted.workspace:
            wanted = dataclasses.replace(wanted, shares=known.shares)  # they are the operator's
        if known != wanted:
            state.add(wanted, own=own())
            admin_socket.reload(state, name)
        return state.directory(name)


def refuse_links_of_containers(path: Path) -> None:
    """Refuse a folder whose name leads through a link that an agent can have made."""
    with _bridge_errors_as_problems():
        state = _state()
        if state.root.is_dir():
            state.refuse_links_of_containers(path)


def revoke(name: str) -> None:
    """End a grant at once, where there is one; its conversations stay."""
    with _bridge_errors_as_problems():
        state = _state()
        if state.root.is_dir() and state.remove(name):
            admin_socket.reload(state)


def forget(name: str) -> None:
    """End a grant and remove what it kept, its conversations included."""
    revoke(name)
    with _bridge_errors_as_problems():
        _state().forget(name)


def for_agent(name: str, workspace: Path, say: Say, user: str | None = None) -> Path | None:
    """Grant an agent its workspace and have the server running; returns the directory to mount.

    `user` is whom Claude runs as for it (UID[:GID]), where the operator has just said so.
    Whatever is missing is said in one line: an agent lives without Claude Code, too.
    """
    directory = None
    try:
        directory = grant(name, workspace, user)
        say(up(say) if host_has_claude() else NO_CLAUDE)
    except Problem as problem:
        say(f"{problem}; going on without the host's Claude Code")
    return directory


def host_has_claude() -> bool:
    """Say whether there is a Claude Code that the bridge could serve."""
    with _bridge_errors_as_problems():
        return HostCli(config.load(None).claude).find() is not None


def have_bubblewrap(say: Say) -> None:
    """Make sure that calls can be confined: install bubblewrap where this is root's Debian or Ubuntu."""
    if shutil.which("bwrap") is None and os.geteuid() == 0 and shutil.which("apt-get"):
        say("bubblewrap missing: installing it from the distribution ...")
        engine_setup.apt("update")
        engine_setup.apt("install", "-y", "--no-install-recommends", "bubblewrap")
    try:
        bubblewrap.check()
    except bubblewrap.ConfinementError as error:
        raise Problem(f"bridge: {error}") from None


def _state() -> State:
    return State(default_root())


def _start(state: State) -> None:
    """Start the server as a process of its own and wait until it answers."""
    log = state.root / "server.log"  # the server moves it aside when it has grown
    with log.open("wb") as file:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "bridge.server",
                "--state",
                str(state.root),
                "serve",
                "--log",
                str(log),
            ],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd=ROOT,
            start_new_session=True,
        )
    _started.append(process)
    wait_until(
        lambda: process.poll() is not None or admin_socket.ask(state, "status") is not None,
        START_S,
        f"the bridge's server does not answer; see {log}",
    )
    if process.poll() is not None:
        said = log.read_text(errors="replace").strip().splitlines() or ["nothing in its log"]
        raise Problem(f"the bridge's server ended with {process.returncode}: {said[-1]}")


@contextmanager
def _bridge_errors_as_problems() -> Iterator[None]:
    try:
        yield
    except config.ConfigError as error:
        raise Problem(f"bridge: {error}", 64) from error
    except (StateError, OSError) as error:
        raise Problem(f"bridge: {error}") from error

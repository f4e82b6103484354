"""The host's bridge server, as the tasks see it: started, asked, stopped, and a grant for each agent's workspace."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bridge.server.operator.api import Operator, OperatorError
from pipeline.bootstrap import engine_setup
from pipeline.errors import Problem
from pipeline.reporting import Say

NO_CLAUDE = "this host has no Claude Code, so agents do without; install it and run `bin/invoke bridge.up`"


def up(say: Say) -> str:
    """Have the server running; the answer says in one line which it is."""
    with _operator() as operator:
        if operator.needs_bubblewrap():
            have_bubblewrap(say)
        server = operator.start()
    return f"bridge server {server.pid} serves {server.root} with {server.cli}"


def down(say: Say) -> None:
    """Stop the server; running calls get their grace."""
    with _operator() as operator:
        pid = operator.stop()
    say(f"no bridge server runs in {operator.root}" if pid is None else f"bridge server {pid} is stopped")


def status() -> int:
    """Print what runs and what waits, as `claude-bridge-server status` does; returns its exit code."""
    with _operator() as operator:
        print("\n".join(operator.status_lines()))
    return 0


def doctor() -> int:
    """Check everything that a call needs, as `claude-bridge-server doctor` does; returns its exit code."""
    with _operator() as operator:
        results = operator.doctor()
    print("\n".join(result.line for result in results))
    return 0 if all(result.good for result in results) else 1


def grant(name: str, workspace: Path, user: str | None = None) -> Path:
    """Let containers that mount the directory returned use the host's Claude Code on `workspace`.

    It runs as `user` (UID[:GID]), without one as it did before, or as the workspace's owner. A workspace that was
    replaced is granted anew; the shares of an earlier grant are the operator's, and stay.
    """
    with _operator() as operator:
        return operator.grant(name, workspace, user=user)


def refuse_links_of_containers(path: Path) -> None:
    """Refuse a folder whose name leads through a link that an agent can have made."""
    with _operator() as operator:
        operator.refuse_links_of_containers(path)


def revoke(name: str) -> None:
    """End a grant at once, where there is one; its conversations stay."""
    with _operator() as operator:
        operator.revoke(name)


def forget(name: str) -> None:
    """End a grant and remove what it kept, its conversations included."""
    with _operator() as operator:
        operator.forget(name)


def for_agent(name: str, workspace: Path, say: Say, user: str | None = None) -> Path | None:
    """Grant an agent its workspace and have the server running; returns the directory to mount.

    `user` is whom Claude runs as for it (UID[:GID]), where the operator has just said so.
    Whatever is missing is reported in one line: an agent lives without Claude Code, too.
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
    with _operator() as operator:
        return operator.find_cli() is not None


def have_bubblewrap(say: Say) -> None:
    """Make sure that calls can be confined: install bubblewrap where this is root's Debian or Ubuntu."""
    if shutil.which("bwrap") is None and os.geteuid() == 0 and shutil.which("apt-get"):
        say("bubblewrap missing: installing it from the distribution ...")
        engine_setup.apt("update")
        engine_setup.apt("install", "-y", "--no-install-recommends", "bubblewrap")
    with _operator() as operator:
        operator.check_bubblewrap()


@contextmanager
def _operator() -> Iterator[Operator]:
    """The usual bridge of this host, whose errors are problems of the tasks."""
    try:
        yield Operator()
    except OperatorError as error:
        raise Problem(f"bridge: {error}", error.code) from error

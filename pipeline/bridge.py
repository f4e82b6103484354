"""The host's bridge server for the tasks: start, query, stop, and a grant for each agent's workspace."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bridge.server.operator.api import Operator, OperatorError
from bridge.server.operator.workspaces import Choice
from pipeline.bootstrap import engine_setup
from pipeline.errors import Problem
from pipeline.reporting import Say

NO_CLAUDE = "this host has no Claude Code, so agents do without; install it and run `bin/invoke bridge.up`"


def up(say: Say) -> str:
    """Make sure that the server runs. Returns one line that says which it is."""
    with _operator() as operator:
        if operator.needs_bubblewrap():
            have_bubblewrap(say)
        server = operator.start()
    return f"bridge server {server.pid} serves {server.root} with {server.cli}; login {server.login}"


def down(say: Say) -> None:
    """Stop the server. Running calls get their grace."""
    with _operator() as operator:
        pid = operator.stop()
    say(f"no bridge server runs in {operator.root}" if pid is None else f"bridge server {pid} is stopped")


def status() -> dict[str, Any]:
    """Return the document of `claude-bridge-server status --json`."""
    with _operator() as operator:
        return operator.status_document()


def status_lines() -> list[str]:
    """Return running and waiting calls, as `claude-bridge-server status` shows them."""
    with _operator() as operator:
        return operator.status_lines()


def usage(since: str, names: Sequence[str], form: str, *, with_bars: bool) -> str:
    """Return what the grants used, as `claude-bridge-server usage` prints it."""
    with _operator() as operator:
        return operator.usage_report(since, names, form, with_bars=with_bars)


def doctor() -> int:
    """Check everything that a call needs, as `claude-bridge-server doctor` does. Returns its exit code."""
    with _operator() as operator:
        results = operator.doctor()
    print("\n".join(result.line for result in results))
    return 0 if all(result.good for result in results) else 1


def grant(
    name: str, workspace: Path, user: str | None = None, choice: Choice | None = None, *, of_agent: bool = False
) -> Path:
    """Let containers that mount the returned directory use the host's Claude Code on `workspace`.

    Claude runs as `user` (UID[:GID]). Without `user`, it runs as in the earlier grant, or as the workspace's owner. A
    workspace that was replaced is granted again. The shares of an earlier grant were chosen by the operator and stay.
    Without `choice` the protected paths stay as well. `of_agent`: see `Operator.grant`.
    """
    with _operator() as operator:
        return operator.grant(name, workspace, user=user, choice=choice, of_agent=of_agent)


def tidy(workspace: Path, others: Iterable[str]) -> None:
    """Remove the stand-ins of protected paths from a workspace, unless a grant uses it."""
    with _operator() as operator:
        operator.tidy(workspace, others)


def state_root() -> Path:
    """Return the directory with the bridge's state, which may not exist yet."""
    with _operator() as operator:
        return operator.root


def refuse_links_of_containers(path: Path) -> None:
    """Refuse a folder whose path goes through a link that an agent could have made."""
    with _operator() as operator:
        operator.refuse_links_of_containers(path)


def revoke(name: str) -> None:
    """End a grant at once, if there is one. Its conversations stay."""
    with _operator() as operator:
        operator.revoke(name)


def forget(name: str) -> None:
    """End a grant and remove its data, including its conversations."""
    with _operator() as operator:
        operator.forget(name)


def workspaces() -> dict[str, str]:
    """Return the workspace of each grant, by the grant's name."""
    with _operator() as operator:
        return operator.workspaces()


def names_with_conversations(workspace: Path) -> list[str]:
    """Return the names of the grants, also of ended ones, that keep conversations on a workspace."""
    with _operator() as operator:
        return operator.names_with_conversations(workspace)


def move_conversations(old: tuple[str, str], new: tuple[str, str]) -> None:
    """Give the conversations of a grant's name and workspace to another name and workspace, unless that has some."""
    with _operator() as operator:
        operator.move_conversations(old, new)


def own_directory(name: str) -> Path:
    """Return a directory for the pipeline's own records beside the grants. Only this user can enter it."""
    try:
        return Operator().own_directory(name)
    except OperatorError as error:
        raise Problem(
            f"nothing can be kept in the bridge's state directory ({error}), so no agent was started; mend that, or "
            "set CLAUDE_BRIDGE_STATE to another directory of yours"
        ) from error


def for_agent(
    name: str, workspace: Path, say: Say, user: str | None = None, choice: Choice | None = None
) -> Path | None:
    """Grant an agent its workspace and make sure that the server runs. Returns the directory to mount.

    `user` (UID[:GID]) is the user that Claude runs as, where the operator has just chosen one. `choice` says what
    of the workspace is protected, in the agent's container as well. Every problem is reported in one line, and None is
    returned where there is no grant: an agent also works without Claude Code.
    """
    directory = None
    try:
        directory = grant(name, workspace, user, choice, of_agent=choice is not None)
        say(up(say) if host_has_claude() else NO_CLAUDE)
    except Problem as problem:
        say(f"{problem}; going on without the host's Claude Code")
    return directory


def host_has_claude() -> bool:
    """Say whether the host has a Claude Code that the bridge could serve."""
    with _operator() as operator:
        return operator.find_cli() is not None


def have_bubblewrap(say: Say) -> None:
    """Make sure that calls can be confined. Installs bubblewrap when run as root on Debian or Ubuntu."""
    if shutil.which("bwrap") is None and os.geteuid() == 0 and shutil.which("apt-get"):
        say("bubblewrap missing: installing it from the distribution ...")
        engine_setup.apt("update")
        engine_setup.apt("install", "-y", "--no-install-recommends", "bubblewrap")
    with _operator() as operator:
        operator.check_bubblewrap()


@contextmanager
def _operator() -> Iterator[Operator]:
    """Yield the usual bridge of this host. Its errors become a `Problem`."""
    try:
        yield Operator()
    except OperatorError as error:
        raise Problem(f"bridge: {error}", error.code) from error

"""`invoke bridge`: the host's server, through which agents use the host's Claude Code."""

from __future__ import annotations

import sys
from json import dumps as to_json

from invoke import Context, Exit, task

from commands.output import exit_with, problems_as_exit
from pipeline import bridge
from pipeline.agents import names
from pipeline.agents import workspace as workspaces
from pipeline.reporting import say_on_stderr


@task(
    help={
        "workspace": "make a grant for this folder, too",
        "name": "the grant's name; when left out, that of the folder's agent, or a new one from the folder's name",
        "user": "whom Claude runs as, UID[:GID]; when left out, as before, or the folder's owner",
        "replace": "take the name from another folder",
    }
)
def up(
    _: Context, workspace: str | None = None, name: str | None = None, user: str | None = None, replace: bool = False
) -> None:
    """Serve this host's Claude Code to containers; print what to mount."""
    with problems_as_exit():
        print(bridge.up(say_on_stderr))
        if workspace:
            folder = workspaces.named(workspace)
            chosen = names.claim(folder, name, say_on_stderr, replace=replace).name
            mount = bridge.grant(chosen, folder, user)
            print(f"grant {chosen}: mount {mount} at /host, read-only; for compose.yaml, in .env:")
            print(f"AGENT_BRIDGE={mount}")


@task
def down(_: Context) -> None:
    """Stop the bridge's server; agents stay and go on without Claude."""
    with problems_as_exit():
        bridge.down(print)


@task(help={"json": "print one JSON document; exit code 1 when no server runs"})
def status(_: Context, json: bool = False) -> None:
    """Show what the bridge's server runs, and what waits."""
    with problems_as_exit():
        if not json:
            print("\n".join(bridge.status_lines()))
            return
        found = bridge.status()
    print(to_json(found))
    exit_with(0 if found["server"] else 1)


@task(
    positional=["name"],
    iterable=["name"],
    help={
        "name": "agents' names; when left out, all, also those that are gone",
        "since": "the first day, in UTC: 2026-11-28, today, yesterday, or 7d for seven days",
        "json": "print one JSON document",
        "prometheus": "print counters of all days, for a textfile collector",
    },
)
def usage(_: Context, name: list[str], since: str = "7d", json: bool = False, prometheus: bool = False) -> None:
    """Show what each agent used by day: tokens, cost, failed requests."""
    if json and prometheus:
        raise Exit("--json and --prometheus are two forms; choose one", 64)
    form = "json" if json else "prometheus" if prometheus else "text"
    with problems_as_exit():
        print(bridge.usage(since, name, form, with_bars=sys.stdout.isatty()))


@task
def doctor(_: Context) -> None:
    """Check everything that a call over the bridge needs."""
    exit_with(bridge.doctor())

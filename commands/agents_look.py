"""`invoke agents`: the tasks that look at agents and change nothing."""

from __future__ import annotations

import sys
import time
from functools import partial
from json import dumps as to_json
from typing import TYPE_CHECKING

import docker
from invoke import Context, task

from commands.output import UNLIMITED, exit_with, print_table, problems_as_exit, table, text
from pipeline.agents import names, overview, ps
from pipeline.agents import wait as waiting
from pipeline.agents.overview import Overview
from pipeline.bootstrap import engine
from pipeline.errors import Problem

if TYPE_CHECKING:
    from rich.table import Table

WATCH_S = 1.0
NO_AGENTS = "no agents; run `bin/invoke up`"
NAMES_HELP = "which agents, also as plain words; when left out, that of the present folder, or the only one"


@task(
    name="ps",
    help={
        "json": "print one JSON document (docs/fleet.md)",
        "watch": "show it anew every second until Ctrl-C",
    },
)
def list_all(_: Context, json: bool = False, watch: bool = False) -> None:
    """List the agents of this machine, and what each does."""
    with problems_as_exit(), engine.connected() as client:
        if watch:
            _watch(client, json=json)
            return
        found = overview.every(client)
    if json:
        print(to_json(overview.document(found)))
    elif found:
        print_table(_rows(found, _width() if sys.stdout.isatty() else None))
    else:
        print(NO_AGENTS)


def _width() -> int:
    """Return how many letters a line of the terminal has."""
    from rich.console import Console

    return Console().width


def _watch(client: docker.DockerClient, *, json: bool) -> None:
    if json:
        raise Problem("--watch is for people, and --json for programs; give one of them", 64)
    if not sys.stdout.isatty():
        raise Problem("--watch needs a terminal; leave it out, or use --json", 64)
    from rich.console import Console
    from rich.live import Live

    console = Console(emoji=False)
    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                found = overview.every(client)
                live.update(_rows(found, console.width) if found else NO_AGENTS, refresh=True)
                time.sleep(WATCH_S)
    except KeyboardInterrupt:
        pass  # ignored because it is how people end watching


LEAVE_OUT = ((), ("image",), ("image", "user"), ("image", "user", "address"))
"""What a table has not, the more the narrower the terminal. A pipe gets everything."""

FOLDED = ("state", "workspace", "mode")


def _rows(found: list[Overview], width: int | None) -> Table:
    """Return the agents as a table that fits into a terminal, if it can. Without `width` it is for a pipe."""
    from rich.console import Console

    cells = [_cells(each) for each in found]
    for left_out in LEAVE_OUT:
        rows = table()
        shown = [heading for heading in cells[0] if heading not in left_out]
        for heading in shown:
            rows.add_column(heading, no_wrap=heading not in FOLDED, overflow="fold")
        for each in cells:
            rows.add_row(*(each[heading] for heading in shown))
        if width is None or Console(width=UNLIMITED).measure(rows).maximum <= width:
            break
    return rows


def _cells(agent: Overview) -> dict[str, str]:
    """Return an agent's cells by their heading."""
    since = agent.state.since
    return {
        "agent": agent.name,
        "state": text(agent.state.words),
        "since": "" if since is None else _span(time.time() - since),
        "image": agent.image,
        "user": agent.user,
        "workspace": text(agent.workspace),
        "mode": text(agent.mode),
        "health": agent.health,
        "address": agent.address,
    }


def _span(seconds: float) -> str:
    """Return a time span in its largest unit, as people read it."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


@task(
    positional=["name"],
    iterable=["name"],
    help={
        "name": NAMES_HELP,
        "until": f"{', '.join(waiting.UNTIL)}: when all of them are that",
        "timeout": "how many seconds at most; as long as it takes when left out",
        "json": "print one JSON document at the end (docs/fleet.md)",
    },
)
def wait(_: Context, name: list[str], until: str = "idle", timeout: str = "", json: bool = False) -> None:
    """Wait for agents. Exit: 0 reached, 1 cannot be, 3 not started, 124 timeout."""
    with problems_as_exit():
        limit_s = waiting.check(until, timeout)
        with engine.connected() as client:
            wanted = list(dict.fromkeys(name)) or [names.meant(client, "")]
            ps.refuse_unknown(client, [one for one, found in overview.some(client, wanted).items() if found is None])
            look = partial(overview.some, client, wanted, ask=until == waiting.HEALTHY)
            outcome = waiting.wait(look, until, limit_s, names.is_busy)
        if json:
            print(to_json(outcome.as_json()))
            exit_with(outcome.code)
        elif outcome.code:
            raise Problem(outcome.sentence(), outcome.code)
        else:
            print(outcome.sentence())

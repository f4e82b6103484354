"""`invoke agents`: work in agents and with what they made. What starts and ends them is agents_run.py."""

from __future__ import annotations

import sys
from datetime import datetime
from json import dumps as to_json

from invoke import Context, task

from commands.output import exit_with, launcher, print_table, problems_as_exit, table, text
from pipeline.agents import arrived, exchange, logs, names, prompts, ps, terminal
from pipeline.agents import audit as audits
from pipeline.agents import clone as clones
from pipeline.agents.logs import plain
from pipeline.bootstrap import engine
from pipeline.errors import Problem

SHOWN = 200  # places of an audit; more would hide the first ones
NAME_HELP = {"name": "which agent; when left out, that of the present folder, or the only one, or `default`"}


@task(positional=["name"], help=NAME_HELP)
def attach(_: Context, name: str = "") -> None:
    """Attach to the agent's tmux session; leave it with Ctrl-b d."""
    with problems_as_exit():
        agent = _meant(name)
        if not sys.stdin.isatty():
            raise Problem("attaching needs a terminal; run it in one, or use agents.exec")
        terminal.attach(agent)


@task(
    name="logs",
    positional=["name"],
    help={**NAME_HELP, "follow": "go on as lines come", "tail": "how many of the last lines"},
)
def show_logs(_: Context, name: str = "", follow: bool = False, tail: str = "100") -> None:
    """Show what the agent's supervisor logged."""
    with problems_as_exit():
        code = logs.show(ps.container_name(_meant(name)), tail, follow=follow)
    exit_with(code)


@task(name="exec", positional=["command"], help={"command": "what to run, quoted as one word", **NAME_HELP})
def execute(_: Context, command: str, name: str = "") -> None:
    """Run a command in the agent's container."""
    with problems_as_exit():
        agent = _meant(name)
        on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
        code = terminal.run(agent, ["bash", "-c", command], on_terminal=on_terminal)
    exit_with(code)


@task(
    positional=["name", "text"],
    help={
        "name": "which agent",
        "text": "what it is to do, quoted as one word; - reads it from standard input",
        "timeout": "how many seconds its Claude may need to take it",
    },
)
def send(_: Context, name: str, text: str, timeout: int = int(prompts.TAKEN_S)) -> None:
    """Give a prompt to the agent's Claude, or a line to its pane."""
    with problems_as_exit(), engine.connected() as client:
        if timeout < 1:
            raise Problem(f"--timeout {timeout} is not a number of seconds from 1 on", 64)
        if text == "-":
            text = sys.stdin.buffer.read(prompts.LONGEST + 2).decode(errors="surrogateescape")
        print(prompts.send(client, name, text, timeout))


@task(positional=["name"], help={**NAME_HELP, "json": "print one JSON document"})
def audit(_: Context, name: str = "", json: bool = False) -> None:
    """List what in the workspace runs by itself and changed since `up`."""
    with problems_as_exit(), engine.connected() as client:
        name = names.meant(client, name)
        made = audits.of_agent(ps.require(client, name))
    if json:
        print(to_json(made.document(name)))
    else:
        _print_audit(made)
    exit_with(1 if made.found else 0)


def _print_audit(made: audits.Audit) -> None:
    where, when = audits.quoted(str(made.workspace)), _local(made.since)
    if made.found:
        print(f"{where}: these run on this machine by themselves, and changed since `up` at {when}")
        rows = table("path", "changed", "who runs it")
        for found in made.found[:SHOWN]:
            rows.add_row(text(audits.quoted(found.path)), _local(found.changed), text(found.who))
        print_table(rows)
        if len(made.found) > SHOWN:
            print(f"and {len(made.found) - SHOWN:,} more; --json shows all")
    else:
        print(f"{where}: nothing that runs by itself changed since `up` at {when}")
    if made.unread:
        print(f"not looked at: {'; '.join(made.unread)}")


def _local(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


@task(
    positional=["name"],
    help={**NAME_HELP, "megabytes": "how much may come at most", "minutes": "how long it may take at most"},
)
def fetch(
    _: Context,
    name: str = "",
    megabytes: int = exchange.MEGABYTES,
    minutes: int = exchange.MINUTES,
) -> None:
    """Bring commits from an agent's clone, as branches agents/NAME/..."""
    with problems_as_exit(), engine.connected() as client:
        agent = name if clones.find(name) else names.meant(client, name)
        came = exchange.fetch(client, agent, megabytes, minutes)
    for each in came:
        print(plain(each.line))
    print(f"look at it with `{launcher()} agents.diff {agent}`" if came else f"nothing new from agent {agent}")


@task(positional=["name"], help={**NAME_HELP, "patch": "show the differences, too"})
def diff(_: Context, name: str = "", patch: bool = False) -> None:
    """Show what agents.fetch brought; files that run by themselves come first."""
    with problems_as_exit():
        agent = name if clones.find(name) else _meant(name)
        for branch in arrived.branches(agent):
            for line in arrived.lines(branch):
                print(line)
            if patch:
                print(plain(arrived.patch(agent, branch)))


@task(
    positional=["name", "branch"],
    help={**NAME_HELP, "branch": "which branch of yours; the one that is checked out when left out"},
)
def push(_: Context, name: str = "", branch: str = "") -> None:
    """Hand a branch of yours to an agent's clone, as host/BRANCH there."""
    with problems_as_exit(), engine.connected() as client:
        agent = name if clones.find(name) else names.meant(client, name)
        given = plain(exchange.push(client, agent, branch))
    print(f"agent {agent} has your branch as host/{given}; in its container: `git merge host/{given}`")


def _meant(name: str) -> str:
    with engine.connected() as client:
        return names.meant(client, name)

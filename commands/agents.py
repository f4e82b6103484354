"""`invoke up` and `invoke agents`: start agents, work in them, stop them. What only looks: agents_look.py."""

from __future__ import annotations

import sys
from datetime import datetime
from json import dumps as to_json

from invoke import Context, task

from bridge.server.operator.workspaces import Choice
from commands.build import HELP as BUILD_HELP
from commands.build import variant_named, with_build_options
from commands.output import exit_with, launcher, print_facts, print_table, problems_as_exit, table, text
from pipeline import bridge
from pipeline.agents import arrived, compose, exchange, logs, names, protection, ps, terminal
from pipeline.agents import audit as audits
from pipeline.agents import clone as clones
from pipeline.agents import workspace as workspaces
from pipeline.agents.logs import plain
from pipeline.bootstrap import engine
from pipeline.build import image
from pipeline.errors import Problem
from pipeline.files import ROOT
from pipeline.reporting import say_on_stderr
from pipeline.up import from_bare_machine

UP_HELP = {
    "workspace": "folder that the agent works in; workspace/ beside compose.yaml when left out",
    "name": "the agent's name; when left out, the folder's agent, or a new one called as the folder",
    "replace": "end the agent of this name where it works on another folder",
    "variant": "prod or dev",
    "image": "run this image, made FROM magents/agent, as it is; nothing is built",
    "chown": "give a workspace that belongs to root to uid 1000",
    "as-root": "run the agent as root on a workspace that belongs to root",
    "protect": "a further path of the workspace that the agent only reads; may be given again",
    "unprotect": "a path of the workspace that the agent may change after all; may be given again",
    "clone": "work in a clone of the folder's repository; agents.fetch brings its commits",
    "clone-with": "copy this file, which is not in the repository, into a new clone; may be repeated",
    "ssh-agent": "let the agent use the keys of your ssh agent (SSH_AUTH_SOCK)",
    **BUILD_HELP,
}
SHOWN = 200  # places of an audit; more would hide the first ones
NAME_HELP = {"name": "which agent; when left out, that of the present folder, or the only one, or `default`"}


@task(help=UP_HELP, iterable=["protect", "unprotect", "clone_with"])
@with_build_options
def up(
    context: Context,
    options: image.Options,
    workspace: str | None = None,
    name: str | None = None,
    replace: bool = False,
    variant: str = "prod",
    chown: bool = False,
    as_root: bool = False,
    ssh_agent: bool = False,
    image: str | None = None,
    protect: list[str] | None = None,
    unprotect: list[str] | None = None,
    clone: bool = False,
    clone_with: list[str] | None = None,
) -> None:
    """Go from a bare machine to a healthy agent."""
    chosen = variant_named(variant)
    with problems_as_exit():
        if clone_with and not clone:
            raise Problem("--clone-with counts with --clone only; add it", 64)
        if clone and (protect or unprotect):
            raise Problem("--protect and --unprotect are for a folder of yours, not for a clone; leave them out", 64)
        engine.refuse_elsewhere()
        folder = workspaces.named(workspace) if workspace is not None else workspaces.default_workspace(ROOT)

        def choose(agent: str) -> Choice:
            return protection.chosen(dict(context.config), agent, protect or [], unprotect or [])

        running = from_bare_machine(
            folder,
            chosen,
            options,
            say_on_stderr,
            chown=chown,
            as_root=as_root,
            ssh_agent=ssh_agent,
            reference=image,
            name=name,
            replace=replace,
            choose=choose,
            clone=clone,
            clone_with=clone_with or (),
        )
    here = launcher()
    print_facts(
        ("agent", f"{running.name} ({running.image}) is {running.status}"),
        ("workspace", f"{running.workspace} as {running.owner}"),
        ("attach", f"{here} agents.attach {running.name}   (leave with Ctrl-b d)"),
        ("health", f"http://127.0.0.1:{running.port}/health"),
        *([("commits", f"{here} agents.fetch {running.name}   (from its clone to your repository)")] if clone else []),
        ("stop", f"{here} agents.down {running.name}"),
    )


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


@task(
    positional=["name"],
    help={
        **NAME_HELP,
        "all": "every agent of this machine",
        "remove-clone": "also remove the agent's clone, after a last agents.fetch",
        "discard": "with --remove-clone: also when that loses work of the agent's",
    },
)
def down(
    _: Context,
    name: str = "",
    all: bool = False,  # noqa: A002  # the flag is --all
    remove_clone: bool = False,
    discard: bool = False,
) -> None:
    """Stop an agent gracefully and remove its container; volumes stay."""
    with problems_as_exit(), engine.connected() as client:
        if discard and not remove_clone:
            raise Problem("--discard counts with --remove-clone only; add it", 64)
        if remove_clone and name and ps.find(client, name) is None and clones.is_here(name):
            ending, running = [name], []
        else:
            ending = running = ps.names(client) if all else [names.meant(client, name)]
        if remove_clone and not discard:
            for one in ending:
                exchange.save(client, one, print)
        used = [protection.used(ps.require(client, one)) for one in running]
        compose.down(client, running, print)
        for one in ending:
            bridge.revoke(one)
            clones.end(one, print, remove_it=remove_clone)
        for workspace, paths in used:
            protection.tidy(client, workspace, paths)


def _meant(name: str) -> str:
    with engine.connected() as client:
        return names.meant(client, name)

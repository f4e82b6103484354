"""`invoke up` and `invoke agents`: start agents, restart, update and end them."""

from __future__ import annotations

import sys

from invoke import Context, task

from commands.build import HELP as BUILD_HELP
from commands.build import with_build_options
from commands.fields import help_of, with_fields
from commands.output import launcher, print_facts, problems_as_exit, progress
from commands.wishes import OPTIONAL, REPEATED, Asked, refuse_unknown, wanted
from pipeline.agents import clone as clones
from pipeline.agents import compose, ending, names, ps, updating
from pipeline.agents.logs import plain
from pipeline.bootstrap import engine
from pipeline.build import image
from pipeline.errors import Problem
from pipeline.reporting import say_on_stderr
from pipeline.up import from_bare_machine, with_what_is_there

NAME_HELP = {"name": "the agent's name; when left out, the folder's agent, or a new one called as the folder"}
NAMES_HELP = {
    "name": "which agents; when left out, that of the present folder, or the only one, or `default`",
    "all": "every agent of this machine",
}


@task(help={**help_of(Asked), **NAME_HELP, **BUILD_HELP}, iterable=REPEATED, optional=OPTIONAL)
@with_build_options
@with_fields(Asked, "asked")
def up(context: Context, options: image.Options, asked: Asked, name: str | None = None) -> None:
    """Go from a bare machine to a healthy agent."""
    with problems_as_exit():
        engine.refuse_elsewhere()
        wishes = wanted(dict(context.config), asked, name or "", options.ca_bundle)
        with progress(len(wishes)) as (say, done):
            running = from_bare_machine(wishes, options, say, done)
    _print_running(running, has_clone=wishes[0].clone)


@task(
    name="up",
    positional=["name"],
    help={**help_of(Asked), **NAME_HELP},
    iterable=REPEATED,
    optional=OPTIONAL,
)
@with_fields(Asked, "asked")
def start(context: Context, asked: Asked, name: str = "") -> None:
    """Start agents on a running engine, of an image that is built."""
    with problems_as_exit():
        engine.refuse_elsewhere()
        refuse_unknown(asked, name)
        wishes = wanted(dict(context.config), asked, name)
        with progress(len(wishes)) as (say, done):
            running = with_what_is_there(wishes, say, done)
    _print_running(running, has_clone=wishes[0].clone)


def _print_running(found: list[compose.Running], *, has_clone: bool) -> None:
    here, (first, *others) = launcher(), found
    if others:
        print(f"{len(found)} agents are healthy; list them with `{here} agents.ps`")
        return
    print_facts(
        ("agent", f"{first.name} ({first.image}) is {first.status}"),
        ("workspace", f"{first.workspace} as {first.owner}"),
        ("attach", f"{here} agents.attach {first.name}   (leave with Ctrl-b d)"),
        ("health", f"http://127.0.0.1:{first.port}/health"),
        *(
            [("commits", f"{here} agents.fetch {first.name}   (from its clone to your repository)")]
            if has_clone
            else []
        ),
        ("stop", f"{here} agents.down {first.name}"),
    )


@task(positional=["name"], iterable=["name"], help=NAMES_HELP)
def restart(_: Context, name: list[str], all: bool = False) -> None:  # noqa: A002  # the flag is --all
    """Restart agents gracefully; what they run begins anew."""
    with problems_as_exit(), engine.connected() as client:
        chosen = names.several(client, name, every=all)
        with progress(len(chosen), print) as (say, done):
            updating.restart(client, chosen, say, done)


@task(
    positional=["name"],
    iterable=["name"],
    help={**NAMES_HELP, "image": "move to this image, made FROM magents/agent, and stay with it"},
)
def update(
    context: Context,
    name: list[str],
    all: bool = False,  # noqa: A002  # the flag is --all
    image: str | None = None,
) -> None:
    """Move agents to the newest built image, one by one, idle ones first."""
    with problems_as_exit(), engine.connected() as client:
        engine.refuse_elsewhere()
        chosen = names.several(client, name, every=all)
        with progress(len(chosen), print) as (say, done):
            updating.update(client, chosen, image, dict(context.config), say, done)


@task(
    positional=["name"],
    iterable=["name"],
    help={
        **NAMES_HELP,
        "remove-clone": "also remove the agent's clone, after a last agents.fetch",
        "discard": "with --remove-clone: also when that loses work of the agent's",
        "volumes": "also remove the agent's volume, its conversations and its record; asks first",
        "yes": "with --volumes: do not ask",
    },
)
def down(
    _: Context,
    name: list[str],
    all: bool = False,  # noqa: A002  # the flag is --all
    remove_clone: bool = False,
    discard: bool = False,
    volumes: bool = False,
    yes: bool = False,
) -> None:
    """Stop agents gracefully and remove their containers; volumes stay."""
    with problems_as_exit(), engine.connected() as client:
        if discard and not remove_clone:
            raise Problem("--discard counts with --remove-clone only; add it", 64)
        if yes and not volumes:
            raise Problem("--yes counts with --volumes only; leave it out", 64)
        if all and name:
            raise Problem("--all means every agent; name some, or leave the names out", 64)
        if all:
            chosen = ending.every(client)
        elif name:
            chosen = list(dict.fromkeys(name))
            there = [one for one in chosen if ending.known(client, one) or (remove_clone and clones.is_here(one))]
            ps.refuse_unknown(client, [one for one in chosen if one not in there], "stopped" if there else "")
        else:
            chosen = [names.meant(client, "")]
        if volumes and not yes and chosen:
            _ask(ending.what_goes(client, chosen))
        with progress(len(chosen), print) as (say, done):
            ending.down(client, chosen, say, done, ending.Ending(remove_clone, discard, volumes))
    if not chosen:
        print("no agents")


def _ask(lines: list[str]) -> None:
    """Let a person confirm what is removed for good."""
    for line in lines:
        say_on_stderr(f"removes for good: {plain(line)}")
    if not sys.stdin.isatty():
        raise Problem("nothing was removed, as nobody is at a terminal to be asked; add --yes", 64)
    say_on_stderr("type yes to go on:")
    if sys.stdin.readline().strip() != "yes":
        raise Problem("nothing was removed")

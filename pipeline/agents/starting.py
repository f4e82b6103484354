"""Start agents: from what a person asked for, to containers that are healthy."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import docker

from bridge.server.operator.workspaces import NOTHING, USUAL, Choice
from pipeline import bridge
from pipeline.agents import clone as clones
from pipeline.agents import compose, many, names, protection
from pipeline.agents import host as hosts
from pipeline.agents.records import Agent
from pipeline.agents.repository import Repository
from pipeline.agents.settings import NOTHING_NEW, Lasting, Settings
from pipeline.agents.workspace import Owner, owner_of
from pipeline.bootstrap import engine
from pipeline.build import derived, image
from pipeline.errors import Problem
from pipeline.reporting import Say

Images = Callable[[docker.DockerClient, image.Variant], None]
"""Makes sure that a variant's image is there."""


@dataclass(frozen=True)
class Wanted:
    """One agent, as a person asked for it."""

    workspace: Path
    name: str | None = None
    """The agent's name, where a person chose one."""
    variant: image.Variant = image.VARIANTS["prod"]
    reference: str | None = None
    """An image made FROM one of ours, which is run in place of the variant's own."""
    replace: bool = False
    """Take the name from another folder."""
    chown: bool = False
    """Give a workspace that belongs to root away (`workspace.owner_of`)."""
    as_root: bool = False
    ssh_agent: bool = False
    """Hand over this person's ssh agent."""
    certificates: str | None = None
    choose: Callable[[str], Choice] = lambda _: USUAL
    """Returns which paths of the workspace are protected for an agent of a name."""
    clone: bool = False
    """Work in a clone of the workspace's repository."""
    clone_with: Sequence[str] = ()
    """Files that the clone gets as well."""
    protect: tuple[str, ...] = ()
    unprotect: tuple[str, ...] = ()
    """The words of the command for `choose`, which are kept with the agent."""
    lasting: Lasting = NOTHING_NEW
    is_kept: bool = True
    """Whether the agent's record says this from now on."""

    def settings(self, before: Settings) -> Settings:
        """Return what is kept with the agent."""
        return dataclasses.replace(
            self.lasting.over(before),
            variant=self.variant.name,
            image=self.reference or "",
            as_root=self.as_root,
            clone=self.clone,
            ssh_agent=self.ssh_agent,
            certificates=self.certificates or "",
            protect=self.protect,
            unprotect=self.unprotect,
        )


@dataclass(frozen=True)
class Checked:
    """What was asked for, with what this host has for it."""

    wanted: Wanted
    owner: Owner
    host: hosts.Host

    @classmethod
    def of(cls, wanted: Wanted, kind: engine.Kind, say: Say) -> Checked:
        """Check a wish as far as that is possible without an engine. Raises a `Problem`."""
        if wanted.clone:
            Repository.at(wanted.workspace)  # a folder that cannot be cloned is told before anything is made
        owner = owner_for(wanted, kind)
        host = hosts.given(wanted.workspace, owner, say, certificates=wanted.certificates, ssh_agent=wanted.ssh_agent)
        return cls(wanted, owner, host)


@dataclass(frozen=True)
class Claimed:
    """One agent that is ready to start: its name is kept, its image is there."""

    wanted: Wanted
    owner: Owner
    host: hosts.Host
    agent: Agent
    variant: image.Variant
    choice: Choice


def owner_for(wanted: Wanted, kind: engine.Kind) -> Owner:
    """Return the user that an agent runs as."""
    if wanted.clone and not kind.is_podman:
        return clones.owner_for(wanted.workspace, kind, as_root=wanted.as_root)
    return owner_of(wanted.workspace, kind, chown=wanted.chown, as_root=wanted.as_root)


def claim(client: docker.DockerClient, checked: Sequence[Checked], images: Images, say: Say) -> list[Claimed]:
    """Give each agent its name, choose what is protected, and make sure that the images are there."""
    first = checked[0].wanted
    variant = first.variant
    if first.reference is not None:  # before the records: what cannot be run is not kept for the next time
        variant = derived.require(client, first.reference, variant)
    wishes = [(each.wanted.workspace, each.wanted.name) for each in checked]
    choose = first.settings if first.is_kept else None
    agents = names.claim_each(wishes, say, client=client, replace=first.replace, choose=choose)
    choices = [
        NOTHING if each.wanted.clone else protection.check(each.wanted.workspace, each.wanted.choose(agent.name))
        for each, agent in zip(checked, agents, strict=True)
    ]
    if first.reference is None:
        images(client, variant)
    return [
        Claimed(each.wanted, each.owner, each.host, agent, variant, choice)
        for each, agent, choice in zip(checked, agents, choices, strict=True)
    ]


def start(claimed: Sequence[Claimed], kind: engine.Kind, say: Say, done: Say) -> list[compose.Running]:
    """Start agents, several at a time. `done` is told one line for each of many."""
    can_mount = kind.person in (None, os.geteuid())
    if not can_mount:
        say(
            f"this engine is that of uid {kind.person} and cannot mount another user's grant, so the agent does "
            "without the host's Claude Code; run the same command as that user to have it"
        )
    by_name = {each.agent.name: each for each in claimed}
    told = many.Told(say) if len(by_name) > 1 else None

    def work(name: str) -> compose.Running:
        one = by_name[name]
        tell = told.of(name, str(one.wanted.workspace)) if told else say
        with engine.connected() as client:
            return start_one(client, one, tell, can_mount=can_mount)

    def report(name: str, found: compose.Running | Problem) -> None:
        if told and isinstance(found, Problem):
            done(f"agent {name} failed: {found}")
        elif told and not isinstance(found, Problem):
            done(f"agent {name} is {found.status} at http://127.0.0.1:{found.port}/health")

    results = many.at_once(list(by_name), work, many.START_AT_ONCE, report)
    if told:
        told.finish()
    return many.raise_failures(results, "started")


_granting = threading.Lock()
"""One thread at a time changes grants: each is followed by a reload of the bridge's server."""


def start_one(client: docker.DockerClient, one: Claimed, say: Say, *, can_mount: bool) -> compose.Running:
    """Start one agent. What a killed call left of it is used or removed."""
    wanted, name = one.wanted, one.agent.name
    with names.busy_with(name, say) as lock:
        made = None
        # before the grant: a grant without container and volume is another engine's agent (`ending.unfinished`)
        compose.make_volumes(client, name, one.agent.volume, wanted.workspace)
        if wanted.clone:
            image_name = one.variant.reference
            made = clones.make(client, image_name, name, wanted.workspace, one.owner, wanted.clone_with, say)
        else:
            clones.tell_unused(name, say)
            protection.prepare(wanted.workspace, one.choice, say)  # before the grant makes the same, and says nothing
        place = made.workspace if made else wanted.workspace
        user = str(place.stat().st_uid) if wanted.chown or wanted.as_root else None
        mount = None
        if can_mount:
            with _granting:
                mount = bridge.for_agent(name, place, say, user, one.choice)
        return compose.up(
            client,
            one.variant,
            name,
            wanted.workspace,
            one.owner,
            say,
            mount,
            one.host,
            one.agent.volume,
            one.choice,
            made,
            one.agent.settings,
            wanted.lasting.env or (),
            lock,
        )

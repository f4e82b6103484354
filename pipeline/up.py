"""Everything from a bare machine to a healthy agent, with all parts of the pipeline."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from bridge.server.operator.workspaces import NOTHING, USUAL, Choice
from pipeline import bridge
from pipeline.agents import clone as clones
from pipeline.agents import compose, names, protection
from pipeline.agents import host as hosts
from pipeline.agents.repository import Repository
from pipeline.agents.workspace import Owner, owner_of
from pipeline.bootstrap import engine, engine_setup
from pipeline.build import derived, image
from pipeline.reporting import Say


def from_bare_machine(
    workspace: Path,
    variant: image.Variant,
    options: image.Options,
    say: Say,
    *,
    chown: bool,
    as_root: bool,
    ssh_agent: bool = False,
    reference: str | None = None,
    name: str | None = None,
    replace: bool = False,
    choose: Callable[[str], Choice] = lambda _: USUAL,
    clone: bool = False,
    clone_with: Sequence[str] = (),
) -> compose.Running:
    """Provide an engine, the image, the bridge and one agent on `workspace`.

    `chown` and `as_root` decide what happens to a workspace that belongs to root (`workspace.owner_of`). `ssh_agent`
    hands over this person's ssh agent. `reference` names an image made FROM one of ours, which is run in place of the
    variant's own. `name` is the agent's, where a person chose one; `replace` takes it from another folder. `choose`
    returns which paths of the workspace are protected for an agent of a name. With `clone`, the agent works in a clone
    of the workspace's repository, which also gets the files that `clone_with` names.
    """
    kind = engine.kind()
    if clone:
        Repository.at(workspace)  # a folder that cannot be cloned is told before anything is made
    owner = _owner(workspace, kind, chown=chown, as_root=as_root, clone=clone)
    host = hosts.given(workspace, owner, say, certificates=options.ca_bundle, ssh_agent=ssh_agent)
    say(engine_setup.up(say))
    if engine.kind() != kind:  # it has started only now
        kind = engine.kind()
        owner = _owner(workspace, kind, chown=chown, as_root=as_root, clone=clone)
    with engine.connected() as client:
        agent = names.claim(workspace, name, say, client=client, replace=replace)
        choice = NOTHING if clone else protection.check(workspace, choose(agent.name))
        if reference is not None:
            variant = derived.require(client, reference, variant)
        else:
            image.build(client, variant, options, say)
        can_mount = kind.person in (None, os.geteuid())
        if not can_mount:
            say(
                f"this engine is that of uid {kind.person} and cannot mount another user's grant, so the agent does "
                "without the host's Claude Code; run the same command as that user to have it"
            )
        with names.starting(agent.name, say):
            made = None
            if clone:
                made = clones.make(client, variant.reference, agent.name, workspace, owner, clone_with, say)
            else:
                clones.tell_unused(agent.name, say)
                protection.prepare(workspace, choice, say)  # before the grant makes the same, and says nothing
            place = made.workspace if made else workspace
            user = str(place.stat().st_uid) if chown or as_root else None
            mount = bridge.for_agent(agent.name, place, say, user, choice) if can_mount else None
            return compose.up(
                client, variant, agent.name, workspace, owner, say, mount, host, agent.volume, choice, made
            )


def _owner(workspace: Path, kind: engine.Kind, *, chown: bool, as_root: bool, clone: bool) -> Owner:
    if clone and not kind.is_podman:
        return clones.owner_for(workspace, kind, as_root=as_root)
    return owner_of(workspace, kind, chown=chown, as_root=as_root)

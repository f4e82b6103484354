"""Everything from a bare machine to a healthy agent, with all parts of the pipeline."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from bridge.server.operator.workspaces import USUAL, Choice
from pipeline import bridge
from pipeline.agents import compose, names, protection
from pipeline.agents import host as hosts
from pipeline.agents.workspace import owner_of
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
) -> compose.Running:
    """Provide an engine, the image, the bridge and one agent on `workspace`.

    `chown` and `as_root` decide what happens to a workspace that belongs to root (`workspace.owner_of`). `ssh_agent`
    hands over this person's ssh agent. `reference` names an image made FROM one of ours, which is run in place of the
    variant's own. `name` is the agent's, where a person chose one; `replace` takes it from another folder. `choose`
    returns which paths of the workspace are protected for an agent of a name.
    """
    kind = engine.kind()
    owner = owner_of(workspace, kind, chown=chown, as_root=as_root)
    host = hosts.given(workspace, owner, say, certificates=options.ca_bundle, ssh_agent=ssh_agent)
    say(engine_setup.up(say))
    if engine.kind() != kind:  # it has started only now
        kind = engine.kind()
        owner = owner_of(workspace, kind, chown=chown, as_root=as_root)
    with engine.connected() as client:
        agent = names.claim(workspace, name, say, client=client, replace=replace)
        choice = protection.check(workspace, choose(agent.name))
        if reference is not None:
            variant = derived.require(client, reference, variant)
        else:
            image.build(client, variant, options, say)
        user = str(workspace.stat().st_uid) if chown or as_root else None
        can_mount = kind.person in (None, os.geteuid())
        if not can_mount:
            say(
                f"this engine is that of uid {kind.person} and cannot mount another user's grant, so the agent does "
                "without the host's Claude Code; run the same command as that user to have it"
            )
        with names.starting(agent.name, say):
            mount = bridge.for_agent(agent.name, workspace, say, user, choice) if can_mount else None
            return compose.up(client, variant, agent.name, workspace, owner, say, mount, host, agent.volume, choice)

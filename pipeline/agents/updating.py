"""Restart agents, and move them to a newer image: one at a time, and back to the old one where that is not healthy."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import docker
import docker.errors
from docker.models.containers import Container

from pipeline.agents import compose, many, names, overview, protection, ps, records, starting, states
from pipeline.agents.logs import plain
from pipeline.agents.records import Agent
from pipeline.agents.settings import Settings
from pipeline.agents.starting import Checked, Wanted
from pipeline.bootstrap import engine
from pipeline.build import derived, image
from pipeline.errors import Problem
from pipeline.reporting import Say
from pipeline.waiting import wait_until


def wanted_again(record: Agent, config: Mapping[str, Any]) -> Wanted:
    """Return what a person wanted of an agent when it was started last. `config` is that of invoke.yaml."""
    kept = record.settings or Settings()
    return Wanted(
        Path(record.folder),
        record.name,
        image.VARIANTS[kept.variant],
        kept.image or None,
        as_root=kept.as_root,
        ssh_agent=kept.ssh_agent,
        certificates=kept.certificates or None,
        choose=lambda name: protection.chosen(config, name, kept.protect, kept.unprotect),
        clone=kept.clone,
        protect=kept.protect,
        unprotect=kept.unprotect,
    )


# Restart


def restart(client: docker.DockerClient, restarting: Sequence[str], say: Say, done: Say) -> None:
    """Restart agents gracefully, several at a time, and wait until they are healthy. Their settings stay."""
    for name in restarting:
        ps.require(client, name)

    def work(name: str) -> str:
        with engine.connected() as own, names.busy_with(name, say):
            container = ps.require(own, name)
            container.restart(timeout=compose.STOP_S)
            _wait_until_healthy(container, name)
        return f"agent {name} is restarted and healthy"

    def report(name: str, found: str | Problem) -> None:
        if not isinstance(found, Problem):
            done(found)
        elif len(restarting) > 1:
            done(f"agent {name} failed: {found}")

    many.raise_failures(many.at_once(restarting, work, many.START_AT_ONCE, report), "restarted")


def _wait_until_healthy(container: Container, name: str) -> None:
    def is_decided() -> bool:
        container.reload()
        return compose.health(container) in ("healthy", "unhealthy") or container.status != "running"

    late = f"agent {name} was not healthy within {compose.HEALTHY_S} s; see `bin/invoke agents.logs {name}`"
    wait_until(is_decided, compose.HEALTHY_S, late)
    if compose.health(container) != "healthy" or container.status != "running":
        last = plain(container.logs(tail=5).decode(errors="replace").strip())
        raise Problem(f"agent {name} did not become healthy; its last words:\n{last}")


# Update


def update(
    client: docker.DockerClient,
    updating: Sequence[str],
    reference: str | None,
    config: Mapping[str, Any],
    say: Say,
    done: Say,
) -> None:
    """Move agents to the newest image of their variant, or to `reference`; those without a running call come first.

    One that does not become healthy goes back to the image that it had, and the others are left alone. One that a
    person stopped stays so, and has the newer image from its next start on.
    """
    found = overview.some(client, updating)
    for name in sorted(updating, key=lambda each: (rank(found[each]), each)):
        container = ps.find(client, name)
        if container is None:
            say(f"agent {name} is gone, so it is not updated")
            continue
        done(_update_one(client, container, reference, config, say))


RANKS = (
    (states.IDLE, states.ASLEEP, states.FINISHED, states.STOPPED, states.FAILED, states.UNHEALTHY),
    (states.WAITING_FOR_PERSON,),
)
"""States of agents in the order of updates. All others come last."""


STOPPED = ("created", "exited", "dead")
"""What the engine calls a container that it does not start by itself."""


def rank(found: overview.Overview | None) -> int:
    """Return when an agent's turn to be updated comes: 0 for one that does nothing."""
    state = found.state.name if found else states.STOPPED
    return next((rank for rank, these in enumerate(RANKS) if state in these), len(RANKS))


def _update_one(
    client: docker.DockerClient, container: Container, reference: str | None, config: Mapping[str, Any], say: Say
) -> str:
    name = str(container.labels[ps.LABEL])
    record = records.named(name)
    if record is None or record.settings is None:
        raise Problem(
            f"nothing is recorded of how agent {name} was started, so it and the agents after it were not updated; "
            f"run `{ps.up_again(container)}` once"
        )
    again = dataclasses.replace(wanted_again(record, config), is_kept=False)
    if reference:
        again = dataclasses.replace(again, reference=reference)
    old, new = str(container.attrs["Image"]), _image_of(client, again)
    if container.status in STOPPED:
        if reference:
            _keep(record, reference)
        return f"agent {name} is stopped and stays so; `bin/invoke agents.up {name}` starts it with {_named(again)}"
    if old == new and compose.health(container) == "healthy":
        return f"agent {name} has the newest image already"
    if not _is_here(client, old):
        raise Problem(
            f"the image that agent {name} has is not on this machine any more, so there would be no way back and it "
            f"was not updated; run `{ps.up_again(container)}` to replace it all the same"
        )
    if rank(overview.some(client, [name])[name]) == len(RANKS):
        say(f"agent {name} is at work; what it does now is ended, and its conversation stays")
    try:
        _start(client, again, say)
    except Problem as problem:
        _start(client, dataclasses.replace(again, reference=old), lambda _: None)
        raise Problem(
            f"agent {name} did not come up with {_named(again)} and is back on the image that it had; the agents after "
            f"it were not updated: {problem}"
        ) from None
    if reference:
        _keep(record, reference)
    return f"agent {name} is healthy with {_named(again)} ({new.removeprefix('sha256:')[:12]})"


def _keep(record: Agent, reference: str) -> None:
    records.write(
        dataclasses.replace(record, settings=dataclasses.replace(record.settings or Settings(), image=reference))
    )


def _start(client: docker.DockerClient, wanted: Wanted, say: Say) -> None:
    kind = engine.kind_of(client, engine.chosen().where)
    (claimed,) = starting.claim(client, [Checked.of(wanted, kind, say)], image.require, say)
    starting.start([claimed], kind, say, say)


def _image_of(client: docker.DockerClient, wanted: Wanted) -> str:
    if wanted.reference:
        return str(client.images.get(derived.require(client, wanted.reference, wanted.variant).reference).id)
    image.require(client, wanted.variant)
    return str(client.images.get(wanted.variant.reference).id)


def _named(wanted: Wanted) -> str:
    return wanted.reference or wanted.variant.reference


def _is_here(client: docker.DockerClient, identity: str) -> bool:
    try:
        client.images.get(identity)
    except docker.errors.ImageNotFound:
        return False
    return True

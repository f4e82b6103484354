"""The names of agents. A name has one folder, and comes from it unless a person chooses another.

A record for each pair of name and folder is kept beside the bridge's grants. By it, `up` on the folder finds the name,
the volume and the conversations again, also when the container is gone or the folder was moved. Agents of earlier
versions have no record: their container, grant or conversations tell the folder.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import docker

from pipeline import bridge
from pipeline.agents import ps, records
from pipeline.agents.records import Agent
from pipeline.agents.settings import Settings
from pipeline.agents.workspace import DEFAULT_FOLDER
from pipeline.errors import Problem
from pipeline.files import ROOT, present_folder
from pipeline.reporting import Say

DEFAULT_NAME = "default"
"""The name for workspace/ beside compose.yaml. Earlier versions gave it to every agent."""

NOTHING_LEFT = "agent"
"""The name for a folder whose own has no letter or digit that a name may hold."""

RESERVED = ("all", DEFAULT_NAME)
"""Names that no folder's name becomes."""

VALID = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""What is at once the name of a host, a container, a Compose project and a grant."""

LONGEST = 24
"""Letters of a name that comes from a folder. The path of the grant's socket holds it, and may have 107 bytes."""


def of_folder(folder: Path) -> str:
    """Return the name that a folder's own name becomes."""
    if folder == ROOT / DEFAULT_FOLDER:
        return DEFAULT_NAME
    letters = unicodedata.normalize("NFKD", folder.name.casefold()).encode("ascii", "ignore").decode()
    name = re.sub(r"[^a-z0-9]+", "-", letters).strip("-")[:LONGEST].rstrip("-")
    return f"{NOTHING_LEFT}-{name}" if name in RESERVED else name or NOTHING_LEFT


def check(name: str) -> None:
    """Refuse a name that cannot be an agent's."""
    if not VALID.fullmatch(name) or name == "all":
        raise Problem(
            f"an agent cannot be called {name!r}, so nothing was started; small letters, digits and hyphens make a "
            f"name of at most 63, for example `--name {of_folder(Path('/', name.replace('/', '-')))}`",
            64,
        )


# Which agent a folder has


def claim(
    folder: Path,
    wanted: str | None,
    say: Say,
    *,
    client: docker.DockerClient | None = None,
    replace: bool = False,
    choose: Callable[[Settings], Settings] | None = None,
) -> Agent:
    """Return the agent of a folder, and keep its name for it. A folder without one gets a new agent.

    `wanted` is the name that a person chose. Where it belongs to another folder, `replace` takes it from there. Without
    an engine (`client`), a new agent has no volume yet. `choose` returns what the agent's settings become.
    """
    return claim_each([(folder, wanted)], say, client=client, replace=replace, choose=choose)[0]


def claim_each(
    wishes: Sequence[tuple[Path, str | None]],
    say: Say,
    *,
    client: docker.DockerClient | None = None,
    replace: bool = False,
    choose: Callable[[Settings], Settings] | None = None,
) -> list[Agent]:
    """Do what `claim` does for several pairs of folder and name. The engine is asked once."""
    for _, wanted in wishes:
        if wanted is not None:
            check(wanted)
    claimed: list[Agent] = []
    with records.turn("lock", say):
        volumes = _volumes(client) if client else {}
        folders = [folder for folder, _ in wishes]
        known = _known(client, folders, volumes) if client else _with_grants(records.every())
        for folder, wanted in wishes:
            before = _of(known, folder)
            name = wanted or _name_for(folder, before, known, client)
            holder = _holder(known, name)
            if holder and holder not in before:
                if not replace:
                    raise Problem(_belongs_elsewhere(name, holder, folder))
                records.write(dataclasses.replace(holder, has_name=False))
            old = _what_becomes(name, before)
            agent = dataclasses.replace(old or Agent(name, str(folder)), name=name, has_name=True).with_folder(folder)
            if client and not agent.volume:
                agent = dataclasses.replace(agent, volume=_new_volume(name, folder, known, volumes))
            if choose:
                agent = dataclasses.replace(agent, settings=choose(agent.settings or Settings()))
            _keep(agent, before, say)
            others = [each for each in known if (each.name, each.folder) != (agent.name, agent.folder)]
            known = [dataclasses.replace(each, has_name=each.has_name and each.name != name) for each in others]
            known.append(agent)
            claimed.append(agent)
    return claimed


@contextmanager
def busy_with(name: str, say: Say) -> Iterator[int]:
    """Let one command after another start or end the agent `name`. Yields the descriptor of the lock (`turn`)."""
    with records.turn(_lock_of(name), say) as lock:
        yield lock


def is_busy(name: str) -> bool:
    """Say whether a command of this user is at work on the agent `name`."""
    return records.is_taken(_lock_of(name))


def forget_lock(name: str) -> None:
    """Remove the file of the lock of an agent that is gone. Its lock must be held."""
    records.remove_lock(_lock_of(name))


def _lock_of(name: str) -> str:
    return f"{name}.lock"


def _of(known: list[Agent], folder: Path) -> list[Agent]:
    """Return what a folder has: by its identity, or else by its path."""
    mark = records.identity(folder)
    same = [agent for agent in known if mark and agent.identity == mark]
    return same or [agent for agent in known if agent.folder == str(folder)]


def _name_for(folder: Path, before: list[Agent], known: list[Agent], client: docker.DockerClient | None) -> str:
    named = sorted({agent.name for agent in before if agent.has_name})
    if len(named) > 1:
        raise Problem(f"{folder} has the agents {', '.join(named)}, so nothing was started; add `--name {named[0]}`")
    if named:
        return named[0]
    first = of_folder(folder)
    every = itertools.chain([first], (f"{first}-{number}" for number in itertools.count(2)))
    return next(name for name in every if not (_holder(known, name) or (client and ps.is_taken(client, name))))


def _holder(known: list[Agent], name: str) -> Agent | None:
    return next((agent for agent in known if agent.name == name and agent.has_name), None)


def _belongs_elsewhere(name: str, holder: Agent, folder: Path) -> str:
    return (
        f"agent {name} belongs to {holder.folder}, so {folder} does not get that name; choose another --name, or add "
        f"--replace to end {name} there"
    )


def _what_becomes(name: str, before: list[Agent]) -> Agent | None:
    """Return what of a folder's is the agent `name` from now on: the same, or one whose name was taken away."""
    same = next((agent for agent in before if agent.name == name), None)
    return same or next((agent for agent in before if not agent.has_name), None)


def _new_volume(name: str, folder: Path, known: list[Agent], volumes: dict[str, str | None]) -> str:
    """Return the name of a volume that no other folder has. One of an earlier version does not say whose it is."""
    usual = ps.volume_name(name)
    owner = volumes.get(usual, str(folder))
    is_free = owner == str(folder) or (owner is None and name == DEFAULT_NAME)
    if is_free and usual not in {agent.volume for agent in known}:
        return usual
    return f"{usual}-{records.key(str(folder))[:8]}"


def _keep(agent: Agent, before: list[Agent], say: Say) -> None:
    """Record the agent, and let the conversations follow. A call that ends in the middle is finished by the next."""
    records.write(agent)
    others = {each.name for each in before if each.has_name and each.name != agent.name}
    for old in before:
        if old.name not in others and (old.name, old.folder) != (agent.name, agent.folder):
            if old.folder != agent.folder:
                say(f"agent {agent.name} goes on in {agent.folder}, as its folder was moved from {old.folder}")
            bridge.move_conversations((old.name, old.folder), (agent.name, agent.folder))
            if old.volume in ("", agent.volume):
                records.remove(old)
    for name in bridge.names_with_conversations(Path(agent.folder)):
        if name not in others:  # an earlier version kept those of all folders under one name
            bridge.move_conversations((name, agent.folder), (agent.name, agent.folder))


# What is known of all agents


def _known(client: docker.DockerClient, folders: Sequence[Path], volumes: dict[str, str | None]) -> list[Agent]:
    containers = {str(each.labels[ps.LABEL]): each for each in ps.every(client)}
    known = []
    for agent in records.every():
        if Path(agent.folder).is_dir() or agent.name in containers or agent.volume in volumes:
            known.append(agent)
        else:
            records.remove(agent)  # nothing is left of it
    for name, container in containers.items():
        place = ps.workspace_of(container)
        holder = _holder(known, name)
        if holder is None or place not in (holder.folder, *holder.earlier):  # of an earlier version, or another user's
            known = [dataclasses.replace(each, has_name=each.has_name and each.name != name) for each in known]
            known = [each for each in known if (each.name, each.folder) != (name, place)]
            known.append(Agent(name, place, ps.volume_of(container)))
    known = _with_grants(known)
    for folder in folders:
        for name in bridge.names_with_conversations(folder):  # of an earlier version, whose `down` ended the grant
            is_unknown = volumes.get(ps.volume_name(name), "") is None and ps.volume_name(name) not in {
                agent.volume for agent in known
            }
            if is_unknown and not _holder(known, name):
                known.append(Agent(name, str(folder), ps.volume_name(name)))
    return known


def _with_grants(known: list[Agent]) -> list[Agent]:
    granted = [Agent(name, place) for name, place in bridge.workspaces().items()]
    return [*known, *(agent for agent in granted if not _holder(known, agent.name))]


def _volumes(client: docker.DockerClient) -> dict[str, str | None]:
    """Return the folder of each agent's volume. Those of earlier versions have none."""
    found = client.volumes.list(filters={"name": ps.container_name("")})
    return {str(each.name): (each.attrs["Labels"] or {}).get(ps.WORKSPACE_LABEL) for each in found}


# Which agent a command means


def meant(client: docker.DockerClient, name: str) -> str:
    """Return the agent that a person means by a name, or by none.

    Without a name it is the agent of the present folder, else the only one, else `default`.
    """
    if name:
        ps.require(client, name)
        return name
    places = {str(each.labels[ps.LABEL]): ps.workspace_of(each) for each in ps.every(client)}
    here = _nearest(places)
    candidates = here or sorted(places)
    if len(candidates) == 1:
        return candidates[0]
    if not here and DEFAULT_NAME in candidates:
        return DEFAULT_NAME
    if not candidates:
        raise Problem("there is no agent; run `bin/invoke up`")
    what = "several agents work in this folder" if here else "no agent works in this folder, and there are several"
    raise Problem(f"{what}: {', '.join(candidates)}; name one, for example `--name {candidates[0]}`")


def several(client: docker.DockerClient, chosen: Sequence[str], *, every: bool) -> list[str]:
    """Return the agents that a person means by some names, by none (`meant`), or by `every`. Each is there."""
    if every and chosen:
        raise Problem("--all means every agent; name some, or leave the names out", 64)
    if every:
        return ps.names(client)
    unknown = [name for name in dict.fromkeys(chosen) if ps.find(client, name) is None]
    ps.refuse_unknown(client, unknown, "done" if len(set(chosen)) > len(unknown) else "")
    return list(dict.fromkeys(chosen)) or [meant(client, "")]


def _nearest(places: dict[str, str]) -> list[str]:
    """Return the agents of the present folder, or of the nearest one above that has any."""
    here = present_folder()
    for folder in (here, *here.parents) if here else ():
        if found := sorted(name for name, place in places.items() if place == str(folder)):
            return found
    return []

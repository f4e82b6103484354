"""End agents: stop their containers, and remove what was made for them. A call that was killed is finished by the next.

An agent may be half there: its container is gone and its grant or its stand-ins are not, or only the container that
prepares its volumes was made. Each step looks for what is left, so that it does not matter where a call ended.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import docker
import docker.errors

from pipeline import bridge
from pipeline.agents import clone as clones
from pipeline.agents import compose, exchange, many, names, protection, ps, records
from pipeline.agents.records import Agent
from pipeline.bootstrap import engine
from pipeline.errors import Problem
from pipeline.reporting import Say


@dataclass(frozen=True)
class Ending:
    """What is to go besides the container and the grant."""

    clone: bool = False
    discard: bool = False
    """Remove the clone also when that loses work of the agent's."""
    volumes: bool = False
    """Remove the volume at /agent, the conversations and the record, too."""


def every(client: docker.DockerClient) -> list[str]:
    """Return the names of all agents of this engine, also of those that are half there."""
    return sorted({*compose.remains(client), *_unfinished(client), *clones.unfinished()})


def _unfinished(client: docker.DockerClient) -> list[str]:
    """Return the names of the agents whose container is gone and whose grant or stand-ins are left.

    The volume of an agent is made before the grant, and tells that it is one of this engine.
    """
    granted = bridge.workspaces()
    volumes = {str(each.name) for each in client.volumes.list(filters={"name": ps.container_name("")})}
    here = [each for each in records.every() if each.has_name and each.volume in volumes]
    return [each.name for each in here if each.name in granted or _has_stand_ins(each)]


def _has_stand_ins(agent: Agent) -> bool:
    folder = Path(agent.folder)
    return folder.is_dir() and bool(protection.stand_ins(folder))


def known(client: docker.DockerClient, name: str) -> bool:
    """Say whether there is anything of an agent."""
    return bool(
        records.named(name) or ps.find(client, name) or name in bridge.workspaces() or name in compose.remains(client)
    )


def what_goes(client: docker.DockerClient, ending: Sequence[str]) -> list[str]:
    """Return one line for each agent: what `volumes` removes for good."""
    lines = []
    for name in ending:
        record = records.named(name)
        folder = record.folder if record else bridge.workspaces().get(name, "")
        kept = folder and name in bridge.names_with_conversations(Path(folder))
        volume = _volume(client, name, record)
        parts = [f"volume {volume} (its home, its history, what it installed)"] if volume else []
        parts += ["its conversations with Claude"] if kept else []
        parts += [f"the record that it works in {folder}"] if record else []
        lines.append(f"agent {name}: {', '.join(parts) or 'nothing'}")
    return lines


def down(client: docker.DockerClient, ending: Sequence[str], say: Say, done: Say, what: Ending) -> None:
    """End agents, several at a time. `done` is told one line for each. Raises a `Problem` for those that stay."""
    if what.clone and not what.discard:
        for name in ending:
            exchange.save(client, name, say)
    used: list[tuple[str, list[str]]] = []

    def work(name: str) -> str:
        with engine.connected() as own, names.busy_with(name, say):
            return _down_one(own, name, say, what, used)

    def report(name: str, found: str | Problem) -> None:
        if not isinstance(found, Problem):
            done(found)
        elif len(ending) > 1:
            done(f"agent {name} could not be ended: {found}")

    results = many.at_once(ending, work, many.STOP_AT_ONCE, report)
    protection.tidy(client, used)
    many.raise_failures(results, "ended")


_granting = threading.Lock()


def _down_one(client: docker.DockerClient, name: str, say: Say, what: Ending, used: list[tuple[str, list[str]]]) -> str:
    """End one agent. Returns the line that says so."""
    container, record = ps.find(client, name), records.named(name)
    volume = _volume(client, name, record)
    if container:
        used.append(protection.used(container))
    elif record and Path(record.folder).is_dir():
        used.append((record.folder, []))
    was_there = compose.end(client, name)
    clones.tidy(client, name)
    with _granting:
        if what.volumes:
            bridge.forget(name)
        else:
            bridge.revoke(name)
    clones.end(name, say, remove_it=what.clone)
    stopped = "is stopped and its container removed" if was_there else "had no container; what was left of it is ended"
    if not what.volumes:
        return f"agent {name} {stopped}; volumes {volume or ps.volume_name(name)} and {compose.SHARED_VOLUME} stay"
    if volume:
        _remove_volume(client, volume)
    if record:
        records.remove(record)  # last, as it tells a next call what to remove
    names.forget_lock(name)
    return f"agent {name} {stopped}; {volume or 'its volume'} and its conversations are removed"


def _volume(client: docker.DockerClient, name: str, record: Agent | None) -> str:
    """Return the name of an agent's volume for /agent, if it has one."""
    container = ps.find(client, name)
    named = ps.volume_of(container) if container else (record.volume if record else "")
    try:
        return str(client.volumes.get(named).name) if named else ""
    except docker.errors.NotFound:
        return ""


def _remove_volume(client: docker.DockerClient, volume: str) -> None:
    try:
        client.volumes.get(volume).remove()
    except docker.errors.NotFound:
        return  # ignored because somebody else removed it meanwhile

"""Removes what crashed test runs left in the engine. By hand: `python -m tests.support.cleanup`."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, NotFound

from pipeline.agents.compose import PROJECT_LABEL
from tests.support.containers import LABEL


def is_orphan(session: str) -> bool:
    """Say whether the process that made it has ended. Things from other machines stay: nothing is known of them."""
    host, _, pid = session.rpartition(":")
    return host == platform.node() and pid.isdigit() and not Path("/proc", pid).exists()


def remove_orphans() -> list[str]:
    """Remove labelled things whose process has ended. Returns their names.

    These are containers, each with its whole Compose project, and volumes.
    """
    engine = docker.from_env()
    containers = engine.containers.list(all=True, ignore_removed=True, filters={"label": LABEL})
    orphans = [container for container in containers if is_orphan(container.labels[LABEL])]
    projects = {container.labels[PROJECT_LABEL] for container in orphans if PROJECT_LABEL in container.labels}
    removed = [_removed(container, force=True, v=True) for container in orphans]
    for project in projects:
        label = f"{PROJECT_LABEL}={project}"
        left = engine.containers.list(all=True, ignore_removed=True, filters={"label": label})
        removed += [_removed(container, force=True, v=True) for container in left]
        removed += [_removed(volume, force=True) for volume in engine.volumes.list(filters={"label": label})]
        removed += [_removed(network) for network in engine.networks.list(filters={"label": label})]
    for volume in engine.volumes.list(filters={"label": LABEL}):
        if is_orphan((volume.attrs["Labels"] or {}).get(LABEL, "")):
            removed.append(_removed(volume, force=True))
    engine.close()
    return [name for name in removed if name]


def _removed(found: Any, **options: bool) -> str:
    """Remove one thing from the engine. Returns its name, or nothing where another worker was faster."""
    try:
        found.remove(**options)
    except (NotFound, APIError):  # ignored because another worker is removing it
        return ""
    return str(found.name)


if __name__ == "__main__":
    for name in remove_orphans():
        print(f"removed {name}")

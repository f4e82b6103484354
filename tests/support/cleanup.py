"""Removes what test runs that crashed left in the engine; also by hand: `python -m tests.support.cleanup`."""

from __future__ import annotations

import contextlib
import platform
from pathlib import Path

import docker
from docker.errors import APIError, NotFound

from pipeline.agents.compose import PROJECT_LABEL
from tests.support.containers import LABEL


def is_orphan(session: str) -> bool:
    """Say whether the process that made it has ended; of other machines' nothing is known, so they stay."""
    host, _, pid = session.rpartition(":")
    return host == platform.node() and pid.isdigit() and not Path("/proc", pid).exists()


def remove_orphans() -> list[str]:
    """Remove labelled containers and volumes whose makers are gone; return their names."""
    engine = docker.from_env()
    removed = []
    for container in engine.containers.list(all=True, ignore_removed=True, filters={"label": LABEL}):
        if is_orphan(container.labels[LABEL]):
            with contextlib.suppress(NotFound, APIError):  # ignored because another worker is removing it
                container.remove(force=True, v=True)
                removed.append(str(container.name))
                removed += _remove_project(engine, container.labels.get(PROJECT_LABEL))
    for volume in engine.volumes.list(filters={"label": LABEL}):
        if is_orphan((volume.attrs["Labels"] or {}).get(LABEL, "")):
            with contextlib.suppress(NotFound, APIError):  # ignored because another worker is removing it
                volume.remove(force=True)
                removed.append(str(volume.name))
    engine.close()
    return removed


def _remove_project(engine: docker.DockerClient, project: str | None) -> list[str]:
    """Remove what Compose made beside an agent's container: the container that prepared its volumes, and these."""
    if project is None:
        return []
    of_it = {"label": f"{PROJECT_LABEL}={project}"}
    removed = []
    for made in (*engine.containers.list(all=True, filters=of_it), *engine.volumes.list(filters=of_it)):
        with contextlib.suppress(NotFound, APIError):  # ignored because another worker is removing it
            made.remove(force=True)
            removed.append(str(made.name))
    return removed


if __name__ == "__main__":
    for name in remove_orphans():
        print(f"removed {name}")

"""Check what building and running agents needs: what is there, what is missing, and what to type."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import docker
import docker.errors
import requests.exceptions

from pipeline.bootstrap import base, engine, engine_setup
from pipeline.errors import Problem

ROOM_GB = 8  # building both variants from nothing, with the base and the build cache, takes 6


@dataclass(frozen=True)
class Finding:
    """One fact about this machine. `remedy` is what to type where something is wrong."""

    what: str
    state: Literal["ok", "warning", "missing"]
    detail: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Check everything that building and running needs. Nothing is changed."""
    findings = [_command(), *(_plugin(name) for name in ("buildx", "compose"))]
    try:
        chosen = engine.chosen()
        client = chosen.client(timeout=engine.ANSWER_S)
    except Problem as problem:
        return [*findings, Finding("engine", "missing", str(problem))]
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        return [
            *findings,
            Finding("engine", "missing", f"none answers at {chosen.where}{_why(error)}", "bin/invoke engine.up"),
        ]
    with closing(client):
        return [*findings, *_engine(client, chosen)]


def _why(error: Exception) -> str:
    if "Permission denied" in str(error):
        return f": permission denied for uid {os.geteuid()}; join the group docker or use sudo"
    return ""


def _command() -> Finding:
    path = shutil.which("docker")
    if path is None:
        return Finding("docker command", "missing", "not on PATH", "bin/invoke engine.up")
    return Finding("docker command", "ok", path)


def _plugin(name: str) -> Finding:
    version = engine_setup.plugin_version(name)
    if version is None:
        return Finding(f"docker {name}", "missing", "the plugin is not installed", "bin/invoke engine.up")
    return Finding(f"docker {name}", "ok", version)


def _engine(client: docker.DockerClient, chosen: engine.Engine) -> Iterator[Finding]:
    version, where = str(client.version()["Version"]), chosen.where
    kind = engine.kind_of(client, where)
    if kind.is_podman:
        what = f"Podman {version} at {where} cannot build our image or tell an agent's health"
        yield Finding("engine", "missing", what, "bin/invoke up, which prints the podman run that works")
        return
    if int(version.split(".")[0]) < engine.MINIMUM_VERSION:
        old = f"{version} at {where} is older than {engine.MINIMUM_VERSION}: health comes late, builds may fail"
        yield Finding("engine", "warning", old, "install a newer Docker Engine")
    else:
        yield Finding("engine", "ok", f"{version} at {where}")
    if not chosen.is_here:
        yield Finding("folders", "warning", "reached over the network: agents cannot mount them", chosen.way_back)
    yield from _users(kind)
    info = client.info()
    yield Finding("storage", "ok", f"{info['Driver']} in {info['DockerRootDir']}")
    yield from _room(info["DockerRootDir"])
    made = base.made_images(client)
    if client.images.list(base.REGISTRY_BASE.format(node=base.DEFAULT_NODE)):
        yield Finding("base", "ok", base.REGISTRY_BASE.format(node=base.DEFAULT_NODE))
    elif made:
        yield Finding("base", "ok", f"{made[0]}, made here because no registry answered (`build --pull` asks again)")
    else:
        yield Finding("base", "ok", "none yet; the first build pulls or makes one")


def _users(kind: engine.Kind) -> Iterator[Finding]:
    if kind.person is not None:
        yield Finding("users", "ok", f"rootless: root in containers is uid {kind.person} here, who owns workspaces")
    elif kind.first:
        agent = kind.first + 1000
        what = f"userns-remap: uid 1000 in containers is uid {agent} here, who must own workspaces"
        yield Finding("users", "warning", what, f"sudo chown -R {agent}:{agent} WORKSPACE")


def _room(root: str) -> Iterator[Finding]:
    try:
        free_gb = shutil.disk_usage(root).free / 1e9
    except OSError:
        return  # ignored because the engine may be on another machine, whose disk cannot be seen from here
    if free_gb < ROOM_GB:
        detail = f"{free_gb:.1f} GB free, a build from nothing needs {ROOM_GB}"
        yield Finding("disk", "warning", detail, "docker system prune")
    else:
        yield Finding("disk", "ok", f"{free_gb:.0f} GB free")

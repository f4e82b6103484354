"""The base of the images: node:NN-slim from a registry, or a similar one made here.

Where no registry answers, mmdebstrap makes a minimal Debian, and npm provides Node and its package managers. The tag of
such a base is a digest of its recipe. If that image exists it is reused: no registry is asked and nothing is made
again, until `--pull`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import docker
import docker.errors
import requests.exceptions

from pipeline.errors import Problem
from pipeline.files import ROOT
from pipeline.reporting import Say

DEFAULT_NODE = "20"
NODES = ("20", "22", "24")
REGISTRY_BASE = "node:{node}-slim"
MADE_BASE = "magents/base"
SUITE = "bookworm"
MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
REGISTRY_ANSWER_S = 4.5  # the limit is 5 s for the decision
DEBIAN_ROOT = (
    "--variant=minbase",
    "--include=tzdata",
    *(f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("doc", "groff", "info", "lintian", "locale", "man")),
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
)
RECIPE_EPOCH = 1767225600  # 2026-01-01: the time of all files in a made base, so that its content is reproducible


@dataclass(frozen=True)
class Base:
    """The image to build on, and the reason for the choice, as people are told."""

    reference: str
    why: str


def choose(
    client: docker.DockerClient, say: Say, *, given: str | None, node: str, architecture: str, pull: bool
) -> Base:
    """Choose the base, and pull or make it where it is missing. Raises Problem."""
    if given:
        return Base(given, "chosen by --base-image")
    if node not in NODES:
        raise Problem(f"--node {node} is not known; use one of {', '.join(NODES)}, or --base-image", 64)
    registry = REGISTRY_BASE.format(node=node)
    made = f"{MADE_BASE}:{_tag(node, architecture)}"
    if not pull:
        if _is_there(client, registry, architecture):
            return Base(registry, "already pulled")
        if _is_there(client, made, architecture):
            return Base(made, "made earlier, because no registry answered; --pull asks again")
    if _registry_has(client, registry):
        say(f"pulling {registry} ...")
        pulled = subprocess.run(["docker", "pull", "--platform", f"linux/{architecture}", registry])
        if pulled.returncode == 0:
            return Base(registry, "pulled")
        say(f"{registry} could not be pulled")
    if not _is_there(client, made, architecture):
        say(f"no registry answers for {registry}: making a base of the same shape from Debian's and npm's packages ...")
        _make(made, node, architecture, say)
    return Base(made, "made here, because no registry answers; --pull asks again")


def made_images(client: docker.DockerClient) -> list[str]:
    """Return the names of the bases that were made on this engine."""
    return sorted(tag for image in client.images.list(MADE_BASE) for tag in image.tags)


def _is_there(client: docker.DockerClient, reference: str, architecture: str) -> bool:
    try:
        return bool(client.images.get(reference).attrs["Architecture"] == architecture)
    except docker.errors.ImageNotFound:
        return False


def _registry_has(client: docker.DockerClient, reference: str) -> bool:
    """Ask the engine, within `REGISTRY_ANSWER_S` seconds, whether its registry serves `reference`.

    The engine asks, because proxies and mirrors are configured there. Its own attempts last 15 s and cannot be
    shortened, so a thread waits for them and is abandoned after the limit.
    """
    answer: list[bool] = []

    def ask() -> None:
        try:
            client.images.get_registry_data(reference)
            answer.append(True)
        except (docker.errors.DockerException, requests.exceptions.RequestException):
            answer.append(False)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(REGISTRY_ANSWER_S)
    return answer == [True]


# Making one


def _tag(node: str, architecture: str) -> str:
    """Return the tag of a made base: its kind, and a digest of everything that decides its content."""
    recipe = hashlib.sha256(repr((SUITE, RECIPE_EPOCH, DEBIAN_ROOT)).encode())
    for name in ("Dockerfile", "package-lock.json"):
        recipe.update((ROOT / "docker" / "base" / name).read_bytes())
    return f"node{node}-{SUITE}-{architecture}-{recipe.hexdigest()[:12]}"


def _make(reference: str, node: str, architecture: str, say: Say) -> None:
    foreign = architecture != MACHINES.get(platform.machine())
    for tool in ("mmdebstrap", "npm", *(["arch-test"] if foreign else [])):
        if not shutil.which(tool):
            _install(tool, say)
    if foreign and subprocess.run(["arch-test", architecture], stdout=subprocess.DEVNULL).returncode:
        raise Problem(
            f"programs of {architecture} do not run here, so no base for it can be made; "
            "run `apt-get install qemu-user-static binfmt-support`, or leave --platform out"
        )
    locked = json.loads((ROOT / "docker" / "base" / "package-lock.json").read_text())["packages"]
    package = locked[f"node_modules/node-{node}-{architecture}"]
    with tempfile.TemporaryDirectory(prefix="magents-base-") as name:
        context = Path(name)
        _debian_root(context / "root.tar", architecture)
        local = context / "usr-local"
        _unpack(
            _fetch(package["name"], package, context),
            local,
            keep=("bin", "include", "share", "LICENSE", "README.md"),
        )
        _unpack(_fetch("npm", locked["node_modules/npm"], context), local / "lib" / "node_modules" / "npm")
        yarn = f"yarn-v{locked['node_modules/yarn']['version']}"
        _unpack(_fetch("yarn", locked["node_modules/yarn"], context), context / "opt" / yarn)
        (context / "opt" / "yarn").symlink_to(yarn)
        for path in [context, *context.rglob("*")]:
            os.utime(path, (RECIPE_EPOCH, RECIPE_EPOCH), follow_symlinks=False)
        _build(reference, context, architecture, package["version"])


def _install(package: str, say: Say) -> None:
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Problem(
            f"no registry answers, and making a base needs {package}; run `apt-get install {package}` on Debian or "
            "Ubuntu, or name an image with --base-image"
        )
    say(f"installing {package} ...")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for step in (["update"], ["install", "-y", "--no-install-recommends", package]):
        done = subprocess.run(["apt-get", "-qq", *step], env=environment, stdout=subprocess.DEVNULL)
        if done.returncode:
            raise Problem(f"`apt-get {' '.join(step)}` failed, the lines above say why; no network, or a full disk?")


def _debian_root(target: Path, architecture: str) -> None:
    command = ["mmdebstrap", "--quiet", f"--architectures={architecture}", *DEBIAN_ROOT]
    done = subprocess.run(
        [*command, SUITE, str(target)],
        env=os.environ | {"SOURCE_DATE_EPOCH": str(RECIPE_EPOCH)},
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        raise Problem("mmdebstrap could not make Debian's root, the lines above say why; no network, or a full disk?")


def _fetch(name: str, locked: dict[str, str], directory: Path) -> Path:
    """Download the package `name` in its locked version with npm, and check it against the lock's digest."""
    wanted = f"{name}@{locked['version']}"
    command = ["npm", "pack", "--silent", "--pack-destination", str(directory), wanted]
    done = subprocess.run(command, capture_output=True, text=True, cwd=directory, stdin=subprocess.DEVNULL)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise Problem(f"npm could not fetch {wanted} ({lines[-1]}), so no base is made; is the network there?")
    path = directory / done.stdout.strip().splitlines()[-1]
    algorithm, _, expected = locked["integrity"].partition("-")
    if base64.b64encode(hashlib.new(algorithm, path.read_bytes()).digest()).decode() != expected:
        raise Problem(
            f"{wanted} is not what docker/base/package-lock.json locks; do not use it, and tell the maintainers"
        )
    return path


def _unpack(archive: Path, target: Path, keep: tuple[str, ...] = ()) -> None:
    """Unpack npm's archive into `target`: everything in its only folder, `package`, or the entries in `keep`."""
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as content:
        members = []
        for member in content.getmembers():
            member.name = member.name.partition("/")[2]
            if member.name and (not keep or member.name.split("/")[0] in keep):
                members.append(member)
        content.extractall(target, members, filter="tar")
    archive.unlink()


def _build(reference: str, context: Path, architecture: str, node_version: str) -> None:
    recipe = ROOT / "docker" / "base" / "Dockerfile"
    command = ["docker", "buildx", "build", "--quiet", "--load", "--platform", f"linux/{architecture}"]
    options = ["--build-arg", f"NODE_VERSION={node_version}", "--tag", reference, "--file", str(recipe)]
    done = subprocess.run([*command, *options, str(context)], stdout=subprocess.DEVNULL)
    if done.returncode:
        raise Problem(f"the base {reference} could not be built, the lines above say why")

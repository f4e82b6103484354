"""The contents of an image: its packages, found by a program in it, and its layers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import docker
import docker.errors

from pipeline.errors import Problem

# Runs in the image; prints the fields of each Package, sorted.
LOOK = """
import json, pathlib, platform, re, subprocess, sys
found = []
release = platform.freedesktop_os_release()
distribution = "-".join(release[key] for key in ("ID", "VERSION_ID") if key in release)
form = "${Package}\\t${Version}\\t${Architecture}\\n"
for line in subprocess.run(["dpkg-query", "--show", "--showformat", form], capture_output=True, text=True,
                           check=True).stdout.splitlines():
    name, version, architecture = line.split("\\t")
    found.append(["deb", name, version, architecture, distribution])
roots = [pathlib.Path(top) for top in ("/usr/local/lib/node_modules", "/opt")]
for top in roots:
    for path in top.rglob("package.json"):
        if path.parent.parent.name == "node_modules" or path.parent.parent.parent.name == "node_modules" \\
                or path.parent.parent == pathlib.Path("/opt"):
            try:
                read = json.loads(path.read_text())
            except ValueError:
                continue
            if isinstance(read.get("name"), str) and isinstance(read.get("version"), str):
                licence = read.get("license")
                found.append(["npm", read["name"], read["version"], licence if isinstance(licence, str) else ""])
licences = pathlib.Path("/usr/local/lib/task-master/LICENSES")
if licences.exists():
    for name, version, licence in re.findall(r"^==== (\\S+) (\\S+) \\((.*)\\)$", licences.read_text(), re.M):
        found.append(["npm", name, version, licence])
node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
found.append(["generic", "node", node.lstrip("v"), "MIT"])
for meta in sorted(pathlib.Path("/usr").rglob("*.dist-info/METADATA")):
    text = meta.read_text(errors="replace")
    name, version = (re.search(rf"^{key}: (.+)$", text, re.M) for key in ("Name", "Version"))
    if name and version:
        found.append(["pypi", name[1], version[1], ""])
json.dump(sorted(map(list, set(map(tuple, found)))), sys.stdout)
"""


@dataclass(frozen=True, order=True)
class Package:
    """A package by kind (`deb`, `npm`, `pypi`, `generic`); `note` is its licence, or Debian's architecture.

    `distribution` is the distribution of a `deb`, by name and version (`debian-12`).
    """

    kind: str
    name: str
    version: str
    note: str
    distribution: str = ""


def image_of(client: docker.DockerClient, reference: str) -> Any:
    """Return the engine's image. Raises a `Problem` that says what to type."""
    try:
        return client.images.get(reference)
    except docker.errors.ImageNotFound:
        raise Problem(f"image {reference} is not on this engine; run `docker pull {reference}` or build it") from None


def packages(client: docker.DockerClient, reference: str) -> list[Package]:
    """Find the packages of an image, in a container without network. Returns them sorted."""
    image_of(client, reference)
    output = client.containers.run(
        reference,
        ["-c", LOOK],
        entrypoint=["python3"],
        network_mode="none",
        remove=True,
        user="0",
        stdout=True,
        stderr=False,
    )
    return [Package(*row) for row in json.loads(output)]


def layers(client: docker.DockerClient, reference: str) -> list[tuple[str, int, str]]:
    """Return digest, bytes and build step of every layer that is not empty, lowest first.

    A digest is empty where it is not certain.
    """
    image = image_of(client, reference)
    steps = [step for step in reversed(image.history()) if step["Size"]]
    digests = list(image.attrs["RootFS"]["Layers"])
    # steps without bytes may still have a layer, so the digests are certain only where the counts are equal
    named = digests if len(digests) == len(steps) else [""] * len(steps)
    return [
        (digest, int(step["Size"]), " ".join(str(step["CreatedBy"]).split()))
        for digest, step in zip(named, steps, strict=True)
    ]

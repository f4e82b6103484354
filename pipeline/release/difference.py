"""The differences between two images."""

from __future__ import annotations

from dataclasses import dataclass

import docker

from pipeline.release.inventory import Package, image_of, layers, packages


@dataclass(frozen=True)
class Change:
    """A package that was added (`old` is empty), removed (`new` is empty) or replaced."""

    kind: str
    name: str
    old: str
    new: str


@dataclass(frozen=True)
class Difference:
    """Changed packages; layers as (step, bytes before, bytes after); the images' total sizes in bytes."""

    packages: list[Change]
    layers: list[tuple[str, int, int]]
    sizes: tuple[int, int]


def compare(client: docker.DockerClient, old: str, new: str) -> Difference:
    """Compare two images on this engine."""
    sizes = (int(image_of(client, old).attrs["Size"]), int(image_of(client, new).attrs["Size"]))
    before, after = layers(client, old), layers(client, new)
    known = {digest for digest, _, _ in before if digest} & {digest for digest, _, _ in after}
    grown: dict[str, list[int]] = {}
    for index, side in enumerate((before, after)):
        for digest, size, step in side:
            if digest not in known:
                grown.setdefault(step, [0, 0])[index] += size
    return Difference(
        changes(packages(client, old), packages(client, new)),
        [(step, was, now) for step, (was, now) in grown.items() if was != now],
        sizes,
    )


def changes(old: list[Package], new: list[Package]) -> list[Change]:
    """Compare two lists of packages by kind and name. Several versions of one package are compared as a set."""

    def versions(found: list[Package]) -> dict[tuple[str, str], set[str]]:
        by_name: dict[tuple[str, str], set[str]] = {}
        for package in found:
            by_name.setdefault((package.kind, package.name), set()).add(package.version)
        return by_name

    before, after = versions(old), versions(new)
    found = []
    for key in sorted(before.keys() | after.keys()):
        was, now = before.get(key, set()), after.get(key, set())
        if was != now:
            found.append(Change(*key, ", ".join(sorted(was - now)), ", ".join(sorted(now - was))))
    return found

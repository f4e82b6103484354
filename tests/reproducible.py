"""Build both images twice without cache and compare them layer by layer; `nox -s reproducible`."""

from __future__ import annotations

import hashlib
import sys
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path

import docker

from pipeline.bootstrap import engine
from pipeline.build import image
from pipeline.errors import Problem
from pipeline.release.inventory import layers
from pipeline.reporting import say_on_stderr

MOST_SHOWN = 20


def main() -> int:
    """Compare the builds. Returns 1 when a layer differs, and prints the files that differ."""
    differing = 0
    with engine.connected() as client:
        for variant in image.VARIANTS.values():
            scratch = [replace(variant, tag=f"reproducible-{variant.name}-{turn}") for turn in (1, 2)]
            try:
                for one in scratch:
                    image.build(client, one, image.Options(no_cache=True), say_on_stderr)
                differing += _compare(client, *(one.reference for one in scratch))
            finally:
                for one in scratch:
                    if client.images.list(one.reference):
                        client.images.remove(one.reference)
    return 1 if differing else 0


def _compare(client: docker.DockerClient, first: str, second: str) -> int:
    one, two = (client.images.get(reference).attrs["RootFS"]["Layers"] for reference in (first, second))
    different = [number for number, pair in enumerate(zip(one, two, strict=True)) if pair[0] != pair[1]]
    print(f"{first}, {second}: {len(one) - len(different)} of {len(one)} layers are identical")
    print(f"whole image: {'identical' if client.images.get(first).id == client.images.get(second).id else 'differs'}")
    for number in different:
        print(
            f"layer {number} differs: {[step for _, _, step in layers(client, first)][min(number, 99)][:100]}"
            if len(one) == len(layers(client, first))
            else f"layer {number} differs"
        )
    if different:
        before, after = _files(client, first, one, different), _files(client, second, two, different)
        names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        for name in names[:MOST_SHOWN]:
            print(f"  {name}: {before.get(name)} / {after.get(name)}")
        print(f"  {len(names)} files differ")
    return len(different)


def _files(
    client: docker.DockerClient, reference: str, digests: list[str], numbers: list[int]
) -> dict[str, tuple[int, int, str]]:
    """Return mode, time and digest of each entry in the numbered layers."""
    wanted = {digests[number] for number in numbers}
    found: dict[str, tuple[int, int, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "image.tar"
        with archive.open("wb") as sink:
            for chunk in client.images.get(reference).save():
                sink.write(chunk)
        with tarfile.open(archive) as outer:
            for member in outer.getmembers():
                stream = outer.extractfile(member) if member.isfile() else None
                if stream is None or member.size < 1024:
                    continue
                digest = "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
                if digest not in wanted:
                    continue
                stream.seek(0)
                with tarfile.open(fileobj=stream) as layer:
                    for entry in layer:
                        content = layer.extractfile(entry) if entry.isfile() else None
                        body = hashlib.sha256(content.read()).hexdigest()[:12] if content else entry.linkname
                        found[entry.name] = (entry.mode, int(entry.mtime), body)
    return found


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Problem as problem:
        print(f"reproducible: {problem}", file=sys.stderr)
        sys.exit(problem.code)

"""Name, push and join images: what was tested is published, and the registry is checked afterwards."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import docker

from pipeline.build import passthrough, source
from pipeline.build.image import VARIANTS, Variant, require
from pipeline.errors import Problem
from pipeline.files import ROOT, replace
from pipeline.release import faults, test_records, verify
from pipeline.release.tags import tags
from pipeline.reporting import Say

NAMESPACE = "magents"
PARTS = ROOT / "dist" / "parts"


@dataclass(frozen=True)
class Publication:
    """An image and the names that it gets."""

    variant: Variant
    image_id: str
    architecture: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """One architecture's image in the registry. It is joined with the others of its variant."""

    variant: str
    architecture: str
    repository: str
    digest: str
    image_id: str
    references: tuple[str, ...]


def publications(
    client: docker.DockerClient, variants: Iterable[Variant], where: str, released: Sequence[str] | None = None
) -> list[Publication]:
    """Return the names that the built images get below `where` (`magents`, `localhost:5000/team`)."""
    if not re.fullmatch(r"([a-z0-9.-]+(:\d+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*", where):
        raise Problem(f"--registry {where} is no registry with a namespace; for example localhost:5000/team", 64)
    known = source.releases() if released is None else released
    found = []
    for variant in variants:
        require(client, variant)
        image = client.images.get(variant.reference)
        version, revision = (str(image.labels[f"org.opencontainers.image.{name}"]) for name in ("version", "revision"))
        names = tags(variant.name, version, revision, known)
        if not names:
            raise Problem(f"{variant.reference} is of an unknown revision, so it has no name; build it in a git clone")
        references = tuple(f"{where}/agent:{name}" for name in names)
        found.append(Publication(variant, str(image.id), str(image.attrs["Architecture"]), references))
    return found


def tag(client: docker.DockerClient, publication: Publication) -> None:
    """Give the image its names on this engine."""
    image = client.images.get(publication.image_id)
    for reference in publication.references:
        image.tag(reference)


def require_tested(publications: Iterable[Publication], untested: Sequence[str]) -> None:
    """Refuse images that did not pass their tests. `untested` names the variants that are accepted without."""
    for name in untested:
        if name not in VARIANTS:
            raise Problem(f"--untested {name} is no variant; use one of {', '.join(VARIANTS)}", 64)
    for each in publications:
        if each.variant.name not in untested and not test_records.passed(each.variant, each.image_id):
            raise Problem(
                f"{each.variant.reference} is not the image that was tested, so it is not pushed; run "
                f'`bin/nox -s "image_tests({each.variant.name})"`, or add --untested {each.variant.name}'
            )


def push(client: docker.DockerClient, publication: Publication, say: Say) -> list[verify.Manifest]:
    """Push every name, and compare what the registry then serves with the image. May be repeated."""
    tag(client, publication)
    served = []
    for done, reference in enumerate(publication.references):
        _push(reference, f"{done} of {len(publication.references)} names were pushed", say)
        manifest = verify.fetch(reference)
        # an engine that keeps its images in containerd uses the manifest's digest as the id, and not the
        # configuration's
        if publication.image_id not in (manifest.config, manifest.digest):
            raise Problem(
                f"the registry serves another image as {reference} ({manifest.config}, not {publication.image_id}); "
                "somebody else pushes there, so push again and look"
            )
        served.append(manifest)
    return served


def _push(reference: str, so_far: str, say: Say) -> None:
    for wait in (*faults.WAITS_S, None):
        code, tail = passthrough.run(["docker", "push", reference], os.environ)
        if code == 0:
            return
        last = tail.strip().rpartition("\n")[2]  # earlier lines name layers by digits, which could match a pattern
        fault = faults.find(last)
        meaning = fault.explain(reference) if fault else "the lines above say why"
        if wait is None or not fault or not fault.passes:
            raise Problem(f"{reference} was not pushed: {meaning}; {so_far}, and pushing again goes on from there")
        say(f"{reference}: {meaning}; trying again in {wait} s")
        time.sleep(wait)


# -- architectures, built apart and joined -----------------------------------------------------------------


def push_part(client: docker.DockerClient, publication: Publication, say: Say, folder: Path = PARTS) -> Part:
    """Push one architecture's image under its revision only, and write down its digest for `join`."""
    by_revision = next((name for name in publication.references if ":sha-" in name), publication.references[0])
    own = f"{by_revision}-{publication.architecture}"
    alone = Publication(publication.variant, publication.image_id, publication.architecture, (own,))
    (manifest,) = push(client, alone, say)
    repository = own.rsplit(":", 1)[0]
    part = Part(
        publication.variant.name,
        publication.architecture,
        repository,
        manifest.digest,
        publication.image_id,
        publication.references,
    )
    replace(folder / f"{part.variant}-{part.architecture}.json", json.dumps(asdict(part), indent=1) + "\n")
    return part


def parts(folder: Path = PARTS, architectures: Iterable[str] = ()) -> list[Part]:
    """Read what `push --part` wrote for every architecture. Each of `architectures` must be there."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if not found:
        raise Problem(f"{folder} holds no part, so there is nothing to join; run `bin/invoke push --part` first")
    there = {each["architecture"] for each in found}
    if missing := set(architectures) - there:
        raise Problem(f"{folder} holds no part for {', '.join(sorted(missing))}, so nothing is joined; push it first")
    return [Part(**{**each, "references": tuple(each["references"])}) for each in found]


def join(found: Sequence[Part]) -> dict[str, verify.Manifest]:
    """Give all names of each variant to an index of its parts. Returns what the registry then serves, by name."""
    served = {}
    everywhere = {part.architecture for part in found}
    for variant in sorted({part.variant for part in found}):
        own = [part for part in found if part.variant == variant]
        if len({part.references for part in own}) > 1:
            raise Problem(f"the parts of {variant} are of different versions; build all of them from one revision")
        lacking = everywhere - {part.architecture for part in own}
        if lacking or len(own) > len(everywhere):
            raise Problem(
                f"{variant} has not one part for each of {', '.join(sorted(everywhere))}; push them all again"
            )
        names = [word for reference in own[0].references for word in ("--tag", reference)]
        origins = [f"{part.repository}@{part.digest}" for part in own]
        code, _ = passthrough.run(["docker", "buildx", "imagetools", "create", *names, *origins], os.environ)
        if code:
            raise Problem(f"the parts of {variant} were not joined: the lines above say why; it is safe to repeat")
        for reference in own[0].references:
            manifest = verify.fetch(reference)
            if not {part.digest for part in own} <= manifest.parts | {manifest.digest}:
                raise Problem(f"the registry serves something else as {reference}; join again")
            served[reference] = manifest
    return served

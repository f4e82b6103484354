"""Tasks of a release: name, push, join and describe the images that were built and tested."""

from __future__ import annotations

import os
from pathlib import Path

from invoke import Context, task

from commands.build import EVERY_VARIANT
from commands.output import print_table, problems_as_exit, table
from commands.wishes import variant_named
from pipeline.bootstrap import engine
from pipeline.build import image, source
from pipeline.files import ROOT
from pipeline.release import attest, difference, hub, push, tags
from pipeline.reporting import say_on_stderr

REGISTRY_HELP = "registry and namespace, such as localhost:5000/team; Docker Hub's magents when left out"
VARIANT_HELP = "prod or dev; both when left out"
PARTS_HELP = "folder of the parts, which `push --part` wrote"
BILLS = ROOT / "dist" / "sbom"


@task(help={"newest": "print the newest release's tag, or the branch main where there is none"})
def version(_: Context, newest: bool = False) -> None:
    """Print the version of this source, which comes from git's tags."""
    print(tags.newest(source.releases()) if newest else source.describe().version)


@task(
    name="tag",
    help={"variant": VARIANT_HELP, "registry": REGISTRY_HELP, "dry-run": "print the names and change nothing"},
)
def give_names(_: Context, variant: str | None = None, registry: str = push.NAMESPACE, dry_run: bool = False) -> None:
    """Give the built images their names for a release."""
    with problems_as_exit(), engine.connected() as client:
        found = push.publications(client, _chosen(variant), registry)
        if not dry_run:
            for each in found:
                push.tag(client, each)
        _print_names(found)


@task(
    name="push",
    iterable=["untested"],
    help={
        "variant": VARIANT_HELP,
        "registry": REGISTRY_HELP,
        "dry-run": "print the names and change nothing",
        "untested": "push this variant although its image was not tested; may be repeated",
        "part": "push for this architecture alone, to be joined with others by `join`",
    },
)
def push_images(
    _: Context,
    untested: list[str],
    variant: str | None = None,
    registry: str = push.NAMESPACE,
    dry_run: bool = False,
    part: bool = False,
) -> None:
    """Push the images that were tested, and compare what the registry then serves."""
    with problems_as_exit(), engine.connected() as client:
        found = push.publications(client, _chosen(variant), registry)
        if dry_run:
            _print_names(found)
            return
        push.require_tested(found, untested)
        for each in found:
            if part:
                made = push.push_part(client, each, say_on_stderr)
                print(f"{made.repository}@{made.digest}")
            else:
                served = push.push(client, each, say_on_stderr)
                for reference, manifest in zip(each.references, served, strict=True):
                    print(f"{reference} {manifest.digest}")


@task(
    iterable=["architecture"],
    help={"parts": PARTS_HELP, "architecture": "refuse to join without this one; may be repeated"},
)
def join(_: Context, architecture: list[str], parts: str = str(push.PARTS)) -> None:
    """Give the release's names to images that were pushed for each architecture."""
    with problems_as_exit():
        for reference, manifest in push.join(push.parts(Path(parts), architecture)).items():
            print(f"{reference} {manifest.digest}")


@task(name="sbom", help={"variant": VARIANT_HELP, "output": "folder of the files VARIANT-ARCHITECTURE.cdx.json"})
def write_bills(_: Context, variant: str | None = None, output: str = str(BILLS)) -> None:
    """Write the bill of materials of the built images as CycloneDX."""
    from pipeline.release import sbom  # here, as it takes long to load, and every task would wait for it

    with problems_as_exit(), engine.connected() as client:
        for one in _chosen(variant):
            path = sbom.path_for(client, one, Path(output))
            print(f"{path}: {sbom.write(client, one.reference, path)} components")


@task(help={"old": "reference of an image on this engine", "new": "the image to compare it with"})
def diff(_: Context, old: str, new: str) -> None:
    """Show what changed between two images: packages and sizes."""
    with problems_as_exit(), engine.connected() as client:
        found = difference.compare(client, old, new)
    packages = table("package", "old", "new")
    for change in found.packages:
        packages.add_row(f"{change.kind} {change.name}", change.old or "-", change.new or "-")
    print_table(packages)
    sizes = table("layer", "old MB", "new MB", "change MB")
    for step, was, now in [*found.layers, ("whole image", *found.sizes)]:
        sizes.add_row(step[:70], f"{was / 1e6:.1f}", f"{now / 1e6:.1f}", f"{(now - was) / 1e6:+.1f}")
    print_table(sizes)


@task(name="attest", help={"parts": PARTS_HELP, "bills": "folder of the bills of materials"})
def sign(_: Context, parts: str = str(push.PARTS), bills: str = str(BILLS)) -> None:
    """Sign what was pushed and attach its bills of materials, with cosign."""
    with problems_as_exit():
        attest.attest(push.parts(Path(parts)), Path(bills))


@task
def describe(_: Context) -> None:
    """Set Docker Hub's description to the README, as DOCKERHUB_USERNAME with DOCKERHUB_TOKEN."""
    with problems_as_exit():
        user, token = hub.credentials(os.environ)
        hub.describe(image.REPOSITORY, user, token, ROOT / "README.md")


def _chosen(variant: str | None) -> list[image.Variant]:
    return [variant_named(variant)] if variant else EVERY_VARIANT


def _print_names(found: list[push.Publication]) -> None:
    rows = table("variant", "image", "name")
    for each in found:
        for reference in each.references:
            rows.add_row(each.variant.name, each.image_id.removeprefix("sha256:")[:12], reference)
    print_table(rows)

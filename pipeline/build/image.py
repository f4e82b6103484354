"""Build the two images with buildx, whose own progress is shown to people."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import docker
import docker.errors

from pipeline.bootstrap import base
from pipeline.build import passthrough, source
from pipeline.errors import Problem
from pipeline.files import ROOT
from pipeline.reporting import Say

DOCKERFILE = ROOT / "docker" / "Dockerfile"
REPOSITORY = "magents/agent"
T = TypeVar("T")
CA_VARIABLES = ("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE")


@dataclass(frozen=True)
class Variant:
    """One of the images: the Dockerfile's VARIANT, and the local tag."""

    name: str
    tag: str

    @property
    def reference(self) -> str:
        """The local name of this image."""
        return f"{REPOSITORY}:{self.tag}"


# The only list of variants in the project. tests/unit/test_lists.py checks that noxfile.py's copy is equal.
VARIANTS = {"prod": Variant("prod", "latest"), "dev": Variant("dev", "dev")}


def _option(default: T, text: str) -> T:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Options:
    """What a person may choose about a build. The tasks take their options and help texts from here."""

    no_cache: bool = _option(False, "build every step anew")
    base_image: str | None = _option(None, "build on this image instead of node:NN-slim")
    node: str = _option(
        base.DEFAULT_NODE, f"major version of Node.js: {', '.join(base.NODES[:-1])} or {base.NODES[-1]}"
    )
    platform: str | None = _option(None, "linux/amd64 or linux/arm64; the machine's own when left out")
    progress: str = _option("auto", "how buildx shows its progress: auto, tty, plain, quiet")
    ca_bundle: str | None = _option(None, "PEM file of extra certificates, where a proxy re-signs TLS")
    pull: bool = _option(False, "ask the registry again for the base")


# What a failed build prints, in the order of the search, and what it means to a person.
REASONS = (
    (
        r"no space left on device|disk quota exceeded",
        "the disk is full; make room with `docker system prune` and build again",
    ),
    (
        r"EINTEGRITY|EUSAGE|npm ci. can only install|EJSONPARSE",
        "a package lock is broken; restore it with `git checkout docker`, or renew it with `bin/nox -s locks`",
    ),
    (
        r"SELF_SIGNED_CERT|UNABLE_TO_(GET|VERIFY)|unable to get (local )?issuer|certificate verify failed",
        "a TLS proxy re-signs the network's traffic; name its certificates with --ca-bundle FILE",
    ),
    (
        r"failure resolving|Could not (resolve|connect)|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|unreachable|no such host",
        "a package registry cannot be reached; is there a network?",
    ),
    (
        r"pull access denied|failed to resolve source|manifest unknown",
        "the base image cannot be had; check --base-image, or leave it out",
    ),
    (
        r"exec format error",
        "programs of that platform do not run here; install qemu-user-static, or leave --platform out",
    ),
)


def build(client: docker.DockerClient, variant: Variant, options: Options, say: Say) -> str:
    """Build `variant` and tag it. Returns the image's id. The tag moves only when the whole image is built."""
    if not DOCKERFILE.is_file():
        raise Problem("docker/Dockerfile is missing, so nothing can be built; run `git checkout docker/Dockerfile`")
    architecture = _architecture(options.platform)
    bundle = ca_bundle(options.ca_bundle)
    foundation = base.choose(
        client, say, given=options.base_image, node=options.node, architecture=architecture, pull=options.pull
    )
    say(f"building {variant.reference} on {foundation.reference} ({foundation.why})")
    facts = source.describe()
    command = _command(variant, options, foundation, architecture, facts, bundle)
    # buildx' own look at git adds nothing to the image, and warns where another user owns the clone
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(facts.epoch_s), "BUILDX_GIT_INFO": "false"}
    try:
        code, tail = passthrough.run(command, environment)
    except KeyboardInterrupt:
        again = f"run `bin/invoke build.{variant.name}` to go on from there"
        raise Problem(f"interrupted; {variant.reference} is as it was before; {again}", 130) from None
    if code:
        raise Problem(f"{variant.reference} was not built and is as it was before: {reason(tail)}")
    return str(client.images.get(variant.reference).id)


def reason(output: str) -> str:
    """Return one sentence that says why a build failed, from the end of its output."""
    for pattern, meaning in REASONS:
        if re.search(pattern, output, re.IGNORECASE):
            return meaning
    errors = re.findall(r"^ERROR: (.*)$", output, re.MULTILINE)
    return errors[-1] if errors else "the lines above say why"


def require(client: docker.DockerClient, variant: Variant) -> None:
    """Raise a `Problem` where the variant's image is missing."""
    try:
        client.images.get(variant.reference)
    except docker.errors.ImageNotFound:
        raise Problem(f"image {variant.reference} is missing; run `bin/invoke build.{variant.name}`") from None


def _command(
    variant: Variant,
    options: Options,
    foundation: base.Base,
    architecture: str,
    facts: source.Source,
    bundle: Path | None,
) -> list[str]:
    arguments = {
        "BASE_IMAGE": foundation.reference,
        "VARIANT": variant.name,
        "VERSION": facts.version,
        "REVISION": facts.revision,
        "CREATED": facts.created,
    }
    command = ["docker", "buildx", "build", "--load", "--file", str(DOCKERFILE), "--tag", variant.reference]
    command += ["--platform", f"linux/{architecture}", "--progress", options.progress]
    for name, value in arguments.items():
        command += ["--build-arg", f"{name}={value}"]
    if bundle:
        command += ["--secret", f"id=ca,src={bundle}"]
    if options.no_cache:
        command.append("--no-cache")
    return [*command, str(ROOT)]


def ca_bundle(given: str | None) -> Path | None:
    """Return the file of extra certificates for the build: the given one, or the first that a variable names."""
    named = [("--ca-bundle", given)] if given else [(name, os.environ.get(name)) for name in CA_VARIABLES]
    for name, value in named:
        if value:
            path = Path(value).expanduser()
            if not path.is_file():
                raise Problem(f"{name} names {value}, which is no file; name a PEM file of certificates", 64)
            return path.resolve()
    return None


def _architecture(wanted: str | None) -> str:
    machine = wanted.removeprefix("linux/") if wanted else base.MACHINES.get(platform.machine(), platform.machine())
    if machine not in base.MACHINES.values():
        raise Problem(f"--platform {wanted or machine} is not known; use linux/amd64 or linux/arm64", 64)
    return machine

"""Images that somebody made FROM one of ours, for `up --image`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import docker
import docker.errors

from bridge.protocol import frames
from pipeline.build.image import VARIANTS, Variant
from pipeline.errors import Problem

VARIANT_LABEL = "io.magents.variant"
PROTOCOL_LABEL = "io.magents.protocol"
ENTRYPOINT = "/usr/local/bin/agent-entrypoint"
PROBE = "/usr/local/bin/agent-health-probe"
VARIABLES = {"HOME": "/agent/home", "TMUX_TMPDIR": "/agent/run"}
ROOT_USERS = ("", "0", "root")


@dataclass(frozen=True)
class Derived(Variant):
    """An image made FROM the variant `name`. Its tag is the whole reference."""

    @property
    def reference(self) -> str:
        """The name under which the engine has this image."""
        return self.tag


def require(client: docker.DockerClient, reference: str, asked: Variant) -> Derived:
    """Return the image `reference`, once it is clear that `up` can run it. `asked` is the variant that a person named.

    Raises a `Problem` that says what of its Dockerfile is in the way.
    """
    try:
        found = client.images.get(reference)
    except (docker.errors.APIError, docker.errors.NullResource):
        raise Problem(
            f"image {reference} is not on this machine, so nothing was started; build it, or `docker pull` it", 64
        ) from None
    labels, config = found.labels, found.attrs["Config"]
    wrong = _what_is_wrong(labels, config)
    if wrong:
        raise Problem(f"image {reference} {wrong}", 64)
    variant = labels[VARIANT_LABEL]
    if variant != asked.name and asked != VARIANTS["prod"]:  # prod is also what counts when nobody named one
        raise Problem(f"image {reference} is made FROM a {variant} image and not {asked.name}; leave --variant out", 64)
    return Derived(variant, reference)


def _what_is_wrong(labels: Mapping[str, str], config: Mapping[str, Any]) -> str:
    """Return what keeps the image from being an agent and what mends it; empty when nothing does."""
    variables = dict(entry.split("=", 1) for entry in config.get("Env") or [])
    own = [f"ENV {name}" for name, value in VARIABLES.items() if variables.get(name) != value]
    own += ["ENTRYPOINT"] * (ENTRYPOINT not in (config.get("Entrypoint") or []))
    own += ["CMD"] * bool(config.get("Cmd"))
    own += ["HEALTHCHECK"] * (PROBE not in ((config.get("Healthcheck") or {}).get("Test") or []))
    protocol = labels.get(PROTOCOL_LABEL)
    if labels.get(VARIANT_LABEL) not in VARIANTS:
        return (
            f"is not made FROM magents/agent (it has no label {VARIANT_LABEL}), so there is no agent in it; "
            "begin its Dockerfile with `FROM magents/agent:latest`"
        )
    if own:
        return (
            f"has its own {' and '.join(own)}, so its supervisor would not run or not be seen; "
            "take that out of its Dockerfile and build it again"
        )
    if protocol != str(frames.VERSION):
        return (
            f"is made FROM another version of magents/agent (bridge protocol {protocol}, here {frames.VERSION}), "
            "so it would not reach the host's Claude Code; run `bin/invoke build` and build it again"
        )
    if str(config.get("User") or "").partition(":")[0] in ROOT_USERS:
        return "would run as root under `docker run`; end its Dockerfile with `USER 1000` and build it again"
    return ""

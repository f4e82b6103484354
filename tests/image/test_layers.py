"""The two images share their common layers."""

from __future__ import annotations

import docker
import pytest

from pipeline.build.image import VARIANTS
from tests.support import budgets


@pytest.fixture(scope="module")
def both(client: docker.DockerClient) -> dict[str, docker.models.images.Image]:
    present = {name: client.images.list(one.reference) for name, one in VARIANTS.items()}
    missing = [name for name, found in present.items() if not found]
    assert not missing, f"both images are needed; run `bin/invoke build.{missing[0]}`"
    return {name: found[0] for name, found in present.items()}


def test_development_has_every_layer_of_the_common_base(both: dict[str, docker.models.images.Image]) -> None:
    prod, dev = (both[name].attrs["RootFS"]["Layers"] for name in ("prod", "dev"))
    manifest_alone = 1
    assert len([layer for layer in prod if layer not in dev]) == manifest_alone


def test_development_is_little_larger(both: dict[str, docker.models.images.Image]) -> None:
    assert both["dev"].attrs["Size"] - both["prod"].attrs["Size"] <= budgets.DEV_ABOVE_PROD

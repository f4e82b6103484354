"""Information about an image: its bill of materials, and the difference between two images."""

from __future__ import annotations

import json
from pathlib import Path

import docker
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from pipeline.build.image import VARIANTS
from pipeline.release import difference, sbom
from tests.release.conftest import Invoke

PROD, DEV = (variant.reference for variant in VARIANTS.values())


@pytest.fixture(scope="module")
def bill(client: docker.DockerClient, images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sbom") / "prod.cdx.json"
    assert sbom.write(client, PROD, path) > 500
    return path


def test_bill_is_valid_and_names_every_kind(bill: Path, images: dict[str, str]) -> None:
    text = bill.read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    read = json.loads(text)
    urls = {component["purl"].split("@")[0] for component in read["components"]}
    assert {"pkg:deb/debian/git", "pkg:deb/debian/python3", "pkg:npm/npm", "pkg:npm/task-master-ai"} <= urls
    assert {"pkg:generic/node", "pkg:npm/pnpm", "pkg:npm/yarn", "pkg:npm/commander"} <= urls
    assert read["metadata"]["component"]["bom-ref"] == images["prod"]


def test_every_package_of_debian_names_its_distribution(bill: Path) -> None:
    urls = [component["purl"] for component in json.loads(bill.read_text())["components"]]
    of_debian = [PackageURL.from_string(url) for url in urls if url.startswith("pkg:deb/")]
    assert len(of_debian) > 100
    assert {url.qualifiers.get("distro") for url in of_debian} == {"debian-12"}


def test_bill_of_the_same_image_is_the_same(bill: Path, client: docker.DockerClient, tmp_path: Path) -> None:
    sbom.write(client, PROD, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == bill.read_bytes()


def test_difference_names_packages_and_sizes(client: docker.DockerClient, images: dict[str, str]) -> None:
    found = difference.compare(client, PROD, DEV)
    added = {change.name for change in found.packages if not change.old}
    assert {"gdb", "strace", "tcpdump"} <= added
    assert not [change for change in found.packages if not change.new]
    assert found.sizes[1] > found.sizes[0]
    assert sum(now - was for _, was, now in found.layers) == pytest.approx(found.sizes[1] - found.sizes[0], rel=0.01)


def test_image_does_not_differ_from_itself(client: docker.DockerClient, images: dict[str, str]) -> None:
    found = difference.compare(client, PROD, PROD)
    assert (found.packages, found.layers) == ([], [])


def test_difference_with_a_missing_image_is_one_line(invoke: Invoke, images: dict[str, str]) -> None:
    done = invoke("diff", PROD, "magents/agent:nosuch")
    assert done.returncode == 1
    assert "magents/agent:nosuch is not on this engine" in done.stderr
    assert "Traceback" not in done.stderr

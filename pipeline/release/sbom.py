"""The software bill of materials of an image, as CycloneDX 1.6."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

import docker
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from pipeline.build.image import Variant, require
from pipeline.files import replace
from pipeline.release.inventory import Package, image_of, packages

LABEL = "org.opencontainers.image"


def path_for(client: docker.DockerClient, variant: Variant, folder: Path) -> Path:
    """Return the path of a built variant's bill: `VARIANT-ARCHITECTURE.cdx.json` in `folder`."""
    require(client, variant)
    architecture = client.images.get(variant.reference).attrs["Architecture"]
    return folder / f"{variant.name}-{architecture}.cdx.json"


def write(client: docker.DockerClient, reference: str, path: Path) -> int:
    """Write the bill of `reference` to `path`. Returns the number of its components.

    The same image gives the same bytes.
    """
    found = packages(client, reference)
    image = image_of(client, reference)
    digest = str(image.id)
    bom = Bom(components=[_component(each) for each in found], serial_number=uuid5(NAMESPACE_URL, digest))
    bom.metadata.timestamp = datetime.fromisoformat(image.labels[f"{LABEL}.created"])
    bom.metadata.component = Component(
        name=image.labels[f"{LABEL}.title"],
        version=image.labels[f"{LABEL}.version"],
        type=ComponentType.CONTAINER,
        bom_ref=digest,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest.removeprefix("sha256:"))],
        properties=[
            Property(name=f"{LABEL}.revision", value=image.labels[f"{LABEL}.revision"]),
            Property(name="io.magents.variant", value=image.labels["io.magents.variant"]),
        ],
    )
    bom.register_dependency(bom.metadata.component, bom.components)
    text = JsonV1Dot6(bom).output_as_string(indent=1)
    replace(path, text + "\n")
    return len(found)


def _component(package: Package) -> Component:
    namespace, _, name = package.name.rpartition("/")
    qualifiers = {}
    if package.kind == "deb":
        # without `distro`, scanners that match by distribution find nothing
        namespace, qualifiers = "debian", {"arch": package.note, "distro": package.distribution}
    url = PackageURL(package.kind, namespace or None, name, package.version, qualifiers)
    licences = [LicenseFactory().make_from_string(package.note)] if package.note and package.kind == "npm" else []
    return Component(
        name=name,
        group=None if package.kind == "deb" else namespace or None,
        version=package.version,
        type=ComponentType.LIBRARY,
        purl=url,
        bom_ref=str(url),
        licenses=licences,
    )

"""Which images passed all their tests: `.tested/VARIANT.json`, written by a full run of `nox -s image_tests`.

`python -m pipeline.release.test_records VARIANT COMMAND ARG…` runs a command that tests the variant's image. It records
the image's id when the command ends with 0 and the variant is still that image.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime

import docker

from pipeline.bootstrap import engine
from pipeline.build.image import VARIANTS, Variant, require
from pipeline.errors import Problem
from pipeline.files import ROOT, replace

RECORDS = ROOT / ".tested"


def identity(client: docker.DockerClient, variant: Variant) -> str:
    """Return the id of the variant's image, which is the digest of its configuration: `sha256:…`."""
    require(client, variant)
    return str(client.images.get(variant.reference).id)


def record(variant: Variant, image_id: str) -> None:
    """Record that the image passed."""
    text = json.dumps({"image": image_id, "passed": datetime.now(UTC).isoformat(timespec="seconds")}) + "\n"
    replace(RECORDS / f"{variant.name}.json", text)


def passed(variant: Variant, image_id: str) -> bool:
    """Say whether exactly this image passed."""
    try:
        return bool(json.loads((RECORDS / f"{variant.name}.json").read_text())["image"] == image_id)
    except (OSError, ValueError, KeyError):
        return False


def main(variant: Variant, command: list[str]) -> int:
    """Run the tests. Record the image that they tested, unless only some of them were chosen."""
    with engine.connected() as client:
        before = identity(client, variant)
    code = subprocess.run(command).returncode
    if code == 0 and not os.environ.get("PYTEST_ADDOPTS"):
        with engine.connected() as client:
            if identity(client, variant) == before:
                record(variant, before)
    return code


if __name__ == "__main__":
    try:
        sys.exit(main(VARIANTS[sys.argv[1]], sys.argv[2:]))
    except Problem as problem:
        print(f"image_tests: {problem}", file=sys.stderr)
        sys.exit(problem.code)

"""Sign what was published: cosign with the workflow's own identity, without a key of ours."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from pipeline.build import passthrough
from pipeline.errors import Problem
from pipeline.release.push import Part


def attest(parts: Iterable[Part], bills: Path) -> None:
    """Sign each part by its digest and attach its bill of materials, `VARIANT-ARCH.cdx.json` in `bills`."""
    if not shutil.which("cosign"):
        raise Problem("cosign is not installed, so nothing is signed; see https://docs.sigstore.dev/cosign")
    for part in parts:
        bill = bills / f"{part.variant}-{part.architecture}.cdx.json"
        if not bill.is_file():
            raise Problem(
                f"{bill} is missing, so {part.variant} is not attested; run `bin/invoke sbom` where it was built"
            )
        name = f"{part.repository}@{part.digest}"
        for command in (
            ["cosign", "sign", "--yes", name],
            ["cosign", "attest", "--yes", "--type", "cyclonedx", "--predicate", str(bill), name],
        ):
            code, _ = passthrough.run(command, os.environ)
            if code:
                raise Problem(f"{name} was not signed: the lines above say why; it is safe to repeat")

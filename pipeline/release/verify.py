"""Ask a registry what it serves, through buildx: with Docker's own credentials, helpers and mirrors."""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from dataclasses import dataclass
from typing import Any

from pipeline.errors import Problem
from pipeline.release import faults


@dataclass(frozen=True)
class Manifest:
    """A manifest or an index from a registry: its own digest and its content."""

    digest: str
    content: dict[str, Any]

    @property
    def config(self) -> str | None:
        """The digest of the image's configuration, which the engine calls the image's id; None for an index."""
        found = self.content.get("config", {}).get("digest")
        return str(found) if found else None

    @property
    def parts(self) -> set[str]:
        """The digests of the manifests that an index joins."""
        return {str(part["digest"]) for part in self.content.get("manifests", [])}


def fetch(reference: str) -> Manifest:
    """Ask the registry for what `reference` names: `HOST/PATH:TAG` or `HOST/PATH@DIGEST`."""
    command = ["docker", "buildx", "imagetools", "inspect", "--raw", reference]
    for wait in (*faults.WAITS_S, None):
        done = subprocess.run(command, capture_output=True)
        if done.returncode == 0:
            return Manifest("sha256:" + hashlib.sha256(done.stdout).hexdigest(), json.loads(done.stdout))
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2].removeprefix("ERROR: ")
        fault = faults.find(last)
        if wait is None or not fault or not fault.passes:
            break
        time.sleep(wait)
    raise Problem(f"the registry does not serve {reference}: {fault.explain(reference) if fault else last}")

"""The sizes of the images, and how long a rebuild takes."""

from __future__ import annotations

import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import docker

from pipeline.build.image import VARIANTS
from tests.bench.figures import Figure
from tests.support import budgets

ROOT = Path(__file__).resolve().parents[2]
REBUILD_S = 2.0
REBUILD_CHANGED_S = 5.0


def measure(client: docker.DockerClient) -> Iterator[Figure]:
    """Measure the images' sizes, then rebuild production with nothing changed and with one Python file changed."""
    size = {name: client.images.get(one.reference).attrs["Size"] for name, one in VARIANTS.items()}
    yield Figure("prod, uncompressed", size["prod"] / budgets.MB, "MB", 740, 700)
    yield Figure("dev above prod", (size["dev"] - size["prod"]) / budgets.MB, "MB", 200)
    yield Figure("prod, compressed", compressed(client, VARIANTS["prod"].reference) / budgets.MB, "MB", 300)
    rebuild()
    yield Figure("rebuild, nothing changed", rebuild(), "s", REBUILD_S)
    touched = ROOT / "healthcheck" / "bench_probe.py"
    touched.write_text(f'"""Written by the bench at {time.time_ns()} and removed again."""\n')
    try:
        yield Figure("rebuild, one Python file changed", rebuild(), "s", REBUILD_CHANGED_S)
    finally:
        touched.unlink()
        rebuild()


def compressed(client: docker.DockerClient, reference: str) -> int:
    """Return the size in bytes of the image's archive under gzip's default level, as registries store it."""
    packer = zlib.compressobj(6, wbits=31)
    return sum(len(packer.compress(chunk)) for chunk in client.images.get(reference).save()) + len(packer.flush())


def rebuild() -> float:
    """Return the seconds that `invoke build.prod` takes, including its own start."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "invoke", "build.prod"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - begun

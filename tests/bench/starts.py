"""How long an agent takes to start, and to stop."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import docker

from pipeline.build.image import VARIANTS
from tests.bench.figures import Figure, paired, seconds

PAIRS = 10


def measure(client: docker.DockerClient) -> Iterator[Figure]:
    """Compare the time to `healthy` with a container that only runs `true`; then stop idle agents."""
    reference = VARIANTS["prod"].reference
    whole = ["docker", "run", "--rm", reference, "true"]
    healthy, run = paired(lambda: _until_healthy(client, reference), lambda: seconds(whole), PAIRS)
    yield Figure("healthy after `docker run -d` / `docker run --rm IMAGE true`", healthy / run, "x", 1.5)
    stops = sorted(_idle_stop(reference) for _ in range(5))
    yield Figure("idle `docker stop`", stops[2], "s", 0.5)


def _until_healthy(client: docker.DockerClient, reference: str) -> float:
    """Return the seconds from the start of `docker run -d` to the engine's event `healthy`."""
    events = client.events(decode=True, filters={"event": "health_status"})
    begun = time.monotonic()
    identity = _run(reference)
    try:
        for event in events:
            if event["id"] == identity and event["Action"].endswith("healthy"):
                return time.monotonic() - begun
    finally:
        events.close()
        subprocess.run(["docker", "rm", "-fv", identity], check=True, stdout=subprocess.DEVNULL)
    raise AssertionError("the engine's events ended")


def _idle_stop(reference: str) -> float:
    identity = _run(reference)
    there = "until tmux has-session 2>/dev/null; do :; done"
    subprocess.run(["docker", "exec", identity, "sh", "-c", there], check=True)
    taken = seconds(["docker", "stop", identity])
    subprocess.run(["docker", "rm", "-fv", identity], check=True, stdout=subprocess.DEVNULL)
    return taken


def _run(reference: str) -> str:
    command = ["docker", "run", "-d", "--label", "io.magents.test=bench", reference]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

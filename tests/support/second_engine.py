"""A Docker engine for one test, which may restart it.

It runs in its own network namespace: beside another engine it would delete that engine's bridge.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import docker.errors
import requests.exceptions

from tests.support.waiting import wait_until

START_S = 60
STOP_S = 60


class SecondEngine:
    """An engine with its own images and containers, below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"unix://{folder}/socket"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the engine and wait until it answers."""
        options = ["--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec", "--host", self.address]
        alone = ["--pidfile", f"{self.folder}/pid", "--iptables=false", "--ip6tables=false", "--bridge=none"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["unshare", "--net", "dockerd", *options, *alone], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_until(self.answers, START_S, f"the second engine to answer; see {self.folder}/log")

    def stop(self) -> None:
        """Stop the engine. `unshare` has become the engine's process, so the signal reaches it."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(STOP_S)

    def answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except (docker.errors.DockerException, requests.exceptions.RequestException):
            return False

    @contextmanager
    def client(self) -> Iterator[docker.DockerClient]:
        client = docker.DockerClient(base_url=self.address, version="auto")
        try:
            yield client
        finally:
            client.close()

    def copy_image(self, reference: str) -> None:
        """Copy an image from the usual engine."""
        with subprocess.Popen(["docker", "save", reference], stdout=subprocess.PIPE) as save:
            load = ["docker", "--host", self.address, "load", "--quiet"]
            subprocess.run(load, stdin=save.stdout, check=True, stdout=subprocess.DEVNULL)
        assert save.returncode == 0


@contextmanager
def second_engine() -> Iterator[SecondEngine]:
    """Run an engine until the block ends, then remove all that it held."""
    folder = Path(tempfile.mkdtemp(prefix="magents-engine-"))
    engine = SecondEngine(folder)
    try:
        engine.start()
        yield engine
    finally:
        engine.stop()
        shutil.rmtree(folder)

"""Debian's docker-registry as a test's own process, on loopback, with or without a password."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import bcrypt

from tests.support.waiting import wait_until

START_S = 20
USER, PASSWORD = "maintainer", "correct horse"


def install() -> None:
    """Install the registry's package where it is missing. This takes root on Debian or Ubuntu."""
    if shutil.which("docker-registry"):
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    subprocess.run(["apt-get", "update", "--quiet=2"], check=True, env=environment, stdout=subprocess.DEVNULL)
    install_it = ["apt-get", "install", "--yes", "--quiet=2", "--no-install-recommends", "docker-registry"]
    subprocess.run(install_it, check=True, env=environment, stdout=subprocess.DEVNULL)


class Registry:
    """A registry whose storage outlives its process."""

    def __init__(self, folder: Path, *, password: bool) -> None:
        self.folder = folder
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.host = f"localhost:{self.port}"
        (folder / "data").mkdir(parents=True)
        lines = [
            "version: 0.1",
            "log: {accesslog: {disabled: true}, level: warn}",
            f"storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}",
            f"http: {{addr: 127.0.0.1:{self.port}}}",
        ]
        if password:
            hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
            (folder / "htpasswd").write_text(f"{USER}:{hashed}\n")
            lines.append(f"auth: {{htpasswd: {{realm: test, path: {folder}/htpasswd}}}}")
        (folder / "config.yml").write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it listens."""
        with (self.folder / "log").open("ab") as log:
            command = ["docker-registry", "serve", str(self.folder / "config.yml")]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self._listens, START_S, f"the registry to listen; see {self.folder}/log")

    def _listens(self) -> bool:
        with closing(socket.socket()) as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        """Kill it at once, whatever it is doing."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(10)

    def stored_bytes(self) -> int:
        """Return how many bytes it has received so far, including unfinished uploads."""
        found = 0
        for folder, _, names in os.walk(self.folder / "data"):  # directories that are moved meanwhile are skipped
            for name in names:
                with suppress(FileNotFoundError):  # ignored because a finished upload is moved
                    found += (Path(folder) / name).stat().st_size
        return found


@contextmanager
def registry(folder: Path, *, password: bool = False) -> Iterator[Registry]:
    """Run a registry until the block ends. What it stored is removed."""
    install()
    running = Registry(folder, password=password)
    running.start()
    try:
        yield running
    finally:
        running.kill()
        shutil.rmtree(folder)

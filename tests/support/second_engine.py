"""Engines for one test: a second one of Docker, which may be restarted, one with userns-remap, a rootless one, Podman.

Docker's run in network namespaces of their own: beside another engine they would delete that engine's bridge. Those
that need users of their own see private copies of /etc/passwd and its kin, so that nothing of the machine is changed.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
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

PERSON, PERSONS_FIRST = 1500, 200_000
"""Who runs the rootless engine, and the first of the numbers that it has besides."""
REMAPPED_FIRST = 300_000
USERS = "remapped:x:1499:1499::/:/bin/false\nperson:x:1500:1500::/:/bin/sh\n"
GROUPS = "remapped:x:1499:\nperson:x:1500:\n"
NUMBERS = f"remapped:{REMAPPED_FIRST}:65536\nperson:{PERSONS_FIRST}:65536\n"

PRIVATE_ETC = """set -e
for file in passwd group subuid subgid; do mount --bind "$0/etc/$file" "/etc/$file"; done
mount --bind "$0/tun" /dev/net/tun
export LISTEN_PID=$$
exec "$@"
"""
"""Run in a mount namespace of its own, with the engine's folder as $0."""

TAKE = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_FDS'] = '1'; os.execvp(sys.argv[2], sys.argv[2:])"
)

PACKAGES = {"rootlesskit": "rootlesskit", "slirp4netns": "slirp4netns", "newuidmap": "uidmap", "podman": "podman",
            "bash": "bash", "zsh": "zsh", "fish": "fish"}  # fmt: skip
"""Debian's packages by a program of each."""
ROOTLESS = shutil.which("dockerd-rootless.sh") or "/usr/share/docker.io/contrib/dockerd-rootless.sh"


class SecondEngine:
    """An engine with its own images and containers, below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"unix://{folder}/socket"
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """Return what is run. Each program in it must become the next one, so that the signal to stop arrives."""
        return ["unshare", "--net", *self.dockerd(), "--bridge=none"]

    def dockerd(self) -> list[str]:
        """Return the engine's program with its folders."""
        options = ["--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec", "--host", self.address]
        return ["dockerd", *options, "--pidfile", f"{self.folder}/pid", "--iptables=false", "--ip6tables=false"]

    def start(self) -> None:
        """Start the engine and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = self.begin(log.fileno())
        wait_until(self.answers, START_S, f"the second engine to answer; see {self.folder}/log")

    def begin(self, log: int) -> subprocess.Popen[bytes]:
        """Start its process."""
        return subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def stop(self) -> None:
        """Stop the engine."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(STOP_S)

    def kill(self) -> None:
        """KILL the engine. What runs in its containers goes on."""
        assert self.process
        self.process.kill()
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


class RemappedEngine(SecondEngine):
    """An engine with userns-remap, which also answers at a TCP port of loopback, as a remote one does."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.remote = f"tcp://127.0.0.1:{self.listener.getsockname()[1]}"

    def command(self) -> list[str]:
        options = ["--bridge=none", "--userns-remap=remapped", "--host", "fd://"]
        return [*_private_etc(self.folder, "--net"), *self.dockerd(), *options]

    def begin(self, log: int) -> subprocess.Popen[bytes]:
        """Hand the engine the listener as systemd would: as descriptor 3. It stays in this network namespace."""
        number = self.listener.fileno()
        take = [sys.executable, "-c", TAKE, str(number), *self.command()]
        return subprocess.Popen(take, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[number])

    def stop(self) -> None:
        super().stop()
        self.listener.close()


class RootlessEngine(SecondEngine):
    """An engine that a person without root runs."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        install("rootlesskit", "slirp4netns", "newuidmap")
        self.address = f"unix://{folder}/run/docker.sock"
        for name in ("run", "home", "data"):
            (folder / name).mkdir()
            os.chown(folder / name, PERSON, PERSON)

    def command(self) -> list[str]:
        as_person = ["setpriv", f"--reuid={PERSON}", f"--regid={PERSON}", "--clear-groups"]
        own = [f"PATH={os.environ['PATH']}:/usr/sbin:/sbin", f"HOME={self.folder}/home"]
        place = f"XDG_RUNTIME_DIR={self.folder}/run"
        return [
            *_private_etc(self.folder),
            *as_person,
            "env",
            "-i",
            *own,
            place,
            ROOTLESS,
            f"--data-root={self.folder}/data",
        ]


class Podman(SecondEngine):
    """Podman's socket, with no image and no container behind it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        install("podman")

    def command(self) -> list[str]:
        places = ["--root", f"{self.folder}/data", "--runroot", f"{self.folder}/run", "--storage-driver=vfs"]
        return ["podman", *places, "system", "service", "--time=0", self.address]

    def stop(self) -> None:
        """End it at once: it would wait ten seconds for clients, and keeps nothing."""
        if self.process:
            self.process.kill()
            self.process.wait(STOP_S)


def install(*programs: str) -> None:
    """Install the packages of missing programs. This takes root on Debian or Ubuntu."""
    missing = [PACKAGES[program] for program in programs if not shutil.which(program)]
    if not missing:
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    apt = ["apt-get", "--quiet=2", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"]
    for words in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
        subprocess.run([*apt, *words], check=True, env=environment, stdout=subprocess.DEVNULL, timeout=600)


def _private_etc(folder: Path, *namespaces: str) -> list[str]:
    """Return the beginning of a command that sees users of its own, and a device for a network of its own."""
    etc = folder / "etc"
    etc.mkdir()
    for name, added in (("passwd", USERS), ("group", GROUPS), ("subuid", NUMBERS), ("subgid", NUMBERS)):
        (etc / name).write_text(Path("/etc", name).read_text() + added)
    os.mknod(folder / "tun", 0o020666, os.makedev(10, 200))
    (folder / "tun").chmod(0o666)
    return ["unshare", "--mount", "--propagation=private", *namespaces, "sh", "-c", PRIVATE_ETC, str(folder)]


@contextmanager
def second_engine(kind: type[SecondEngine] = SecondEngine) -> Iterator[SecondEngine]:
    """Run an engine until the block ends, then remove all that it held.

    Its folder is in memory, because removing an image's files from a disk takes 15 s.
    """
    folder = Path(tempfile.mkdtemp(prefix="magents-engine-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "magents-engine", str(folder)], check=True)
    try:
        engine = kind(folder)
        try:
            engine.start()
            yield engine
        finally:
            engine.stop()
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()

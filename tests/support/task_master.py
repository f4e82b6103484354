"""Task Master twice: bundled in the image, and as a plain install, under the same Node.

Upstream is installed once per lock, by the image's own npm, into .cache/task-master-upstream. It is mounted read-only
in a container of the same image.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import docker
from docker.models.containers import Container

from pipeline.build.image import ca_bundle
from tests.support.containers import LABEL, SESSION
from tests.support.task_master_cases import PLACE, Case

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = [ROOT / "docker" / "task-master" / name for name in ("package.json", "package-lock.json", ".npmrc")]
CACHE = ROOT / ".cache" / "task-master-upstream"
RUNNER = (Path(__file__).parent / "one_command.py").read_text()
COMMANDS = ("task-master", "task-master-mcp", "task-master-ai")

UPSTREAM = "/opt/upstream"
SHARED = "/shared/taskmaster/config.json"
DEFAULTS = Path(__file__).parent / "task_master_defaults.json"
"""Upstream's defaults for a project without a configuration. The image has another default."""

ENGINE_PATIENCE_S = 900
"""npm took 110 s for upstream on an idle machine, and one command may take the runner's whole limit."""


@dataclass(frozen=True)
class Outcome:
    """What a command did. `files` holds all paths below its root afterwards, with modes and contents."""

    code: int
    seconds: float
    stdout: str
    stderr: str
    files: Mapping[str, str]


class Side:
    """A container without network, in which commands run as the agent, each in its own directory."""

    def __init__(self, container: Container, path: str) -> None:
        self._container = container
        self._path = path

    def run(self, case: Case) -> Outcome:
        """Run a case. What an earlier run of it left is removed."""
        code, (stdout, stderr) = self._container.exec_run(
            ["python3", "-c", RUNNER, json.dumps(case.order())], environment={"PATH": self._path}, demux=True
        )
        assert code == 0, f"{case.name}: the runner ended with {code}: {(stderr or b'').decode()}"
        return Outcome(**json.loads(stdout))

    def say(self, *argv: str) -> str:
        """Return the output of a command that must succeed."""
        code, output = self._container.exec_run(list(argv), environment={"PATH": self._path})
        assert code == 0, f"{argv} ended with {code}: {output.decode()}"
        return str(output.decode().strip())


@contextlib.contextmanager
def side(image: str, upstream: Path | None = None, shared: Path | None = None) -> Iterator[Side]:
    """Run one side: `image` with its own Task Master or the one at `upstream`; `shared` is the shared configuration."""
    engine = docker.from_env(timeout=ENGINE_PATIENCE_S)
    path = str(dict(entry.split("=", 1) for entry in engine.images.get(image).attrs["Config"]["Env"])["PATH"])
    container = engine.containers.run(
        image,
        ["infinity"],
        entrypoint=["sleep"],
        init=True,
        detach=True,
        network_mode="none",
        tmpfs={PLACE: "mode=1777"},
        volumes={
            str(path): {"bind": where, "mode": "ro"} for path, where in ((upstream, UPSTREAM), (shared, SHARED)) if path
        },
        labels={LABEL: SESSION},
    )
    try:
        yield Side(container, f"{UPSTREAM}/bin:{path}" if upstream else path)
    finally:
        container.remove(force=True, v=True)
        engine.close()


# -- upstream's install -------------------------------------------------------------------------------------


def lock_hash() -> str:
    """Return the name of an install: a hash of all files that npm reads."""
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in MANIFEST)).hexdigest()[:16]


def install_upstream(image: str) -> Path:
    """Return a directory with bin/ and node_modules/: Task Master as npm installs it, with optional packages.

    The first call for a lock makes it. Parallel calls wait for that.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    finished = CACHE / lock_hash()
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.exists():
            _remove_others()
            half_made = CACHE / f"making-{os.getpid()}"
            _install(image, half_made)
            half_made.rename(finished)  # only a complete install gets the final name
    return finished


def _remove_others() -> None:
    for path in CACHE.iterdir():
        if path.is_dir():
            shutil.rmtree(path)


def _install(image: str, directory: Path) -> None:
    """Run `npm ci` in a container, as the owner of the cache; no scripts, which only set up other vendors' programs."""
    directory.mkdir()
    for path in MANIFEST:
        shutil.copy(path, directory)
    mounts = {str(directory): {"bind": UPSTREAM, "mode": "rw"}}
    environment = {"HOME": "/tmp"}
    if certificates := ca_bundle(None):
        mounts[str(certificates)] = {"bind": "/run/secrets/ca", "mode": "ro"}
        environment["NODE_EXTRA_CA_CERTS"] = "/run/secrets/ca"
    with contextlib.closing(docker.from_env(timeout=ENGINE_PATIENCE_S)) as engine:
        engine.containers.run(
            image,
            ["ci", "--ignore-scripts", "--loglevel=error", "--cache=/tmp/npm"],
            entrypoint=["npm"],
            working_dir=UPSTREAM,
            user=f"{os.getuid()}:{os.getgid()}",
            environment=environment,
            volumes=mounts,
            labels={LABEL: SESSION},
            remove=True,
        )
    (directory / "bin").mkdir()
    for command in COMMANDS:
        (directory / "bin" / command).symlink_to(f"../node_modules/.bin/{command}")

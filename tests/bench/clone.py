"""What clones of a large repository cost: 1 GB of objects that do not compress, and 50,000 files."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import docker

from pipeline.agents import clone
from pipeline.build.image import VARIANTS
from tests.bench.figures import Figure, paired, seconds

FILES, LARGE, LARGE_BYTES = 50_000, 100, 10 << 20
AGENTS, PAIRS = 20, 3


def measure(client: docker.DockerClient) -> Iterator[Figure]:
    """Compare clones for agents with a plain `git clone --no-hardlinks`, in time and in disk."""
    before = os.environ.get("CLAUDE_BRIDGE_STATE")
    root = Path(tempfile.mkdtemp(dir="/var/tmp"))
    os.environ["CLAUDE_BRIDGE_STATE"] = str(root / "bridge")
    try:
        root.chmod(0o755)
        yield from _measure(client, root)
    finally:
        if before is None:
            del os.environ["CLAUDE_BRIDGE_STATE"]
        else:
            os.environ["CLAUDE_BRIDGE_STATE"] = before
        shutil.rmtree(root)


def _measure(client: docker.DockerClient, root: Path) -> Iterator[Figure]:
    """Nothing is removed in between: the disk would still work on that while the next one is measured."""
    folder = root / "shop"
    _make(folder)
    used = _megabytes(root)
    names = (f"bench-{number}" for number in itertools.count())
    plains = (root / f"plain-{number}" for number in itertools.count())

    def plain() -> float:
        os.sync()
        return seconds(["git", "clone", "--quiet", "--no-hardlinks", str(folder), str(next(plains))])

    def ours() -> float:
        os.sync()
        return _clones(client, root, folder, [next(names)])[0]

    plain()
    plain_mb = _megabytes(root) - used
    ours_s, plain_s = paired(ours, plain, PAIRS)
    name = f"a clone for an agent ({ours_s:.1f} s) / plain `git clone --no-hardlinks`"
    yield Figure(name, ours_s / plain_s, "x", 3, goal=1)
    all_s, all_mb, beside_mb = _clones(client, root, folder, [next(names) for _ in range(AGENTS)])
    yield Figure(f"one of {AGENTS} ({all_s / AGENTS:.1f} s) / plain", all_s / AGENTS / plain_s, "x", 3, goal=1)
    yield Figure("its disk / that of the plain clone", all_mb / AGENTS / plain_mb, "x", 0.25)
    yield Figure("its disk beside the working tree", beside_mb / AGENTS, "MB", 20)


def _clones(client: docker.DockerClient, root: Path, folder: Path, names: list[str]) -> tuple[float, float, float]:
    """Make clones one after the other. Returns seconds, megabytes, and the megabytes beside their working trees."""
    used, begun = _megabytes(root), time.monotonic()
    owner = clone.owner_for(folder, as_root=False)
    reference = VARIANTS["prod"].reference
    made = [clone.make(client, reference, name, folder, owner, (), lambda _: None) for name in names]
    taken_s = time.monotonic() - begun
    megabytes = _megabytes(root) - used
    beside = [place for each in made for place in (each.store, each.workspace / ".git")]
    return taken_s, megabytes, _megabytes(folder, *beside) - _megabytes(folder)


def _make(folder: Path) -> None:
    """Make the repository. The large objects are in its history only."""
    subprocess.run(["git", "init", "--quiet", "--initial-branch", "main", str(folder)], check=True)
    command = ["git", "-C", str(folder), "-c", "core.compression=0", "fast-import", "--quiet"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin
        head = b"committer x <x@x> 0 +0000\ndata 1\nx\n"
        process.stdin.write(b"commit refs/heads/main\n" + head)
        for number in range(LARGE):
            process.stdin.write(b"M 100644 inline large/%d\ndata %d\n" % (number, LARGE_BYTES))
            process.stdin.write(os.urandom(LARGE_BYTES) + b"\n")
        process.stdin.write(b"commit refs/heads/main\n" + head + b"D large\n")
        for number in range(FILES):
            process.stdin.write(b"M 100644 inline d%d/%d\ndata 6\n%06d\n" % (number % 500, number, number))
    subprocess.run(["git", "-C", str(folder), "reset", "--quiet", "--hard"], check=True)


def _megabytes(*places: Path) -> float:
    """Return the disk of some trees. A file with several names counts once."""
    command = ["du", "--summarize", "--total", "--block-size=1", *map(str, places)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.splitlines()[-1].split()[0]) / 1e6

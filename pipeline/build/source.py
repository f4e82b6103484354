"""The source of an image: version, revision and time, all read from git."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.files import ROOT

UNTAGGED = "0.0.0"


@dataclass(frozen=True)
class Source:
    """`version` is semantic, `revision` a commit (with -dirty for a modified tree), `epoch_s` its commit time."""

    version: str
    revision: str
    epoch_s: int

    @property
    def created(self) -> str:
        """The commit's time as RFC 3339, the format of OCI labels."""
        return datetime.fromtimestamp(self.epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def describe() -> Source:
    """Return the source's facts. Outside of a git checkout (an unpacked archive) they are unknown."""
    revision = _git("rev-parse", "HEAD")
    if revision is None:
        return Source(f"{UNTAGGED}+unknown", "unknown", 0)
    dirty = "-dirty" if _git("status", "--porcelain", "--untracked-files=no") else ""
    described = _git("describe", "--tags", "--long", "--match", "v[0-9]*.[0-9]*.[0-9]*") or ""
    tagged = re.fullmatch(r"v(\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?)-(\d+)-g[0-9a-f]+", described)
    base, ahead = (tagged[1], int(tagged[2])) if tagged else (UNTAGGED, -1)
    version = base if ahead == 0 and not dirty else f"{base}+g{revision[:12]}{dirty}"
    return Source(version, revision + dirty, int(_git("log", "-1", "--format=%ct") or 0))


def releases() -> list[str]:
    """Return the versions that have git tags, pre-releases too, oldest first."""
    listed = _git("tag", "--list", "v[0-9]*.[0-9]*.[0-9]*", "--sort=version:refname") or ""
    return [name.removeprefix("v") for name in listed.splitlines()]


def _git(*arguments: str) -> str | None:
    # root may build from another user's clone, which git would refuse to read
    trusted = ["-c", f"safe.directory={ROOT}"]
    done = subprocess.run(["git", *trusted, "-C", str(ROOT), *arguments], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None

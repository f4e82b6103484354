"""Completion as a shell asks for it, where `docker` knows two agents."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from pipeline.files import ROOT

ENGINE = "#!/bin/sh\necho shop\necho cart-2\n"
AGENTS = ["cart-2", "shop"]


def with_docker(folder: Path, script: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "docker").write_text(script)
    (folder / "docker").chmod(0o755)
    return folder


def run(command: list[str], path: Path, folder: Path = ROOT, **variables: str) -> list[str]:
    env = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}", **variables}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    return done.stdout.splitlines()

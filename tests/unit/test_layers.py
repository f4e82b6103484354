"""The import contracts (pyproject.toml): they hold, and one import in the wrong direction breaks them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("agent", "bridge", "commands", "healthcheck", "pipeline")

WRONG = {
    "agent/main.py": "import tests",
    "healthcheck/http.py": "import pipeline.errors",
    "bridge/server/queue.py": "import healthcheck.http",
    "bridge/policy/flags.py": "import bridge.protocol.frames",
    "bridge/protocol/frames.py": "import bridge.client.connection",
    "bridge/client/executor.py": "import bridge.policy.flags",
    "bridge/server/sandbox/pipes.py": "import bridge.server.server",
    "bridge/client/handshake.py": "import yaml",
    "bridge/server/host/trees.py": "import bridge.server.call",
    "pipeline/files.py": "import invoke",
    "pipeline/build/image.py": "import pipeline.agents.ps",
    "healthcheck/check.py": "import agent.main",
}
"""One file of each package, and an import that it must not have."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("layers")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "tests").mkdir()
    (root / "tests" / "__init__.py").touch()
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


def check(root: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run([program, "--no-cache", "--no-logo"], cwd=root, capture_output=True, text=True, check=False)


def test_contracts_hold(copy: Path) -> None:
    done = check(copy)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", WRONG)
def test_import_the_wrong_way_breaks_a_contract(copy: Path, name: str) -> None:
    path = copy / name
    text = path.read_text()
    path.write_text(f"{text}\n{WRONG[name]}\n")
    try:
        done = check(copy)
    finally:
        path.write_text(text)
    importing, imported = name.removesuffix(".py").replace("/", "."), WRONG[name].removeprefix("import ")
    assert done.returncode == 1
    assert f"{importing} -> {imported}" in done.stdout

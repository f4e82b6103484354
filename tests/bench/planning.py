"""What the bridge adds to a Task Master run: the same run in a container and, with the same CLI, on the host alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import docker

from bridge.policy.environment import OWN
from pipeline.build.image import VARIANTS
from tests.bench.bridge import TIMED
from tests.bench.figures import Figure, paired
from tests.support import bridge_cli
from tests.support.bridge_box import Box
from tests.support.bridge_host import SECRET, bridge_host
from tests.support.containers import Agents
from tests.support.fake_messages_api import FakeMessagesApi
from tests.support.planner import DOCUMENT, planner

PAIRS = 5
PLAN = ["task-master", "parse-prd", "prd.md", "--num-tasks=6", "--force"]
TAKEN = {"usr/local/bin/node": "bin", "usr/local/lib/task-master": "."}
"""Taken from the image, so that both sides run the same files."""


def measure(client: docker.DockerClient) -> Iterator[Figure]:
    """Make tasks from a document, with the real CLI and a model that answers at once."""
    agents = Agents(VARIANTS["prod"].reference)
    cli = str(bridge_cli.installed(bridge_cli.NEWEST))
    with tempfile.TemporaryDirectory(prefix="bench-") as name, FakeMessagesApi(planner) as api:
        environment = {"ANTHROPIC_BASE_URL": api.url}
        with bridge_host(Path(name), claude=cli, environment=environment) as host:
            try:
                box = Box(agents, host.grant("bench"))
                (box.place.workspace / "prd.md").write_text(DOCUMENT)
                on_host = _host_side(Path(name) / "on-host", box.agent.id, cli)
                bridged, direct = paired(lambda: _in_box(box), lambda: _on_host(on_host, environment), PAIRS)
            finally:
                agents.close(show=False)
    name = f"`task-master parse-prd` over the bridge ({bridged:.2f} s) / on the host ({direct:.2f} s)"
    yield Figure(name, bridged / direct, "x", 1.25, 1.1)


def _in_box(box: Box) -> float:
    done = box.run("python3", "-c", TIMED, "all", *PLAN)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


def _host_side(where: Path, container: str, cli: str) -> Path:
    """Make a project and a folder of programs: Task Master and its Node from the image, and the host's CLI."""
    (where / "bin").mkdir(parents=True)
    (where / "project").mkdir()
    (where / "home").mkdir()
    (where / "project" / "prd.md").write_text(DOCUMENT)
    for path, target in TAKEN.items():
        subprocess.run(["docker", "cp", "-q", f"{container}:/{path}", str(where / target)], check=True)
    (where / "bin" / "task-master").symlink_to("../task-master/bin/task-master")
    (where / "bin" / "claude").symlink_to(cli)
    return where


def _on_host(where: Path, environment: dict[str, str]) -> float:
    shutil.rmtree(where / "project" / ".taskmaster", ignore_errors=True)
    own = {name.decode(): value.decode() for name, value in OWN.items()}
    quiet = {name: value for name, value in own.items() if name.startswith(("DISABLE_", "CLAUDE_CODE_"))}
    env = {
        "PATH": f"{where / 'bin'}:{os.environ['PATH']}",
        "HOME": str(where / "home"),
        "ANTHROPIC_API_KEY": SECRET,
        **quiet,
    }
    begun = time.monotonic()
    done = subprocess.run(
        PLAN,
        cwd=where / "project",
        env={**env, **environment, "TASKMASTER_SKIP_AUTO_UPDATE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    return time.monotonic() - begun

"""How fast Task Master starts, bundled in the image, beside upstream's plain install under the same Node."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

import docker

from pipeline.build.image import VARIANTS
from tests.bench.figures import Figure, paired
from tests.support import budgets
from tests.support.task_master import Side, install_upstream, side
from tests.support.task_master_cases import SETTINGS

PAIRS = 5
TASK = {"description": "x", "status": "pending", "dependencies": [], "subtasks": []}
TIMES = {"created": "2026-01-01T00:00:00Z", "updated": "2026-01-01T00:00:00Z", "description": "x"}
TASKS = {"master": {"tasks": [{"id": n, "title": f"Task {n}", **TASK} for n in range(1, 11)], "metadata": TIMES}}
# Runs a command in a project with ten tasks and prints its seconds, measured in the container.
TIMED = """
import os, pathlib, subprocess, sys, time
tasks = pathlib.Path("/parity/bench/.taskmaster/tasks/tasks.json")
tasks.parent.mkdir(parents=True, exist_ok=True)
tasks.write_text(sys.argv[1])
(tasks.parents[1] / "config.json").write_text(sys.argv[2])  # without one, upstream ends with 1
os.chdir("/parity/bench")
begun = time.monotonic()
subprocess.run(sys.argv[3:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
print(time.monotonic() - begun)
"""


def measure(_: docker.DockerClient) -> Iterator[Figure]:
    """Time two commands on both sides in turn; weigh the bundle."""
    reference = VARIANTS["prod"].reference
    with side(reference) as bundled, side(reference, install_upstream(reference)) as upstream:
        for command in ("--version", "list"):
            slow, fast = paired(partial(_seconds, upstream, command), partial(_seconds, bundled, command), PAIRS)
            name = f"upstream's `task-master {command}` ({slow:.2f} s) / ours ({fast:.2f} s)"
            yield Figure(name, slow / fast, "x", 3, 4, more_is_better=True)
        size = int(bundled.say("du", "-sb", "/usr/local/lib/task-master").split()[0])
    yield Figure("task-master bundle", size / budgets.MB, "MB", 30)


def _seconds(where: Side, command: str) -> float:
    project = json.dumps(TASKS), json.dumps(SETTINGS)
    return float(where.say("python3", "-c", TIMED, *project, "task-master", command))

"""How fast the image's bundled Task Master starts, compared with upstream's plain install under the same Node."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

import docker

from pipeline.build.image import VARIANTS
from tests.bench.figures import Figure, paired
from tests.support import budgets
from tests.support.task_master import Side, install_upstream, side
from tests.support.task_master_cases import PLACE, PROJECT

PAIRS = 5
# Runs a command in a project with ten tasks and prints its seconds, measured in the container.
TIMED = """
import json, os, pathlib, subprocess, sys, time
for name, text in json.loads(sys.argv[1]).items():
    path = pathlib.Path(sys.argv[2], name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
os.chdir(pathlib.Path(sys.argv[2], "project"))
os.environ["TASKMASTER_SKIP_AUTO_UPDATE"] = "1"
begun = time.monotonic()
done = subprocess.run(sys.argv[3:], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
print(time.monotonic() - begun)
if done.returncode:
    sys.exit(f"code {done.returncode}: {done.stdout.decode().strip()}")
"""


def measure(_: docker.DockerClient) -> Iterator[Figure]:
    """Time two commands on both sides alternately, and measure the bundle's size."""
    reference = VARIANTS["prod"].reference
    with side(reference) as bundled, side(reference, install_upstream(reference)) as upstream:
        for command in ("--version", "list"):
            slow, fast = paired(partial(_seconds, upstream, command), partial(_seconds, bundled, command), PAIRS)
            name = f"upstream's `task-master {command}` ({slow:.2f} s) / ours ({fast:.2f} s)"
            yield Figure(name, slow / fast, "x", 3, 4, more_is_better=True)
        size = int(bundled.say("du", "-sb", "/usr/local/lib/task-master").split()[0])
    yield Figure("task-master bundle", size / budgets.MB, "MB", 30)


def _seconds(where: Side, command: str) -> float:
    return float(where.say("python3", "-c", TIMED, json.dumps(PROJECT), f"{PLACE}/bench", "task-master", command))

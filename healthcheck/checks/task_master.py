"""`task-master`: the program is installed."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from healthcheck.check import FAIL, PASS, Check, Finding
from healthcheck.probe import Probe, ProbeError
from healthcheck.worker import Worker

if TYPE_CHECKING:
    from healthcheck.facts import AgentFacts

EVERY_S, DEADLINE_S = 60.0, 2.0

OF_IMAGE = "/usr/local/bin/task-master"


class TaskMasterCheck(Check):
    """Finds the program on PATH. Running it would cost 2 s of a core."""

    name = "task-master"

    def __init__(self, version: str) -> None:
        find_it = partial(Worker().call, partial(find, version))
        self._probe = Probe(self.name, find_it, every_s=EVERY_S, deadline_s=DEADLINE_S)
        self.probes = (self._probe,)

    def evaluate(self, agent: AgentFacts) -> Finding:
        """Return where it is, or what to do."""
        seen = self._probe.last
        if seen.value is None:
            return Finding(FAIL, seen.why_missing, seen.age_s)
        return Finding(PASS, seen.value, seen.age_s)


def find(version: str) -> str:
    """Return version and path of the program. Raises ProbeError."""
    path = shutil.which("task-master")
    if path is None:
        raise ProbeError("task-master is not on PATH; build the image anew with `invoke build`")
    if Path(path).resolve().stat().st_size == 0:
        raise ProbeError(f"{path} is empty; build the image anew with `invoke build`")
    if path != OF_IMAGE:
        return f"{path}, in place of the image's own"
    return f"{version} at {path}"

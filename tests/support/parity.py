"""Records for which Task Master all parity cases have been compared.

Once is enough for each lock and each change of its edits. `nox -s parity_tests -- --complete` compares all cases and
writes the proof into tests/support/parity.json, which is committed with the change that made it necessary. Where the
record is for something else, all cases are compared anyway.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tests.support.task_master_cases import CASES, Case, heart

ROOT = Path(__file__).resolve().parents[2]
PROOF = Path(__file__).with_name("parity.json")
OF_TESTS = [
    "tests/support/task_master_cases.py",
    "tests/support/one_command.py",
    "tests/image/test_task_master_parity.py",
]


def subject() -> str:
    """Return what the proof is for: a hash of the lock, the bundle's edits and the cases."""
    folder = ROOT / "docker" / "task-master"
    edits = sorted(path for path in folder.rglob("*") if path.is_file() and "node_modules" not in path.parts)
    whole = hashlib.sha256()
    for path in [*edits, *(ROOT / name for name in OF_TESTS)]:
        whole.update(f"{path.relative_to(ROOT)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


def is_proven() -> bool:
    """Say whether all cases have been compared for exactly this state."""
    try:
        return bool(json.loads(PROOF.read_text())["subject"] == subject())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def record() -> None:
    """Write the proof."""
    PROOF.write_text(json.dumps({"subject": subject(), "cases": len(CASES)}, indent=2) + "\n")


def chosen(complete: bool) -> list[Case]:
    """Return the cases to compare now."""
    return CASES if complete or not is_proven() else heart()

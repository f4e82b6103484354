"""What the plain CLI did in each project: hashes of the facts that the bridge has to show, in record.json.

An installed version does the same each time. So most projects run over the bridge alone. The plain CLI runs as well in
every fifth project; where a row is missing, or is of another version or of another project; and where the bridge does
not do what is recorded. `nox -s fidelity_tests -- --complete` runs it in all projects and writes the record, which is
committed with the change.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fidelity.differences import DIFFERENCES, REFUSALS
from tests.fidelity.facts import Facts

ROOT = Path(__file__).resolve().parents[2]
RECORD = Path(__file__).with_name("record.json")
DECIDES = (
    "tests/fidelity/differences.py",
    "tests/fidelity/facts.py",
    "tests/fidelity/projects.py",
    "tests/fidelity/record.py",
    "tests/fidelity/sides.py",
    "tests/support/agent_sdk",
    "tests/support/fake_messages_api.py",
    "requirements/agent-sdk.txt",
)
"""The files that decide what the plain CLI does in a project."""

EVERY = 5
SENTENCES = [row.what for row in (*DIFFERENCES, *REFUSALS)]
Row = dict[str, Any]


def recorded() -> dict[str, Any]:
    """Return the record: what it is of, and the rows by version of the CLI and name of the project."""
    found: dict[str, Any] = json.loads(RECORD.read_text())
    return found


def write(rows: dict[str, dict[str, Row]]) -> None:
    """Write the record."""
    RECORD.write_text(json.dumps({"of": of(), "rows": rows}, indent=1, sort_keys=True) + "\n")


def of() -> str:
    """Return what the record is of: a hash of the files that decide it."""
    whole = hashlib.sha256()
    for name in DECIDES:
        path = ROOT / name
        for file in sorted(path.glob("**/*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                whole.update(file.read_bytes())
    return whole.hexdigest()


def find(version: str, project: str) -> Row | None:
    """Return the row of a project. None if there is none, or if the record is of other files."""
    known = recorded()
    found: Row | None = known["rows"].get(version, {}).get(project) if known["of"] == of() else None
    return found


def row(calls: Sequence[Facts], seen: set[str]) -> Row:
    """Return the row of a project: its calls' facts, and which rows of the table of differences they need."""
    return {"facts": _hash(calls), "seen": " ".join(map(str, sorted(map(SENTENCES.index, seen))))}


def seen(found: Row) -> set[str]:
    """Return the rows of the table of differences that a project needs."""
    return {SENTENCES[int(number)] for number in found["seen"].split()}


def is_same(found: Row, calls: Sequence[Facts]) -> bool:
    """Return whether calls have the facts that are recorded."""
    return bool(found["facts"] == _hash(calls))


def _hash(calls: Sequence[Facts]) -> str:
    text = json.dumps(calls, sort_keys=True)
    today = datetime.datetime.now().astimezone().date().isoformat()
    for name, word in ((today, "<today>"), (platform.release(), "<kernel>"), (platform.version(), "<kernel>")):
        text = text.replace(name, word)
    return hashlib.sha256(text.encode()).hexdigest()[:32]

"""What a plain install of Task Master answered to each case: a hash of its normalised outcome, in parity.json.

An installed version always answers the same. So upstream, which needs 6 s a case and an install of 110 s, is asked only
about cases whose hash is missing, is of another lock, Node or case, or differs from what the bundle answered.
`nox -s parity_tests -- --complete` asks it about all cases and writes parity.json, which is committed with the change.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, replace
from pathlib import Path

from tests.support import task_master
from tests.support.task_master import Outcome, Side
from tests.support.task_master_cases import Case

RECORD = Path(__file__).with_name("parity.json")

NORMALISED: list[tuple[str, str]] = [
    # The time of the run, which Task Master writes into files. Times given by the test are of 2026-01-01 and stay.
    (r"(?!2026-01-01)20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<now>"),
    # The same in texts for people: "aliases added on 11/24/2026". The date given by the test is 1/1/2026.
    (r"\b(?!1/1/2026)\d\d?/\d\d?/20\d\d\b", "<today>"),
    # The program's own path, in the message about a package that neither side has.
    (
        r"/opt/upstream/node_modules/task-master-ai/dist/[\w.-]+|/usr/local/lib/task-master/lib/task-master\.cjs",
        "<program>",
    ),
]


def recorded() -> dict[str, dict[str, str]]:
    """Return the record: for each case what it was about (`of`) and what upstream answered (`outcome`)."""
    found: dict[str, dict[str, str]] = json.loads(RECORD.read_text())
    return found


def write(outcomes: dict[str, dict[str, str]]) -> None:
    """Write the record."""
    RECORD.write_text(json.dumps(outcomes, indent=1, sort_keys=True) + "\n")


def row(case: Case, node: str, upstream: Outcome) -> dict[str, str]:
    """Return the record's row of a case, under this version of Node."""
    return {"node": node, "of": of(case), "outcome": _hash("\n".join(lines(upstream)))}


def of(case: Case) -> str:
    """Return what an answer is about: a hash of the lock, the case, its runner and what is normalised."""
    return _hash(json.dumps([task_master.lock_hash(), task_master.RUNNER, case.order(), NORMALISED]))


def outcome(side: Side, case: Case) -> Outcome:
    """Run a case and normalise its outcome."""
    found = side.run(case)
    if case.dialogue:
        found = replace(found, stdout=_answers_first(found.stdout))
    text = json.dumps(asdict(found))
    for pattern, replacement in NORMALISED:
        text = re.sub(pattern, replacement, text)
    return Outcome(**json.loads(text))


def lines(outcome: Outcome) -> list[str]:
    """Return an outcome as lines, for people to compare. The time that it took is not part of it."""
    files = [f"{name}: {content}" for name, content in outcome.files.items()]
    text = [
        f"exit code {outcome.code}",
        "--- stdout",
        outcome.stdout,
        "--- stderr",
        outcome.stderr,
        "--- files",
        *files,
    ]
    return "\n".join(text).splitlines()


def _answers_first(dialogue: str) -> str:
    """Put an MCP server's answers first and sort the rest: a timer sends some notifications at random moments."""
    lines = dialogue.splitlines()
    answers = [line for line in lines if "id" in json.loads(line)]
    return "\n".join([*answers, *sorted(set(lines) - set(answers))])


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]

"""What bounds one grant: lines of the logs, slices of the loop, places for large frames, the host's disk."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bridge.policy import PolicyError, Scope
from bridge.protocol import Fields
from bridge.server.audit import BURST, KEPT, MAX_LINE, Audit, outline
from bridge.server.disk import SMALLEST, taken
from bridge.server.judge import answer, scope_as_json
from bridge.server.judges import Judges, is_small
from bridge.server.lanes import LARGE, PLACES, SLICE_S, Lane, Lanes
from bridge.server.saying import PER_MINUTE, Sayer

HANDS = Scope(hands=True, web=True, shares=("/data",))


# Logs


class Log:
    """An audit log whose clock stands still."""

    def __init__(self, directory: Path, size: int = 1 << 20) -> None:
        self.now = 0.0
        self.path = directory / "audit.jsonl"
        self.audit = Audit(self.path, size, Sayer(), lambda: self.now)

    def lines(self) -> list[dict[str, Any]]:
        paths = sorted(self.path.parent.glob("audit.jsonl*"), reverse=True)
        return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def test_lines_of_a_grant_beyond_its_measure_are_counted(tmp_path: Path) -> None:
    log = Log(tmp_path)
    for _ in range(1000):
        log.audit.write("refused", grant="a", why="x")
    assert len(log.lines()) == BURST[False]
    log.now += 2
    log.audit.settle()
    assert log.lines()[-1] | {"time": 0} == {
        "time": 0, "event": "suppressed", "grant": "a", "lines": {"refused": 1000 - BURST[False]},
    }  # fmt: skip


def test_lines_of_one_grant_take_none_from_another(tmp_path: Path) -> None:
    log = Log(tmp_path)
    for grant in ("a", "b"):
        for _ in range(1000):
            log.audit.write("refused", grant=grant)
    assert sum(line["grant"] == "b" for line in log.lines()) == BURST[False]


def test_lines_of_calls_have_a_measure_of_their_own(tmp_path: Path) -> None:
    log = Log(tmp_path)
    for _ in range(1000):
        log.audit.write("refused", grant="a")
    log.audit.write("asked", grant="a")
    assert log.lines()[-1]["event"] == "asked"


def test_line_has_an_end(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.audit.write("refused", grant="a", argv=["\U0001f600" * 100] * 100, why="\x1b" * 1_000_000)
    assert log.path.stat().st_size <= MAX_LINE
    assert log.lines()[0]["grant"] == "a"


def test_files_have_a_bound_and_the_newest_lines_are_kept(tmp_path: Path) -> None:
    log = Log(tmp_path, size=4096)
    for number in range(BURST[True]):
        log.audit.write("asked", grant="a", number=number)
    files = list(tmp_path.iterdir())
    assert len(files) == KEPT + 1
    assert max(path.stat().st_size for path in files) <= 4096
    assert log.lines()[-1]["number"] == BURST[True] - 1


def test_outline_shows_no_value_that_could_be_a_secret() -> None:
    assert outline(["--model", "sk-ant-api03-x", "--model=opus", "--session-id=mine", "-psecret"]) == [
        "--model", "<14>", "--model=opus", "--session-id=<4>", "<8>",
    ]  # fmt: skip


def test_server_says_so_many_lines_in_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    sayer = Sayer()
    for _ in range(1000):
        sayer.say("x\x1b" * 1000)
    said = capsys.readouterr().err
    assert said.count("\n") <= 2 * PER_MINUTE  # a minute may end in between
    assert "\x1b" not in said
    assert max(map(len, said.splitlines())) < 3000


def test_log_file_begins_anew_when_it_has_grown(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from bridge.server.saying import LogFile, MAX_LOG\n"
        "log = LogFile(Path(sys.argv[1])); os.write(2, b'x' * (MAX_LOG + 1)); log.settle(); os.write(1, b'new')"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "log")], check=True, cwd=Path(__file__).parents[2])
    assert (tmp_path / "log").read_text() == "new"
    assert (tmp_path / "log.1").stat().st_size > 1_000_000


# The loop


class Busy:
    """Has work without end; counts its turns."""

    def __init__(self) -> None:
        self.turns = 0

    def work(self, until: float) -> bool:
        self.turns += 1
        while time.monotonic() < until:
            pass
        return True


class Quick(Busy):
    def work(self, until: float) -> bool:
        self.turns += 1
        return False


def test_grant_with_a_hundred_workers_gets_one_slice_of_a_turn() -> None:
    async def play() -> tuple[int, int]:
        lanes, many, quick = Lanes(), [Busy() for _ in range(100)], Quick()
        for worker in many:
            lanes.add("many", worker)
        lanes.add("other", quick)
        await asyncio.sleep(0)
        return sum(worker.turns for worker in many), quick.turns

    assert asyncio.run(play()) == (1, 1)


def test_grant_that_has_done_little_is_served_at_once_and_then_waits_for_its_turn() -> None:
    async def play() -> list[int]:
        lanes, first, second = Lanes(), Quick(), Quick()
        lanes.add_first("a", first)
        lanes.add_first("a", second)
        before = [first.turns, second.turns]
        await asyncio.sleep(0)
        return [*before, second.turns]

    assert asyncio.run(play()) == [1, 0, 1]
    assert SLICE_S <= 0.001


class Looking:
    looked = 0

    def look(self) -> None:
        self.looked += 1


def test_connections_beyond_the_places_wait_until_one_is_free() -> None:
    lane, readers = Lane(), [Looking() for _ in range(PLACES + 1)]
    assert [lane.has_place(reader, LARGE + 1) for reader in readers] == [True] * PLACES + [False]
    assert lane.has_place(Looking(), LARGE)
    lane.leave(readers[0])
    assert readers[-1].looked == 1
    assert lane.has_place(readers[-1], LARGE + 1)


# Judges


def test_judge_says_what_the_loop_would_say() -> None:
    fields = Fields([("arg", b"-p"), ("arg", b"--add-dir"), ("arg", b"/else\xff"), ("cwd", b"/workspace")])
    found, passed = answer({"what": "call", "scope": scope_as_json(HANDS)}, fields.encode())
    assert (found["refused"], found["kind"], passed) == (
        "--add-dir: '/else\\udcff' is not shared with the host; only /workspace and the grant's shares are",
        "--add-dir: '...' is not shared with the host; only /workspace and the grant's shares are",
        b"",
    )


@pytest.mark.parametrize("fields", [
    [("arg", b"x" * 20_000)], [("arg", b"-c")] * 100, [("file", b".claude/agents/a.md\n---\na: b\n---\n")],
])  # fmt: skip
def test_what_takes_long_is_not_judged_on_the_loop(fields: list[tuple[str, bytes]]) -> None:
    assert not is_small(Fields(fields))


def test_ordinary_call_is_judged_on_the_loop() -> None:
    assert is_small(Fields([("arg", b"-p"), ("arg", b"hello"), ("memory", b"x" * 100_000)]))


def test_judge_that_dies_is_a_refusal_of_its_question_alone(tmp_path: Path) -> None:
    """`scope` without the field that every scope has makes it die."""

    async def play() -> bytes:
        judges = Judges(tmp_path)
        judges.start()
        try:
            could_not = pytest.raises(PolicyError, match="could not judge")
            with judges.file() as material, judges.file() as product, could_not:
                await judges._ask("a", {"what": "call"}, material, product)
            return await judges.call("a", Fields([("arg", b"-p"), ("arg", b"hi")]), HANDS)
        finally:
            judges.close()

    assert json.loads(asyncio.run(play()))["prompt"] == "hi"


# The disk


def test_disk_that_a_directory_takes(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "file").write_bytes(b"x" * 1_000_000)
    (tmp_path / "link").symlink_to("/usr")
    assert 1_000_000 <= taken(tmp_path) <= 1_100_000 + 4 * SMALLEST

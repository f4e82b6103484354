"""What limits one grant: log lines, time on the event loop, workers for large frames, space on the host's disk."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bridge.policy import PolicyError, Scope
from bridge.protocol.frames import Fields
from bridge.server.host.audit import (
    BURST_SHARE,
    DAY_S,
    DAY_SHARE,
    KEPT,
    LEAST_BURST,
    LEAST_PER_SECOND,
    LEAST_SIZE_FOR_A_DAY,
    MAX_LINE,
    MAX_OUTLINE,
    Audit,
    outline,
)
from bridge.server.host.config import Config
from bridge.server.host.disk_usage import OVER, SMALLEST, taken
from bridge.server.host.grants import StateError
from bridge.server.host.log import PER_MINUTE, ServerLog
from bridge.server.host.state_directory import StateDirectory
from bridge.server.host.trees import DIRECTORY, Removal, Walk
from bridge.server.policy_pool import PolicyPool, is_small
from bridge.server.policy_worker import answer, scope_as_json
from bridge.server.scheduler import LARGE, PLACES, SLICE_S, GrantSchedule, Scheduler
from tests.support.waiting import next_turn

WITH_COMMANDS = Scope(runs_commands=True, web=True, shares=("/data",))


# Logs


class Log:
    """An audit log whose clock is set by the test."""

    def __init__(self, directory: Path, size: int = 1 << 20) -> None:
        self.now = 0.0
        self.size = size
        self.path = directory / "audit.jsonl"
        self.audit = Audit(self.path, size, ServerLog(), lambda: self.now)

    def lines(self) -> list[dict[str, Any]]:
        paths = sorted(self.path.parent.glob("audit.jsonl*"), reverse=True)
        return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def test_lines_of_a_grant_beyond_its_measure_are_counted(tmp_path: Path) -> None:
    log = Log(tmp_path)
    for _ in range(2000):
        log.audit.write("refused", grant="a", why="x")
    written = len(log.lines())
    assert log.path.stat().st_size <= log.size * BURST_SHARE + MAX_LINE
    log.now += 60
    log.audit.settle()
    assert log.lines()[-1] | {"time": 0} == {
        "time": 0, "event": "suppressed", "grant": "a", "lines": {"refused": 2000 - written},
    }  # fmt: skip


def test_lines_of_one_grant_take_none_from_another(tmp_path: Path) -> None:
    log = Log(tmp_path)
    for grant in ("a", "b"):
        for _ in range(2000):
            log.audit.write("refused", grant=grant)
    written = [line["grant"] for line in log.lines()]
    assert abs(written.count("a") - written.count("b")) < 10  # the text of a time may be one character shorter
    assert "b" in written


def test_call_that_ran_is_logged_beside_many_refused(tmp_path: Path) -> None:
    """A call that is cancelled while it waits costs its grant nothing."""
    log = Log(tmp_path)
    for _ in range(2000):
        log.audit.write("asked", grant="a")
    log.audit.write("started", grant="a")
    assert log.lines()[-1]["event"] == "started"


def flood(log: Log, seconds: int, grants: int, step: int = 10) -> None:
    """Let each grant write all that it may: the longest possible lines of every kind, for `seconds`."""
    argv = outline(["--model=claude-" + "x" * 69] * 24)
    facts = {"client": "\\U000e0001" * 64, "argv": argv, "why": "x" * 300}
    for _ in range(seconds // step):
        for number in range(grants):
            for event in ("asked", "started", "refused"):
                for _ in range(4 if log.now else 4000):
                    log.audit.write(event, grant=f"flood-{number}", **facts)
        log.audit.settle()
        log.now += step


def test_audit_trail_outlives_a_working_day_of_floods(tmp_path: Path) -> None:
    """The call is at the end of a file, so that file is moved aside next. Larger files would hold it longer."""
    log = Log(tmp_path, LEAST_SIZE_FOR_A_DAY)
    filler = '{"event": "filler", "grant": "none"}\n'
    log.path.write_text(filler * ((LEAST_SIZE_FOR_A_DAY - 1000) // len(filler)))
    for event in ("asked", "started", "ended"):
        log.audit.write(event, grant="earlier", argv=["-p", "<5>"])
    before = log.path.stat().st_size
    flood(log, int(DAY_S), 4)
    lines = [line for path in tmp_path.iterdir() for line in path.read_text().splitlines() if '"earlier"' in line]
    assert [json.loads(line)["event"] for line in lines] == ["asked", "started", "ended"]
    flooded = sum(path.stat().st_size for path in tmp_path.iterdir()) - before
    assert flooded > 0.85 * KEPT * LEAST_SIZE_FOR_A_DAY, "the floods wrote nearly all that there is room for"


def test_default_size_holds_a_working_day_as_well() -> None:
    """Above the least size, the lines that a grant may write grow only with the size of the files."""
    assert Config.audit_size >= LEAST_SIZE_FOR_A_DAY
    assert LEAST_SIZE_FOR_A_DAY * BURST_SHARE >= LEAST_BURST
    assert LEAST_SIZE_FOR_A_DAY * DAY_SHARE / DAY_S >= LEAST_PER_SECOND


def test_outline_has_an_end_and_counts_the_rest() -> None:
    shown = outline(["--model=claude-" + "x" * 40] * 100)
    assert sum(map(len, shown)) <= MAX_OUTLINE + len(shown[-1])
    assert shown[-1] == f"<{100 - len(shown) + 1} more>"


def test_lines_of_calls_have_a_measure_of_their_own(tmp_path: Path) -> None:
    log = Log(tmp_path)
    for _ in range(2000):
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
    for number in range(1000):
        log.audit.write("asked", grant=f"a{number // 100}", number=number)
    files = list(tmp_path.iterdir())
    assert len(files) == KEPT + 1
    assert max(path.stat().st_size for path in files) <= 4096
    assert log.lines()[-1]["number"] == 999


def test_files_are_the_server_s_alone(tmp_path: Path) -> None:
    log = Log(tmp_path, size=4096)
    before = os.umask(0)
    try:
        for number in range(100):
            log.audit.write("asked", grant="a", number=number)
    finally:
        os.umask(before)
    files = list(tmp_path.iterdir())
    assert len(files) > 1
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_link_in_place_of_the_log_is_not_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "precious").write_text("kept")
    log = Log(tmp_path)
    log.path.symlink_to(tmp_path / "precious")
    log.audit.write("asked", grant="a")
    assert (tmp_path / "precious").read_text() == "kept"
    said = capsys.readouterr().err
    assert said.startswith(f"bridge: audit log {log.path}: ")
    assert said.endswith("; lines are lost, make room or name another in bridge.yaml\n")


def test_log_that_was_moved_away_begins_anew(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.audit.write("asked", grant="a", number=1)
    log.path.rename(tmp_path / "elsewhere")
    log.audit.write("asked", grant="a", number=2)
    assert [line["number"] for line in log.lines()] == [2]


def test_log_that_cannot_be_moved_aside_ends_no_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = Log(tmp_path, size=4096)
    (tmp_path / f"audit.jsonl.{KEPT}" / "x").mkdir(parents=True)
    for number in range(600):
        log.audit.write("asked", grant=f"a{number}")
    assert log.path.stat().st_size <= 4096
    assert "lines are lost" in capsys.readouterr().err


def test_full_disk_ends_no_call_and_lines_come_again_when_there_is_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], check=True)
    try:
        log = Log(tmp_path)
        (tmp_path / "filler").write_bytes(b"x" * 56 * 1024)
        for number in range(200):
            log.audit.write("asked", grant=f"a{number}", number=number)
        assert "No space left on device; lines are lost" in capsys.readouterr().err
        (tmp_path / "filler").unlink()
        log.path.unlink()
        log.audit.write("asked", grant="b", number=200)
        assert [line["number"] for line in log.lines()] == [200]
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_log_holds_no_descriptor_between_lines(tmp_path: Path) -> None:
    """The server makes a new log with each reload, and there are many grants."""
    log = Log(tmp_path)
    log.audit.write("asked", grant="a")
    held = [os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()]
    assert str(log.path) not in held


def test_outline_shows_no_value_that_could_be_a_secret() -> None:
    assert outline(["--model", "sk-ant-api03-x", "--model=opus", "--session-id=mine", "-psecret"]) == [
        "--model", "<14>", "--model=opus", "--session-id=<4>", "<8>",
    ]  # fmt: skip


def test_server_says_so_many_lines_in_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    server_log = ServerLog()
    for _ in range(1000):
        server_log.line("x\x1b" * 1000)
    said = capsys.readouterr().err
    assert said.count("\n") <= 2 * PER_MINUTE  # a new minute may have begun in between
    assert "\x1b" not in said
    assert max(map(len, said.splitlines())) < 3000


def test_log_file_begins_anew_when_it_has_grown(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from bridge.server.host.log import LogFile, MAX_LOG\n"
        "log = LogFile(Path(sys.argv[1])); os.write(2, b'x' * (MAX_LOG + 1)); log.settle(); os.write(1, b'new')"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "log")], check=True, cwd=Path(__file__).parents[2])
    assert (tmp_path / "log").read_text() == "new"
    assert (tmp_path / "log.1").stat().st_size > 1_000_000


# The loop


class Busy:
    """Always has more work. Counts its turns."""

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
        scheduler, many, quick = Scheduler(), [Busy() for _ in range(100)], Quick()
        for worker in many:
            scheduler.add("many", worker)
        scheduler.add("other", quick)
        await next_turn()
        return sum(worker.turns for worker in many), quick.turns

    assert asyncio.run(play()) == (1, 1)


def test_quiet_grant_is_served_at_once_then_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock stands still, because a busy machine may take longer between two lines than a grant has to rest."""
    monkeypatch.setattr("bridge.server.scheduler.time", SimpleNamespace(monotonic=lambda: 100.0))

    async def play() -> list[int]:
        scheduler, first, second = Scheduler(), Quick(), Quick()
        scheduler.add_first("a", first)
        scheduler.add_first("a", second)
        before = [first.turns, second.turns]
        await next_turn()
        return [*before, second.turns]

    assert asyncio.run(play()) == [1, 0, 1]
    assert SLICE_S <= 0.001


class Looking:
    looked = 0

    def look(self) -> None:
        self.looked += 1


def test_connections_beyond_the_places_wait_until_one_is_free() -> None:
    schedule, readers = GrantSchedule(), [Looking() for _ in range(PLACES + 1)]
    assert [schedule.has_place(reader, LARGE + 1) for reader in readers] == [True] * PLACES + [False]
    assert schedule.has_place(Looking(), LARGE)
    schedule.leave(readers[0])
    assert readers[-1].looked == 1
    assert schedule.has_place(readers[-1], LARGE + 1)


# Policy workers


def test_judge_says_what_the_loop_would_say() -> None:
    fields = Fields([("arg", b"-p"), ("arg", b"--add-dir"), ("arg", b"/else\xff"), ("cwd", b"/workspace")])
    found, passed = answer({"what": "call", "scope": scope_as_json(WITH_COMMANDS)}, fields.encode())
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
    """`scope` lacks a required field, which makes the worker fail."""

    async def play() -> bytes:
        pool = PolicyPool(tmp_path)
        pool.start()
        try:
            could_not = pytest.raises(PolicyError, match="could not judge")
            with pool.file() as material, pool.file() as product, could_not:
                await pool._ask("a", {"what": "call"}, material, product)
            return await pool.call("a", Fields([("arg", b"-p"), ("arg", b"hi")]), WITH_COMMANDS)
        finally:
            pool.close()

    kind, _, plan = asyncio.run(play()).partition(b"\n")
    assert (kind, json.loads(plan)["prompt"]) == (b"print", "hi")


# The disk


def test_disk_that_a_directory_takes(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "file").write_bytes(b"x" * 1_000_000)
    (tmp_path / "link").symlink_to("/usr")
    assert 1_000_000 <= taken(tmp_path) <= 1_100_000 + 4 * SMALLEST


@pytest.fixture
def tree() -> Iterator[Path]:
    """A directory that may become too deep for the removal of `tmp_path`."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name) / "tree"
        place.mkdir()
        try:
            yield place
        finally:
            subprocess.run(["rm", "-rf", place], check=True)


def deepen(directory: Path, name: str, levels: int) -> int:
    """Create nested directories. Returns the descriptor of the innermost one."""
    here = os.open(directory, DIRECTORY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    return here


def fill(directory: int, size: int) -> None:
    fd = os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=directory)
    with os.fdopen(fd, "wb") as file:
        file.write(b"x" * size)
    os.close(directory)


@pytest.mark.parametrize(("name", "levels"), [("a" * 200, 25), ("x", 1900), ("x", 4000)])
def test_file_is_counted_however_long_its_path(tree: Path, name: str, levels: int) -> None:
    fill(deepen(tree, name, levels), 5_000_000)
    assert taken(tree) >= 5_000_000 + levels * SMALLEST


def test_few_descriptors_are_open_at_any_depth(tree: Path) -> None:
    fill(deepen(tree, "x", 1900), 5_000_000)
    opened = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 10, limits[1]))
    try:
        assert taken(tree) >= 5_000_000
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_server_without_descriptors_says_nothing_of_the_disk(tree: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            taken(tree)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_directory_that_cannot_be_read_is_over_the_limit(tree: Path) -> None:
    """The test runs as another user, to whom the kernel denies access."""
    tree.parent.chmod(0o755)
    (tree / "closed").mkdir(mode=0o700)
    program = (
        "import sys; from pathlib import Path\n"
        "from bridge.server.host.disk_usage import taken; print(taken(Path(sys.argv[1])))"
    )
    words = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", sys.executable, "-c", program, str(tree)]
    done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, check=False)
    assert int(done.stdout) == OVER, done.stderr


class Moving(Walk):
    """Moves a directory away while the walk is inside it."""

    def __init__(self, directory: Path, to: Path) -> None:
        self.directory, self.to, self.begun = directory, to, 0

    def begin(self) -> None:
        self.begun += 1

    def entry(self, fd: int, name: str, found: os.stat_result) -> None:
        if name == "file" and not self.to.exists():
            self.directory.rename(self.to)


def test_walk_begins_anew_when_a_directory_is_moved(tree: Path) -> None:
    fill(deepen(tree, "x", 3), 1)
    walk = Moving(tree / "x" / "x", tree / "elsewhere")
    assert walk.run(tree)
    assert walk.begun == 2


def test_removal_follows_no_directory_that_was_moved(tree: Path) -> None:
    inside, outside = tree / "inside", tree / "outside"
    inside.mkdir()
    (outside / "x").mkdir(parents=True)
    fill(deepen(inside, "x", 3), 1)

    class Led(Removal):
        def entry(self, fd: int, name: str, found: os.stat_result) -> None:
            if name == "file":
                (inside / "x" / "x").rename(outside / "moved")
            super().entry(fd, name, found)

    assert Led().run(inside)
    assert sorted(path.name for path in outside.iterdir()) == ["moved", "x"]


# Removal


@pytest.mark.parametrize("where", ["private/alpha", "grants/alpha", "scratch/c1"])
def test_tree_of_any_depth_is_removed_and_no_link_in_it_followed(tree: Path, where: str) -> None:
    state = StateDirectory(tree / "state")
    state.prepare()
    (tree / "precious").write_text("kept")
    place = state.root / where
    place.mkdir(parents=True)
    fill(deepen(place, "a", 1900), 1)
    (place / "link").symlink_to(tree)
    state.forget("alpha")
    state.clean()
    assert not place.exists()
    assert (tree / "precious").read_text() == "kept"


def test_what_cannot_be_removed_is_one_line(tree: Path) -> None:
    state = StateDirectory(tree / "state")
    state.prepare()
    kept = state.root / "private" / "alpha" / "kept"
    kept.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", kept], check=True)
    try:
        (kept / "file").write_text("on another device")
        with pytest.raises(StateError, match=r"alpha kept is not gone; remove .*private/alpha \(.*busy\) by hand$"):
            state.forget("alpha")
        assert (kept / "file").exists()
    finally:
        subprocess.run(["umount", kept], check=True)


def test_grant_that_never_called_is_forgotten_without_a_word(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "state")
    state.prepare()
    state.forget("alpha")

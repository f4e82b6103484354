"""Parts of the supervisor against the real kernel: clock, children, /proc, state, events, volumes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import selectors
import signal
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import children, numbering, processes, scrollback, state_file, tmux, users, volumes
from agent.events import LONGEST_LINE, Events
from agent.pause_clock import PauseClockLoop
from agent.processes import own_container
from agent.shutdown import ProcessShutdown
from agent.waiting import first_of, new_future, set_once
from tests.support.waiting import next_turn, until

T = TypeVar("T")


def nobody(line: str) -> None:
    """Accept a line that no test checks."""
    raise AssertionError(line)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in an event loop like the supervisor's."""
    with contextlib.closing(PauseClockLoop()) as loop:
        return loop.run(coroutine)


# -- waiting ----------------------------------------------------------------------------------------------


def test_first_of_returns_when_one_is_done() -> None:
    async def main() -> bool:
        done: asyncio.Future[int] = new_future()
        set_once(done, 1)
        return await first_of(done, new_future(), timeout_s=60)

    assert run(main()) is True


@pytest.mark.parametrize("count", [0, 1])
def test_first_of_is_false_when_time_is_over(count: int) -> None:
    async def main() -> bool:
        return await first_of(*(new_future() for _ in range(count)), timeout_s=0.01)

    assert run(main()) is False


def test_who_is_cancelled_leaves_the_future_to_others() -> None:
    async def main() -> bool:
        shared = new_future()
        task = asyncio.ensure_future(first_of(shared))
        await next_turn()
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        return shared.done()

    assert run(main()) is False


def test_second_value_is_ignored() -> None:
    async def main() -> int:
        future: asyncio.Future[int] = new_future()
        set_once(future, 1)
        set_once(future, 2)
        return future.result()

    assert run(main()) == 1


# -- the loop ---------------------------------------------------------------------------------------------


def fault() -> None:
    raise ValueError("dead")


def test_error_in_a_callback_ends_the_run() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(fault)
        await asyncio.Event().wait()

    with pytest.raises(ValueError, match="dead"):
        run(main())


def test_error_of_a_task_that_nobody_awaits_ends_the_run() -> None:
    async def limb() -> None:
        fault()

    async def main() -> None:
        asyncio.ensure_future(limb())  # noqa: RUF006 - the test is about a task without a reference
        await asyncio.Event().wait()

    with pytest.raises(ValueError, match="dead"):
        run(main())


def test_accepting_without_descriptors_is_no_fault() -> None:
    async def main() -> int:
        context = {"message": "out of descriptors", "exception": OSError(24, "x"), "socket": None}
        asyncio.get_running_loop().call_exception_handler(context)
        await next_turn()
        return 1

    assert run(main()) == 1


def test_clock_stands_still_while_the_container_is_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[float] = []
    offset = 0.0
    real_time, real_select = time.monotonic, selectors.EpollSelector.select
    monkeypatch.setattr("agent.pause_clock.time.monotonic", lambda: real_time() + offset)

    def select(self: selectors.EpollSelector, timeout: float | None = None) -> Any:
        """Let an hour pass during the wait."""
        nonlocal offset
        if timeout:
            offset = 3600.0
        return real_select(self, timeout)

    monkeypatch.setattr(selectors.EpollSelector, "select", select)

    async def main() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, PauseClockLoop)
        loop.on_pause = paused.append
        before = loop.time()
        await asyncio.wait([loop.create_future()], timeout=0.01)
        return loop.time() - before

    assert 0.01 <= run(main()) < 1
    assert paused == [pytest.approx(3600, abs=1)]


# -- children ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("script", "code"), [("exit 3", 3), ("kill -9 $$", 137), ("true", 0)])
def test_child_gives_code_and_output(script: str, code: int) -> None:
    found = run(children.run(["sh", "-c", f"echo out; echo err >&2; {script}"], 5))
    assert (found.code, found.out, found.err) == (code, "out\n", "err\n")


def test_more_output_than_a_pipe_holds_does_not_block_the_child() -> None:
    found = run(children.run(["head", "-c", "1000000", "/dev/zero"], 10))
    assert (found.code, len(found.out)) == (0, 1_000_000)


def test_grandchild_that_keeps_the_output_open_is_not_waited_for() -> None:
    found = run(children.run(["sh", "-c", "sleep 1000 & echo $!"], 5))
    os.kill(int(found.out), signal.SIGKILL)
    assert found.code == 0


def test_slow_child_is_killed_and_reaped() -> None:
    with pytest.raises(children.TooSlowError):
        run(children.run(["sleep", "1000"], 0.1))
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_child_whose_waiter_was_cancelled_is_reaped() -> None:
    async def main() -> None:
        task = asyncio.ensure_future(children.run(["sleep", "0.2"], 5))
        own_children = Path(f"/proc/self/task/{os.getpid()}/children")
        await until(own_children.read_text, 5, "the child")
        task.cancel()
        await until(lambda: not own_children.read_text(), 5, "its end")

    run(main())
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_missing_program_is_an_oserror() -> None:
    with pytest.raises(FileNotFoundError):
        run(children.run(["no-such-program"], 1))


def test_child_has_default_signals() -> None:
    found = run(children.run(["grep", "SigIgn", "/proc/self/status"], 5))
    assert int(found.out.split()[1], 16) & (1 << (signal.SIGPIPE - 1)) == 0


# -- /proc and the stop ladder, with real processes --------------------------------------------------------


def test_name_with_brackets_and_blanks_is_read(tmp_path: Path) -> None:
    directory = tmp_path / "42"
    directory.mkdir()
    (directory / "stat").write_text("42 (a) b (c) S 7 42 42 0 -1 " + "0 " * 13 + "99 0 0")
    (directory / "status").write_text("Name:\tx\nSigIgn:\t0000000000004000\nSigCgt:\t0000000000000001\n")
    found = processes.living(str(tmp_path))[42]
    assert (found.comm, found.parent, found.session, found.started) == ("a) b (c", 7, 42, 99)
    assert found.ignores(signal.SIGTERM)
    assert not found.catches_term


def shut_down(script: str, grace_s: float) -> tuple[list[str], float]:
    """End one shell and its children; return what was killed and the seconds it took."""

    async def main() -> tuple[list[str], float]:
        reader, writer = os.pipe()
        pid = children.spawn(["bash", "-c", script], stdout=writer, own_session=True)
        os.close(writer)
        assert os.read(reader, 100).startswith(b"ready")
        ended = children.exit_of(pid)
        shutdown = ProcessShutdown(lambda all_: {p.pid for p in all_.values() if p.session == pid}, new_future())
        began = time.monotonic()
        report = await shutdown.run(grace_s)
        took = time.monotonic() - began
        assert await first_of(ended, timeout_s=5)
        os.close(reader)
        return report.killed, took

    return run(main())


def test_process_that_leaves_ends_the_wait() -> None:
    killed, took = shut_down("echo ready; exec sleep 1000", 30)
    assert killed == []
    assert took < 15


def test_process_that_cleans_up_is_not_asked_twice() -> None:
    clean_up = "n=$((n+1)); sleep 0.5; test $n = 1 && exit; kill -9 $$"
    script = f"n=0; trap '{clean_up}' TERM; echo ready; while :; do sleep 0.05; done"
    killed, took = shut_down(script, 30)
    assert killed == []
    assert 0.5 <= took < 15


def test_who_ignores_everything_is_killed_after_the_grace() -> None:
    killed, took = shut_down("trap '' TERM HUP INT; echo ready; while :; do sleep 0.05; done", 0.5)
    assert any(name.startswith("bash") for name in killed)
    assert 0.5 <= took < 15


# -- tmux's answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "quoted"), [("echo;", "echo\\;"), (";", ";"), ("a;b", "a;b"), ("", ""), ("x;;", "x;\\;")]
)
def test_word_that_ends_in_a_separator_is_quoted(text: str, quoted: str) -> None:
    assert tmux.word(text) == quoted


def listed(**values: str) -> tmux.Pane:
    row = dict.fromkeys(tmux.PANE_FIELDS, "") | {"window_index": "0", "pane_pid": "9"} | values
    return tmux.parse_pane("\t".join(row.values()))


def test_pane_that_closed_but_was_not_reaped_has_not_ended() -> None:
    pane = listed(pane_dead="1")
    assert (pane.has_closed, pane.exit_code) == (True, None)


@pytest.mark.parametrize(
    ("values", "code"),
    [({"pane_dead_status": "7"}, 7), ({"pane_dead_status": "0"}, 0), ({"pane_dead_signal": "9"}, 137)],
)
def test_pane_that_ended_has_its_code(values: dict[str, str], code: int) -> None:
    assert listed(pane_dead="1", **values).exit_code == code


def test_window_name_may_hold_a_tab() -> None:
    assert listed(window_name="a\tb").window_name == "a\tb"


# -- state ------------------------------------------------------------------------------------------------


def test_state_is_replaced_whole_and_leaves_no_litter(tmp_path: Path) -> None:
    file = state_file.StateFile(tmp_path / "state.json", nobody)
    file.write({"phase": "running"})
    file.write({"phase": "stopped"})
    assert file.read()["phase"] == "stopped"
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_state_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = state_file.StateFile(tmp_path / "state.json", nobody)
    file.write({"phase": "running"})

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("agent.files.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        file.write({"phase": "stopped"})
    assert file.read()["phase"] == "running"
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


@pytest.mark.parametrize(
    ("text", "lines"),
    [("", 1), ("{", 1), ("[]", 0), ("\x00" * 100, 1), ("\xff", 1), ("[" * 200_000, 1), ("9" * 9000, 1)],
)
def test_broken_state_is_no_obstacle(tmp_path: Path, text: str, lines: int) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(text.encode("latin1"))
    reported: list[str] = []
    assert state_file.StateFile(path, reported.append).read() == {}
    assert len(reported) == lines


@pytest.mark.parametrize("found", ["three", [1], {}, -1, 10**400, None, 1.5])
def test_count_of_cut_off_lives_is_always_a_number(found: object) -> None:
    assert state_file.times_cut_off({"cut_off": found}) == 0


@pytest.mark.parametrize(
    ("last", "told"),
    [({}, False), ({"phase": "stopped"}, False), ({"phase": "running"}, True), ({"phase": "stopping"}, True)],
)
def test_unclean_end_is_told(last: dict[str, str], told: bool) -> None:
    assert bool(state_file.how_it_ended(last)) is told


def test_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_file, "LOG_BYTES", 100)
    log = state_file.LogFile(tmp_path / "agent.log", nobody)
    for number in range(200):
        log.append(f"line {number:03}\n")
    assert len(list(tmp_path.iterdir())) == state_file.LOG_FILES
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= state_file.LOG_FILES * 120
    assert (tmp_path / "agent.log").read_text().endswith("line 199\n")


def test_volume_is_locked_for_one(tmp_path: Path) -> None:
    first = state_file.lock(tmp_path / "lock", nobody)
    assert first is not None
    assert state_file.lock(tmp_path / "lock", nobody) is None
    os.close(first)
    assert state_file.lock(tmp_path / "lock", nobody) is not None


def test_oldest_scrollback_goes_first(tmp_path: Path) -> None:
    for number in range(scrollback.KEPT_FILES + 5):
        (tmp_path / f"2026{number:04}-x.txt").touch()
    scrollback.forget_old(tmp_path)
    assert len(list(tmp_path.iterdir())) == scrollback.KEPT_FILES
    assert not (tmp_path / "20260004-x.txt").exists()


# -- events -----------------------------------------------------------------------------------------------


def told(form: str, text: str, **options: bool) -> str:
    reader, writer = os.pipe()
    Events(form, writer, **options).warning("test", text)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8", errors="replace") as file:
        return file.read()


@given(st.text(st.characters(blacklist_categories=["Cs"])))
def test_event_is_always_one_line_without_control_characters(text: str) -> None:
    for form in ("text", "json"):
        assert told(form, text).count("\n") == 1
        assert told(form, text)[:-1].isprintable()
    json.loads(told("json", text))


def test_long_event_is_cut_and_still_a_line() -> None:
    line = told("text", "x" * 10_000)
    assert len(line) == LONGEST_LINE + 1
    assert line.endswith("\n")


def test_stuck_reader_does_not_block_and_learns_of_the_loss() -> None:
    reader, writer = os.pipe()
    events = Events("text", writer)
    for _ in range(2000):
        events.info("test", "x" * 100)
    os.read(reader, 1 << 20)
    events.info("test", "again")
    rest = os.read(reader, 1 << 20).decode()
    assert "lines could not be written" in rest
    assert rest.endswith("again\n")


def test_commands_output_is_not_mixed_with_good_news() -> None:
    reader, writer = os.pipe()
    events = Events("text", writer, only_problems=True)
    events.info("test", "good")
    events.warning("test", "bad")
    os.close(writer)
    assert os.read(reader, 1000) == b"test: bad\n"


# -- volumes ----------------------------------------------------------------------------------------------

MOUNTS = """\
22 1 0:21 / / rw,relatime - overlay overlay ro,lowerdir=x
30 22 8:1 /v/_data /agent rw,relatime - ext4 /dev/sda1 rw
31 22 8:1 /w /workspace ro,relatime - ext4 /dev/sda1 rw
32 30 0:40 / /agent/run rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("path", "kind", "read_only", "is_volume"),
    [
        ("/agent", "ext4", False, True),
        ("/workspace", "ext4", True, True),
        ("/shared", "overlay", True, False),
        ("/agent/run/x", "tmpfs", False, False),
        ("/agentx", "overlay", True, False),
    ],
)
def test_mount_is_found(path: str, kind: str, read_only: bool, is_volume: bool) -> None:
    assert volumes.mount_of(path, MOUNTS) == volumes.Mount(kind, read_only, is_volume)


def test_looking_leaves_no_name(tmp_path: Path) -> None:
    found = volumes.observe(str(tmp_path), volumes.Mount("ext4", read_only=False, is_volume=True))
    assert found.problem == ""
    assert found.free > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("moved_to", "words"),
    [
        ("/w", ""),
        ("/w//deleted", "the folder that was removed there; type `bin/invoke up`"),
        ("/w.old", "the folder that was moved away there; type `bin/invoke up`"),
        ("/new\\040parent/w", "moved away"),
    ],
)
def test_folder_that_is_no_longer_where_it_was_is_noticed(moved_to: str, words: str) -> None:
    mount = volumes.mount_of("/workspace", MOUNTS)
    said = volumes.replacement("/workspace", mount, MOUNTS.replace("8:1 /w ", f"8:1 {moved_to} "))
    assert words in said
    assert bool(said) == bool(words)
    assert not said or "/workspace was replaced on the host" in said


# -- user namespaces --------------------------------------------------------------------------------------

HOSTS = "         0          0 4294967295\n"
ROOTLESS = "         0       1500          1\n         1     200000      65536\n"
REMAPPED = "         0     165536      65536\n"


@pytest.mark.parametrize(
    ("table", "owner", "remedy"),
    [
        (HOSTS, "0:0", "on the host run `sudo chown {me} DIRECTORY`"),
        (HOSTS, "1501:1020", "start the container with `--user 1501:1020`"),
        (HOSTS, "65534:65534", "start the container with `--user 65534:65534`"),
        (ROOTLESS, "0:0", "start the container with `--user 0:0`"),
        (
            ROOTLESS,
            "65534:65534",
            "on the host run `sudo chown 1500 DIRECTORY`, and start the container with `--user 0:",
        ),
        (REMAPPED, "1501:1020", "start the container with `--user 1501:1020`"),
        (REMAPPED, "65534:65534", "on the host run `sudo chown {mapped} DIRECTORY`"),
    ],
)
def test_workspace_of_another_user_has_a_remedy_that_helps(
    table: str, owner: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volumes, "_owner", lambda _path: owner)
    for name in ("of_users", "of_groups"):
        monkeypatch.setattr(numbering, name, lambda: numbering.Numbering.of(table))
    me = f"{os.getuid()}:{os.getgid()}"
    mapped = f"{165536 + os.getuid()}:{165536 + os.getgid()}"
    assert volumes.remedy("/workspace").startswith(remedy.format(me=me, mapped=mapped))


@pytest.mark.parametrize(("table", "warns"), [(HOSTS, True), (ROOTLESS, False), (REMAPPED, False)])
def test_root_is_warned_of_only_where_it_is_the_hosts(table: str, warns: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setattr(numbering, "of_users", lambda: numbering.Numbering.of(table))
    monkeypatch.setattr(users, "_target", lambda _link: Path("/nowhere/at/all"))
    said = users.introduce("/agent/home", print)
    assert bool(said) == warns


INIT = (
    f"run `docker run --rm --user 0 --volumes-from {own_container()} --entrypoint /usr/local/bin/init-volumes "
    "magents/agent "
)
FREE_SPACE = "free space in it, or give it a larger volume"


@pytest.mark.parametrize(
    ("number", "words", "remedy"),
    [
        (errno.ENOSPC, "/shared is full", FREE_SPACE),
        (errno.EDQUOT, "/shared is full", FREE_SPACE),
        (errno.EROFS, "/shared turned read-only", "see the host's kernel log"),
        (errno.EACCES, "/shared cannot be used by", INIT),
        (errno.EIO, "/shared is broken", "see the volume's driver and the host's kernel log"),
    ],
)
def test_trouble_is_told_with_what_to_do(number: int, words: str, remedy: str) -> None:
    mount = volumes.Mount("ext4", read_only=False, is_volume=True)
    text = volumes.sentence("/shared", OSError(number, os.strerror(number)), mount)
    assert text.startswith(words)
    assert f"; {remedy}" in text


# -- the container's own name -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mounts", "name"),
    [
        (
            f"274 253 254:0 /var/lib/docker/containers/{'0574db396a8d' + '1' * 52}/hostname /etc/hostname rw\n",
            "0574db396a8d",
        ),
        ("274 253 254:0 / / rw\n", os.uname().nodename),
    ],
)
def test_container_is_known_by_its_id_or_else_by_its_hostname(mounts: str, name: str) -> None:
    assert own_container(mounts) == name

"""Something else stands in place of a file that the supervisor keeps on /agent. Nothing waits or follows a link."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import scrollback, state_file, users
from agent.files import make_directory, open_plain, replace
from agent.pause_clock import PauseClockLoop
from agent.tmux import Pane, Tmux, TmuxError

Report = Callable[[str], None]
KINDS = ("fifo", "socket", "directory", "device", "dangling", "elsewhere")


def put(path: Path, kind: str) -> None:
    """Make a thing of a kind at a path."""
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            here = Path.cwd()
            os.chdir(path.parent)  # the name of a socket has to be short
            listener.bind(path.name)
            os.chdir(here)
    elif kind == "directory":
        path.mkdir()
        (path / "full").touch()
    else:
        target = {"device": "/dev/zero", "dangling": "nowhere", "elsewhere": "../elsewhere"}[kind]
        path.symlink_to(target)


def read_state(path: Path, report: Report) -> None:
    assert state_file.StateFile(path, report).read() == {}
    state_file.StateFile(path, report).write({"phase": "running"})


def write_state(path: Path, report: Report) -> None:
    state_file.StateFile(path, report).write({"phase": "running"})


def write_fresh_state(path: Path, report: Report) -> None:
    state_file.StateFile(path.with_name("state.json"), report).write({"phase": "running"})
    path.touch()  # state.json has replaced it


def lock(path: Path, report: Report) -> None:
    fd = state_file.lock(path, report)
    assert fd is not None
    os.close(fd)


def log(path: Path, report: Report) -> None:
    state_file.LogFile(path, report).append("line\n")


def oldest_log(path: Path, report: Report) -> None:
    full = path.with_name("agent.log")
    full.write_bytes(b"x" * (state_file.LOG_BYTES + 1))
    path.with_name(f"agent.log.{state_file.LOG_FILES - 2}").touch()
    state_file.LogFile(full, report).append("line\n")


def keep_scrollback(path: Path, report: Report) -> None:
    pane = Pane("$0", "agent", 0, "@0", 0, "bash", True, 0, "%0", 1, "bash", False, None)
    loop = PauseClockLoop()
    with (
        contextlib.closing(loop),
        pytest.raises(TmuxError),
    ):
        loop.run(scrollback.save(Tmux(), path.parent, pane, report, "stamp"))


def names(path: Path, report: Report) -> None:
    extra = path.parent.parent / "extrausers"
    extra.mkdir()
    for name in ("passwd", "group"):
        (extra / name).symlink_to(path.parent / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(users, "EXTRA", extra)
        users.introduce("/agent/home", report)
    replace(path.parent / "passwd", "agent:x:1000:1000::/agent/home:/bin/bash\n", report)
    path.touch()  # the new passwd file has replaced it


FILES: dict[str, tuple[str, Callable[[Path, Report], None]]] = {
    "state, read": ("state.json", read_state),
    "state, replaced": ("state.json", write_state),
    "state, written": (f".state.json.{os.getpid()}", write_fresh_state),
    "lock": ("lock", lock),
    "log": ("agent.log", log),
    "oldest log": (f"agent.log.{state_file.LOG_FILES - 1}", oldest_log),
    "scrollback": ("stamp-agent-0-bash-0.txt", keep_scrollback),
    "names": ("passwd", names),
    "names of groups": ("group", names),
    "names, written": (f".passwd.{os.getpid()}", names),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", FILES)
def test_wrong_kind_of_thing_is_moved_aside_with_one_line(tmp_path: Path, file: str, kind: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("another's")
    (tmp_path / "agent").mkdir()
    name, use = FILES[file]
    path = tmp_path / "agent" / name
    put(path, kind)
    lines: list[str] = []
    use(path, lines.append)
    assert (path.is_file(), path.is_symlink()) == (True, False)
    assert len(lines) == 1
    assert f"{path} is " in lines[0]
    assert len(list(path.parent.glob(f"{name}.aside-*"))) == 1
    assert elsewhere.read_text() == "another's"


@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "dangling", "elsewhere"])
def test_file_in_place_of_a_directory_is_moved_aside(tmp_path: Path, kind: str) -> None:
    (tmp_path / "elsewhere").touch()
    (tmp_path / "agent").mkdir()
    path = tmp_path / "agent" / "log"
    put(path, kind)
    lines: list[str] = []
    make_directory(path, 0o755, lines.append)
    assert (path.is_dir(), len(lines)) == (True, 1)


def test_link_to_a_directory_is_left_where_people_may_want_it(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "log").symlink_to("large")
    lines: list[str] = []
    make_directory(tmp_path / "log", 0o755, lines.append)
    assert ((tmp_path / "log").is_symlink(), lines) == (True, [])


def test_pipe_that_comes_between_look_and_opening_is_no_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.files.make_way", lambda _path, _report: None)
    os.mkfifo(tmp_path / "lock")
    with pytest.raises(OSError, match="no plain file"):
        open_plain(tmp_path / "lock", os.O_RDONLY, print)

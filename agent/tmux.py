"""The tmux server as a child in the foreground, and commands to it.

Special cases of tmux handled here: plain `tmux` starts a second server when the first does not listen yet (hence -N).
An argument that ends in `;` is read as a separator (hence `word`). A user's own configuration may end the session when
nobody is attached (hence the options that are set again after it was read). -D makes no new session, so Ctrl-C on
`docker run -it` would reach the server (hence own_session). A child of a server that has just ended may hold its socket
for a moment, and the next server would be a client of the dead one (hence the removal in `start_server`).
"""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agent import children
from agent.waiting import first_of

if TYPE_CHECKING:
    from collections.abc import Iterable

PROGRAM = "/usr/bin/tmux"
"""Not another one on PATH, which begins with the agent's home."""

ASK_DEADLINE_S = 1.5
"""A listing takes 4 ms. With this deadline and the interval of the check, health is right within 5 s."""
START_DEADLINE_S = 10.0
START_RETRY_S = 0.005

HOOKS = ("session-closed[3999]", "session-renamed[3999]")
"""The high index keeps the indexes of a user's own hooks free."""

PANE_FIELDS = (
    "session_id", "session_name", "session_attached", "window_id", "window_index", "window_active",
    "window_activity", "pane_id", "pane_pid", "pane_dead", "pane_dead_status", "pane_dead_signal",
    "pane_current_command", "window_name",
)  # fmt: skip


NO_SESSION = "no current target"
"""The error message of `list-panes -a` from a server without a session."""


class TmuxError(Exception):
    """The server is missing, hangs, or refuses."""


@dataclass(frozen=True)
class Pane:
    """One line of the listing. `exit_code` is None while its process lives."""

    session_id: str
    session: str
    attached: int
    window: str
    window_index: int
    window_name: str
    window_active: bool
    activity: int
    pane: str
    pid: int
    command: str
    has_closed: bool
    exit_code: int | None


class Tmux:
    """One server, started by the supervisor, on the socket in TMUX_TMPDIR."""

    def __init__(self) -> None:
        self.pid = 0
        self.ended: asyncio.Future[int] | None = None
        self._complaints = -1

    @property
    def is_up(self) -> bool:
        """Say whether the server's process lives."""
        return self.ended is not None and not self.ended.done()

    def start_server(self) -> None:
        """Start the server's process, on a new socket. Raises OSError when no process can be started."""
        socket_path().unlink(missing_ok=True)
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self.pid = children.spawn([PROGRAM, "-u", "-D"], stderr=writer, own_session=True)
        except OSError:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        if self._complaints >= 0:
            os.close(self._complaints)
        self._complaints = reader
        self.ended = children.exit_of(self.pid)

    async def send_first(self, *commands: Iterable[str]) -> str:
        """Send the first commands as soon as the server listens. Returns its answer. Raises TmuxError."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + START_DEADLINE_S
        while True:
            try:
                return await self.send(*commands)
            except TmuxError as error:
                if not self.is_up:
                    raise TmuxError(f"tmux server could not start: {self.complaint()}") from None
                if not is_not_there_yet(error) or clock() > deadline:
                    raise
            await asyncio.sleep(START_RETRY_S)

    async def send(self, *commands: Iterable[str], stdout: int | None = None) -> str:
        """Send all commands together, so that nothing happens between them. Returns the answer. Raises TmuxError."""
        argv = [PROGRAM, "-u", "-N"]
        for number, command in enumerate(commands):
            argv += [";"] * bool(number) + [word(w) for w in command]
        try:
            finished = await children.run(argv, ASK_DEADLINE_S, stdout)
        except children.TooSlowError as error:
            raise TmuxError(f"hung: {error}") from error
        except OSError as error:
            raise TmuxError(f"no process to ask tmux ({error.strerror}); see the pids limit") from error
        if finished.code != 0:
            raise TmuxError(finished.err.strip() or f"tmux {argv[3]} ended with {finished.code}")
        return finished.out

    async def panes(self) -> list[Pane]:
        """List every pane of every session. Raises TmuxError."""
        form = "\t".join(f"#{{{field}}}" for field in PANE_FIELDS)
        try:
            lines = (await self.send(["list-panes", "-a", "-F", form])).splitlines()
        except TmuxError as error:
            if str(error) == NO_SESSION:
                return []
            raise
        panes = [parse_pane(line) for line in lines]
        if any(pane.has_closed and pane.exit_code is None for pane in panes):
            self.remind_of_children()
        return panes

    def remind_of_children(self) -> None:
        """Make the server check for children that have ended.

        libutempter, which tmux calls for each new pane, takes SIGCHLD away for a moment. A child that ends then would
        stay a zombie.
        """
        if self.is_up:
            os.kill(self.pid, signal.SIGCHLD)

    def complaint(self) -> str:
        """Return what the server wrote to stderr."""
        try:
            return os.read(self._complaints, 1000).decode(errors="replace").strip() or "it says nothing"
        except BlockingIOError:
            return "it says nothing"

    async def end(self, patience_s: float) -> None:
        """End the server. The processes in it should have ended before."""
        for signum in (signal.SIGTERM, signal.SIGKILL):
            if self.ended is None or self.ended.done():
                return
            os.kill(self.pid, signum)
            await first_of(self.ended, timeout_s=patience_s)


def socket_path() -> Path:
    """Return the place of the server's socket. tmux makes its directory."""
    return Path(os.environ.get("TMUX_TMPDIR") or "/agent/run", f"tmux-{os.getuid()}", "default")


def is_not_there_yet(error: TmuxError) -> bool:
    """Say whether the error means that nothing listens on the socket yet."""
    return str(error).startswith(("error connecting", "no server running"))


def word(text: str) -> str:
    """Quote an argument that would otherwise end a command."""
    return f"{text[:-1]}\\;" if text.endswith(";") and text != ";" else text


def parse_pane(line: str) -> Pane:
    """Read one line of the listing. The window's name comes last because it may hold any character.

    tmux calls a pane dead when its terminal has closed, and that may be before its process was reaped. The process has
    ended only when the line has a status or a signal.
    """
    values = dict(zip(PANE_FIELDS, line.split("\t", len(PANE_FIELDS) - 1), strict=True))
    code: int | None = None
    if values["pane_dead"] == "1" and values["pane_dead_signal"]:
        code = 128 + int(values["pane_dead_signal"])
    elif values["pane_dead"] == "1" and values["pane_dead_status"]:
        code = int(values["pane_dead_status"])
    return Pane(
        session_id=values["session_id"],
        session=values["session_name"],
        attached=int(values["session_attached"] or 0),
        window=values["window_id"],
        window_index=int(values["window_index"]),
        window_name=values["window_name"],
        window_active=values["window_active"] == "1",
        activity=int(values["window_activity"] or 0),
        pane=values["pane_id"],
        pid=int(values["pane_pid"] or 0),
        command=values["pane_current_command"],
        has_closed=values["pane_dead"] == "1",
        exit_code=code,
    )

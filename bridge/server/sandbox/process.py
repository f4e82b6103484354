"""The process of one CLI: its start, its pipes or terminal, its signals, and the end of everything that it started."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path

from bridge.protocol.frames import MAX_DATA
from bridge.server.host import trees
from bridge.server.sandbox.bubblewrap import MARK, Command

KILL_AFTER_S = 1.0
"""Seconds from TERM to KILL for a cancelled call. All its processes must be gone within 2 s."""

MOST_PASSES = 50
"""Passes over /proc, some 5 ms each, until one finds nothing. Only a call that forks endlessly needs all of them."""

NAMED = {
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT,
}  # fmt: skip
"""Signals that a client may send."""


class CliProcess:
    """The process, its three pipes and its end. All callbacks come from the event loop."""

    def __init__(self, command: Command, with_stdin: bool, on_exit: Callable[[int], None]) -> None:
        """Start the command. Raises OSError if it cannot be started."""
        self._loop = asyncio.get_running_loop()
        self._command = command
        self._on_exit = on_exit
        self._first: int | None = None
        self._cli: int | None = None
        """A pidfd of the CLI's process, once it is known. It is kept because thousands of signals may come."""
        self._reported = b""
        self._kill_timer: asyncio.TimerHandle | None = None
        uid, gid = command.identity or (None, None)
        self._terminal: int | None = None
        theirs: int | None = None
        pipe = subprocess.PIPE if with_stdin else subprocess.DEVNULL
        try:
            if command.terminal:
                self._terminal, theirs = pty.openpty()
            self._process = subprocess.Popen(
                command.argv,
                env=command.env,
                cwd=command.directory,
                stdin=pipe if theirs is None else theirs,
                stdout=subprocess.PIPE if theirs is None else theirs,
                stderr=subprocess.PIPE,
                pass_fds=command.descriptors,
                start_new_session=True,
                user=uid,
                group=gid,
                extra_groups=None if uid is None else [],
            )
        except OSError:
            self._forget()
            raise
        finally:
            command.close()
            if theirs is not None:
                os.close(theirs)
        self.pid = self._process.pid
        try:
            self._pidfd = os.pidfd_open(self.pid)
            self.stdin, self.stdout, self.stderr = self._pipes()
        except OSError:  # no descriptors are left
            self.kill()
            self._process.wait()
            self._forget()
            raise
        self._loop.add_reader(self._pidfd, self._reap)

    def _pipes(self) -> tuple[int | None, int, int]:
        """Return our ends as non-blocking descriptors, with a capacity of a whole frame. Raises OSError."""
        if self._terminal is not None:
            assert self._process.stderr is not None
            ours = os.dup(self._terminal), os.dup(self._terminal), os.dup(self._process.stderr.fileno())
            self._process.stderr.close()
            for mine in ours:
                os.set_blocking(mine, False)
            return ours
        fds: list[int | None] = []
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            fd = None if stream is None else os.dup(stream.fileno())
            if stream is not None and fd is not None:
                stream.close()
                os.set_blocking(fd, False)
                with contextlib.suppress(OSError):  # ignored because a smaller pipe is only slower
                    fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, MAX_DATA)
            fds.append(fd)
        stdin, stdout, stderr = fds
        if stdout is None or stderr is None:
            raise OSError("the process has no pipes")
        return stdin, stdout, stderr

    # Signals

    def signal(self, number: int) -> None:
        """Send a signal to the CLI itself, as a terminal or a parent process would."""
        if number not in NAMED:
            return
        if self._cli is None:
            self._cli = self._find_cli()
        if self._cli is None:
            self._signal(self.pid, number)
            if self._command.status is not None and number != signal.SIGCONT:
                self._kill_namespace()
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._cli, number)

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of the terminal. The kernel sends WINCH to the CLI."""
        if self._terminal is not None:
            fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def terminate(self, grace: float = KILL_AFTER_S) -> None:
        """End the CLI with TERM, and with KILL after `grace` seconds. Called again, it can only shorten that."""
        if self._kill_timer is None:
            self.signal(signal.SIGTERM)
        elif self._kill_timer.when() <= self._loop.time() + grace:
            return
        else:
            self._kill_timer.cancel()
        self._kill_timer = self._loop.call_later(grace, self.kill)

    def kill(self) -> None:
        """Kill the CLI and everything that it started."""
        if self._command.status is None:
            self._signal(self.pid, signal.SIGKILL)
        else:
            self._kill_namespace()
        self._kill_marked()

    def _kill_namespace(self) -> None:
        """Kill the first process of the namespace, or the one that would become it.

        Alone, it would wait or run for ever: bubblewrap lets it watch for the end of its parent only later. Until it is
        reported, it waits in the process group of bubblewrap.
        """
        first = self._namespace_first()
        if first is not None:
            self._signal(first, signal.SIGKILL)
        elif self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def _find_cli(self) -> int | None:
        """Return a pidfd of the CLI's process: the only child of the namespace's first process. Returns None if
        there is none yet."""
        first = self._namespace_first()
        if first is None:
            return None
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
            if children:
                return os.pidfd_open(int(children[0]))
        return None

    def _namespace_first(self) -> int | None:
        """Return the first process of the namespace, as bubblewrap reports it. All others die with it."""
        self._listen()
        if self._first is None and b"\n" in self._reported:
            self._first = int(json.loads(self._reported.split(b"\n")[0])["child-pid"])
        return self._first

    def _listen(self) -> None:
        """Read what bubblewrap has reported so far: one JSON object per line."""
        if self._command.status is not None:
            os.set_blocking(self._command.status, False)
            with contextlib.suppress(BlockingIOError):
                self._reported += os.read(self._command.status, 4096)

    @property
    def never_ran(self) -> bool:
        """Whether bubblewrap failed before it started the CLI. Valid once the process has ended."""
        return self._command.status is not None and b'"exit-code"' not in self._reported

    @staticmethod
    def _signal(pid: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            try:
                signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)

    # The end

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        if self._kill_timer:
            self._kill_timer.cancel()
        code = self._process.wait()
        first = self._namespace_first()
        if code < 0 and first is not None and _is_first_of_a_namespace(first):
            self._signal(first, signal.SIGKILL)  # bubblewrap was killed while it reported
        self._kill_marked()
        self._on_exit(code)
        self._forget()

    def _kill_marked(self) -> None:
        """Without a namespace, kill what the CLI started: every process of the call carries a mark in its
        environment.

        This is repeated, because a process may have forked after the list was made.
        """
        mark = self._command.env.get(MARK)
        if mark is None:
            return
        for _ in range(MOST_PASSES):
            if not self._kill_listed(MARK + b"=" + mark):
                return

    def _kill_listed(self, needle: bytes) -> bool:
        """Kill all processes that have this variable. Returns whether there could be more now."""
        more = False
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if needle in (entry / "environ").read_bytes().split(b"\0"):
                    more = True
                    self._signal(int(entry.name), signal.SIGKILL)
            except (FileNotFoundError, ProcessLookupError):
                more = True  # it has exited since the list was made, and may have left a child
            except PermissionError:
                continue
        return more

    def _forget(self) -> None:
        if self._cli is not None:
            os.close(self._cli)
            self._cli = None
        if self._command.status is not None:
            os.close(self._command.status)
            self._command.status = None
        if self._terminal is not None:
            os.close(self._terminal)
            self._terminal = None
        if self._command.scratch is not None:
            trees.remove(self._command.scratch)  # ignored if it fails, because the next server removes it


def _is_first_of_a_namespace(pid: int) -> bool:
    """Say whether a process has the number 1 in a namespace of its own. Another one may have got its number here."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    return any(line.startswith("NSpid:") and line.split()[2:] == ["1"] for line in lines)

"""`docker run IMAGE COMMAND`: runs the command as a job in the foreground.

The command gets its own process group and the terminal, as from a shell. So Ctrl-C reaches only the command, and an
interactive shell has job control. No shell above it could continue it, so when the terminal stops it, it is continued
at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

from agent.children import IGNORED_BY_PYTHON, exit_of
from agent.waiting import new_future

NOT_EXECUTABLE = 126
NOT_FOUND = 127

TERMINAL = 0
STOPS_OF_THE_TERMINAL = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)


class CannotRunError(Exception):
    """The command could not be started. `code` is the exit code that a shell would use."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class Command:
    """The one command of the container."""

    def __init__(self, argv: list[str]) -> None:
        self._argv = argv
        self.pid = 0
        self.started = asyncio.Event()
        self.ended: asyncio.Future[int] = new_future()

    @property
    def has_ended(self) -> bool:
        """Say whether it was started and its exit code is known."""
        return self.ended.done()

    def start(self) -> None:
        """Start the command. Raises CannotRunError."""
        try:
            self.pid = os.posix_spawnp(self._argv[0], self._argv, os.environ, setpgroup=0, setsigdef=IGNORED_BY_PYTHON)
        except FileNotFoundError:
            raise CannotRunError(NOT_FOUND, f"{self._argv[0]}: command not found") from None
        except OSError as error:
            raise CannotRunError(NOT_EXECUTABLE, f"{self._argv[0]}: {error.strerror}") from None
        self.ended = exit_of(self.pid)
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._continue_if_stopped)
        self._give_terminal(self.pid)
        self.started.set()

    def pass_on(self, signum: int) -> None:
        """Pass on a signal that is meant for the command, such as HUP or USR1."""
        if self.pid and not self.has_ended:
            os.kill(self.pid, signum)

    def _continue_if_stopped(self) -> None:
        with contextlib.suppress(ChildProcessError):  # ignored because it has been reaped
            found = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG)
            if found is not None and found.si_status in STOPS_OF_THE_TERMINAL:
                self._give_terminal(self.pid)

    def _give_terminal(self, group: int) -> None:
        """Make it the terminal's foreground group, then continue it: it may have been stopped for not being that."""
        if not os.isatty(TERMINAL):
            return
        old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        try:
            with contextlib.suppress(OSError):  # ignored because the terminal may not be our controlling one
                os.tcsetpgrp(TERMINAL, group)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old)
        with contextlib.suppress(ProcessLookupError):  # ignored because it has ended already
            os.killpg(group, signal.SIGCONT)

"""Git on this machine, in a person's repository. It runs nothing that the repository's own settings or files name.

An agent may have written to the repository before. So no hook, file system monitor, filter, helper or pager of its
settings runs, and no settings of the person or of the machine count. Started by root, git runs as the repository's
owner. It never runs in a directory that an agent can write at that moment.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pipeline.agents.logs import plain
from pipeline.errors import Problem

NO_GIT = "git is not installed on this machine, and clones of agents need it; install git"
USUAL_S = 120
MAX_MEMORY = 2 << 30
"""Bytes of its own memory for one git. A pack can ask for any amount."""
MAX_OUTPUT = 1 << 28
"""Bytes that one git prints. A small pack can hold a tree of any size."""
MAX_SAID = 1 << 16
"""Bytes of git's errors that are kept."""

NEVER = {
    "core.fsmonitor": "false",
    "core.hooksPath": "/dev/null",
    "core.alternateRefsCommand": "true",
    "core.attributesFile": "/dev/null",
    "core.pager": "cat",
    "core.sshCommand": "false",
    "core.askPass": "true",
    "credential.helper": "",
    "diff.external": "",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "submodule.recurse": "false",
    "fetch.recurseSubmodules": "false",
    "fetch.writeCommitGraph": "false",
    "push.recurseSubmodules": "no",
    "push.gpgSign": "false",
    "log.showSignature": "false",
    "safe.directory": "*",
    # a large object is streamed, and a pack is mapped in parts
    "core.bigFileThreshold": "16m",
    "core.packedGitWindowSize": "32m",
    "core.packedGitLimit": "256m",
}
"""Settings that win over those of the repository."""


@dataclass(frozen=True)
class User:
    """A user and group of this machine."""

    uid: int
    gid: int

    @classmethod
    def owning(cls, path: Path) -> User:
        """Return the owner of a file or directory."""
        found = path.lstat()
        return cls(found.st_uid, found.st_gid)

    @property
    def switch(self) -> dict[str, Any]:
        """What `subprocess` needs to run a program as this user. Only root can switch."""
        if os.geteuid() != 0 or self.uid == 0:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


class GitError(Problem):
    """Git failed. The text is the line that says why."""


@dataclass(frozen=True)
class Git:
    """Git in one repository."""

    where: Path
    user: User
    """Who runs it: the repository's owner."""

    @classmethod
    def of(cls, where: Path) -> Git:
        """Return git in a directory, as its owner."""
        return cls(where, User.owning(where))

    def run(
        self,
        *arguments: str,
        allow: str = "",
        settings: Sequence[str] = (),
        limit_s: float = USUAL_S,
        given: bytes = b"",
        limit: int = MAX_OUTPUT,
    ) -> bytes:
        """Return what git prints. Raises GitError, also after `limit_s` seconds and after `limit` bytes.

        `allow` names a protocol. Each of `settings` is NAME=VALUE. Git reads `given`.
        """
        process = self.start(arguments, allow=allow, settings=settings)
        assert process.stdin
        assert process.stdout
        with ending(process, limit_s) as ended:
            threading.Thread(target=_give, args=[process.stdin, given], daemon=True).start()
            output: bytes = process.stdout.read(limit + 1)
            if len(output) > limit:
                raise GitError(f"git {arguments[0]} printed more than {limit >> 20} MB and was ended")
        ended.check(arguments[0])
        return output

    def start(
        self,
        arguments: Sequence[str],
        *,
        allow: str = "",
        settings: Sequence[str] = (),
        first: str = "",
        stdin: int | IO[bytes] = subprocess.PIPE,
        stdout: int | IO[bytes] = subprocess.PIPE,
    ) -> subprocess.Popen[bytes]:
        """Start git. `first` is what the shell that becomes git does before. Use it with `ending`."""
        chosen = [f"{name}={value}" for name, value in NEVER.items()] + list(settings)
        options = [part for each in chosen for part in ("-c", each)]
        shell = ["/bin/sh", "-c", f'ulimit -d {MAX_MEMORY >> 10}; {first} exec "$@"', "sh"]
        command = [*shell, "git", "--no-pager", "--no-replace-objects", *options, "-C", str(self.where), *arguments]
        if shutil.which("git") is None:
            raise Problem(NO_GIT)
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env={**_environment(), "GIT_ALLOW_PROTOCOL": allow or "none"},
            cwd="/",
            start_new_session=True,  # so it ends in order when the person's task is killed
            **self.user.switch,
        )

    def line(self, *arguments: str) -> str:
        """Return the one line that git prints, which may be a path of any bytes."""
        return os.fsdecode(self.run(*arguments).removesuffix(b"\n"))

    def lines(self, *arguments: str) -> list[str]:
        """Return the lines that git prints. A name may hold what Python also counts as the end of a line."""
        return [os.fsdecode(line) for line in self.run(*arguments).split(b"\n") if line]

    def parts(self, *arguments: str) -> list[str]:
        """Return what git prints, parted by null bytes (`-z`)."""
        return [os.fsdecode(part) for part in self.run(*arguments).split(b"\0") if part]

    def says(self, *arguments: str) -> bool:
        """Say whether git answers with 0."""
        try:
            self.run(*arguments)
        except GitError:
            return False
        return True


def _environment() -> dict[str, str]:
    """Return git's variables. GIT_ALLOW_PROTOCOL, which comes with them, wins over `protocol.NAME.allow` anywhere."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_LAZY_FETCH": "1",
    }


def _give(stream: IO[bytes], given: bytes) -> None:
    try:
        stream.write(given)
        stream.close()
    except (BrokenPipeError, ValueError):
        pass  # ignored because git's exit code says why it reads no more; ValueError: it has ended, and all is closed


class ending:  # noqa: N801 - it reads as a statement: `with ending(process, limit_s)`
    """Waits until a git that was started has ended; kills it after a time limit, or when the block fails."""

    def __init__(self, process: subprocess.Popen[bytes], limit_s: float) -> None:
        self._process, self._limit_s = process, limit_s
        self._is_late = False
        self._timer = threading.Timer(limit_s, self._end_late)
        self._said = b""
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> ending:
        self._timer.start()
        self._reader.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._kill()
        self._process.wait()
        self._timer.cancel()
        self._reader.join(5)
        for stream in (self._process.stdin, self._process.stdout):
            if stream and not stream.closed:
                stream.close()

    def check(self, what: str) -> None:
        """Raise GitError unless git ended with 0 in time."""
        if self._is_late:
            raise GitError(f"git {what} was not done after {self._limit_s:.0f} s and was ended")
        if self._process.returncode:
            raise GitError(self.cause() or f"git {what} ended with {self._process.returncode}")

    def cause(self) -> str:
        """Return the line that says why git failed, without control characters."""
        lines = [plain(line).strip() for line in self._said.decode(errors="replace").splitlines() if line.strip()]
        causes = [line for line in lines if line.startswith(("error: ", "fatal: "))]
        return next(iter(causes or lines[-1:]), "")[:300].removeprefix("error: ").removeprefix("fatal: ")

    def _read(self) -> None:
        stream = self._process.stderr
        assert stream
        while piece := os.read(stream.fileno(), 65_536):
            self._said = (self._said + piece)[-MAX_SAID:]
        stream.close()

    def _end_late(self) -> None:
        self._is_late = True
        self._kill()

    def _kill(self) -> None:
        """End git and all that it started: they are a session of their own."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # ignored because it has just ended
                os.killpg(self._process.pid, signal.SIGKILL)

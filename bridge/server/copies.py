"""Copies of the CLI's own files in the container: the conversation that a hook is told of, long results of tools.

The container cannot see the CLI's directory. So the client names a directory of its own with the call. Before a
command runs, the files that it is told of are brought there, and their paths are written anew in what it is told.
The shell prefix opens these files (sandbox/shim.py), so nothing can be copied that the CLI's user could not read.
Only what was added since the last time is sent.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
import stat
from collections import deque
from collections.abc import Callable

from bridge.protocol.frames import WINDOW, Event, Frame, ProtocolError
from bridge.server.channel import Channel

MAX_COPY = 256 * 1024 * 1024
"""Bytes of one file that are copied. The rest of a longer file is not."""

MAX_FILES = 32
"""Files that a command is told of at once."""

MAX_WAITING = 64
"""Commands of a call that may wait for copies at once. All hooks of one event are as many."""

SHOWN = (b"/projects/", b"/plans/", b"/tmp/claude-", b"/claude-")
"""What the container may see of the CLI's directory. Without a namespace, there is no directory `tmp`."""

VARIABLES = b"/session-env/"
"""Where a hook may write variables for the commands that follow."""

_DIRECTORY = re.compile(rb"(/[\w.-]+){1,16}")
_BEFORE_PATH = rb"(?:^|(?<=[\s=(:<>,|;&`'\"\\]))"


@dataclasses.dataclass
class Told:
    """A file that a command is told of: its path for the CLI, and an open descriptor."""

    path: bytes
    descriptor: int

    @property
    def grows(self) -> bool:
        """Whether the CLI adds to this file while a command reads it: a conversation, or the output of another
        command."""
        return self.path.endswith((b".jsonl", b".output"))


@dataclasses.dataclass(eq=False)
class Wait:
    """A command that waits for its copies. `told` are the files that are still to come."""

    told: list[Told]
    then: Callable[[], None]
    give_up: Callable[[], None]


class Copies:
    """The copies of one call. `directory` is the client's, `home` the CLI's own directory."""

    def __init__(self, channel: Channel, directory: bytes, home: bytes) -> None:
        self._channel = channel
        self._home = home
        self._directory = directory if len(directory) <= 200 and _DIRECTORY.fullmatch(directory) else b""
        self._sent: dict[bytes, tuple[int, int]] = {}
        """Inode and size of what was sent, by path."""
        self._waiting: deque[Wait] = deque()
        self._transfer: _Transfer | None = None
        self._is_closed = False
        shown = b"|".join(map(re.escape, SHOWN))
        self._path = re.compile(_BEFORE_PATH + re.escape(home) + rb"(?=" + shown + rb")")

    def close(self) -> None:
        """Forget what still waits, because the call is over. May be called again."""
        self._is_closed = True
        if self._transfer is not None:
            self._transfer.cancel()
        while self._waiting:
            self._waiting.popleft().give_up()

    # What a command is told

    def translate(self, text: bytes) -> bytes:
        """Write the paths of the CLI's files anew in the text of a command."""
        return self._path.sub(self._directory, text) if self._directory else text

    def translate_input(self, text: bytes) -> bytes:
        """Write the paths of conversations anew in the beginning of a hook's input. `text` may be any input."""
        if not self._directory or not text.startswith(b'{"session_id":"'):
            return text
        told = rb'("(?:agent_)?transcript_path":")' + re.escape(self._home) + rb"(?=/projects/)"
        return re.sub(told, lambda match: match[1] + self._directory, text, count=2)

    @property
    def growth(self) -> int:
        """Bytes by which `translate_input` can lengthen a text."""
        return 2 * len(self._directory)

    def variables_file(self, path: bytes) -> tuple[bytes, bytes]:
        """Return the file for variables that a hook may write, as its path in the container and its name there."""
        name = path.removeprefix(self._home + b"/")
        if self._directory and path.startswith(self._home + VARIABLES):
            return self._directory + b"/" + name, name
        return b"", b""

    # The copies

    @property
    def is_full(self) -> bool:
        """Whether no further command may wait for copies."""
        return len(self._waiting) >= MAX_WAITING

    def bring(self, told: list[Told], then: Callable[[], None], give_up: Callable[[], None]) -> Wait:
        """Bring these files to the container, and then call `then`; or `give_up`, if the call ends first.

        The descriptors have to stay open until one of the two is called. Returns what `forget` takes.
        """
        wait = Wait(list(told), then, give_up)
        self._waiting.append(wait)
        if self._is_closed:
            self.close()
        self._go_on()
        return wait

    def is_waiting(self, wait: Wait) -> bool:
        """Return whether copies are still on the way."""
        return wait in self._waiting

    def forget(self, wait: Wait) -> None:
        """Give a command up that still waits."""
        self._waiting.remove(wait)
        wait.give_up()

    def _go_on(self) -> None:
        while self._waiting and self._transfer is None:
            first = self._waiting[0]
            if first.told:
                self._send(first.told.pop())
            else:
                self._waiting.popleft()
                first.then()

    def renew(self, told: list[Told]) -> None:
        """Bring what was added to these files, unless copies are on the way.

        The command that was told of them may end meanwhile, so this has descriptors of its own.
        """
        if self._transfer is not None:
            return
        mine: list[Told] = []

        def close() -> None:
            for file in mine:
                os.close(file.descriptor)

        try:
            mine += (Told(file.path, os.dup(file.descriptor)) for file in told)
        except OSError:  # ignored because the next renewal tries again
            close()
            return
        self.bring(mine, close, close)

    def _send(self, file: Told) -> None:
        """Begin to send what is new in a file. If that is nothing, or not possible, the command runs without it."""
        try:
            found = os.fstat(file.descriptor)
            inode, start = self._sent.get(file.path, (0, 0))
            size = min(found.st_size, MAX_COPY)
            again = inode != found.st_ino or size < start or file.path.startswith(self._home + VARIABLES)
            start = 0 if again else start
            if not self._directory or not stat.S_ISREG(found.st_mode) or (size == start and not again):
                return
            descriptor = os.dup(file.descriptor)
        except OSError:
            return

        def begin(channel: Channel) -> _Transfer:
            self._transfer = _Transfer(channel, descriptor, start, size, done)
            return self._transfer

        def done(is_there: bool | None) -> None:
            os.close(descriptor)
            self._sent[file.path] = found.st_ino, size if is_there else 0
            self._transfer = None
            if is_there is None:
                self.close()
            self._go_on()

        try:
            self._channel.open(b"", {}, begin, copy=file.path.removeprefix(self._home + b"/"), at=start)
        except ProtocolError:  # ignored because the command also runs without the copy
            self._transfer = None
            os.close(descriptor)


class _Transfer:
    """The bytes of one file on the way. Calls `done` once, with whether the container has them; None if it is gone."""

    def __init__(
        self, channel: Channel, descriptor: int, start: int, end: int, done: Callable[[bool | None], None]
    ) -> None:
        self._channel = channel
        self._descriptor = descriptor
        self._at = start
        self._end = end
        self._has_ended = False
        self._done: Callable[[bool | None], None] | None = done

    def on(self, event: Event) -> None:
        """Handle a frame of the channel."""
        if event.kind in (Frame.EXIT, Frame.ERROR):
            self._channel.release()
            self._finish(event.kind == Frame.EXIT)

    def settle(self) -> None:
        """Apply the credit that arrived in this turn of the loop."""
        self.kick()

    def kick(self) -> None:
        """Send within the credit, at most one window at a time: other grants wait meanwhile."""
        budget = WINDOW
        while self._done and not self._has_ended and (size := self._channel.allowance(Frame.STDIN)):
            if budget <= 0:
                asyncio.get_running_loop().call_soon(self.kick)
                return
            data = os.pread(self._descriptor, min(size, self._end - self._at), self._at)
            budget -= len(data)
            self._at += len(data)
            self._has_ended = not data
            self._channel.send_data(Frame.STDIN, data)

    def cancel(self) -> None:
        """End, because the call is over or the client is gone."""
        if self._done:
            self._channel.send_cancel()
            self._finish(None)

    def _finish(self, is_there: bool | None) -> None:
        done, self._done = self._done, None
        if done:
            done(is_there)

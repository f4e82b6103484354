"""The output of one call: from the CLI's stdout and stderr to the client, within the credit.

Answers to refused control requests are sent on stdout in the CLI's place, between two lines of the CLI's own
output.
"""

from __future__ import annotations

from collections.abc import Callable

from bridge.protocol.frames import Frame
from bridge.server.channel import Channel
from bridge.server.sandbox.pipes import OutputPump

MAX_ANSWERS = 64 * 1024
"""Bytes of answers that may wait. A client that sends requests without reading is not served beyond that."""

BUBBLEWRAP = b"bwrap: "
"""The start of bubblewrap's own messages. They contain paths of the host."""


class Output:
    """Both output streams of a call.

    `progressed` is called after each delivery and at the end of each stream. `answered` is called after waiting
    answers were sent. `spoke` gets what the CLI has written to stdout.
    """

    def __init__(
        self,
        channel: Channel,
        stdout: int,
        stderr: int,
        progressed: Callable[[], None],
        answered: Callable[[], None],
        spoke: Callable[[bytes], None],
    ) -> None:
        self._channel = channel
        self._progressed = progressed
        self._answered = answered
        self._spoke = spoke
        self._answers = bytearray()
        self._is_at_line_start = True
        self._held = b""
        self._may_be_bubblewrap = True
        self._stdout = OutputPump(stdout, lambda: channel.allowance(Frame.STDOUT), self._on_stdout)
        self._stderr = OutputPump(stderr, lambda: channel.allowance(Frame.STDERR), self._on_stderr)

    @property
    def is_open(self) -> bool:
        """Whether a stream has not ended yet."""
        return self._stdout.open or self._stderr.open

    @property
    def owes_answers(self) -> bool:
        """Whether so many answers wait that no further request may be handled."""
        return len(self._answers) >= MAX_ANSWERS

    def kick(self) -> None:
        """Check again whether output and answers can be sent."""
        self._stdout.kick()
        self._stderr.kick()
        self._answer()

    def answer(self, data: bytes) -> None:
        """Send answers to refused control requests, in the CLI's place."""
        self._answers += data
        self._answer()

    def close(self) -> None:
        """Stop reading."""
        self._stdout.close()
        self._stderr.close()

    # stdout

    def _on_stdout(self, data: bytes) -> None:
        said = data
        if self._answers and b"\n" in data:
            cut = data.rfind(b"\n") + 1
            self._write(Frame.STDOUT, data[:cut])
            if len(self._answers) <= self._channel.allowance(Frame.STDOUT) - len(data[cut:]):
                self._send_answers()
            data = data[cut:]
        if data:
            self._is_at_line_start = data.endswith(b"\n")
            self._write(Frame.STDOUT, data)
        else:
            self._is_at_line_start = True
        self._spoke(said)
        self._progressed()

    def _answer(self) -> None:
        fits = len(self._answers) <= self._channel.allowance(Frame.STDOUT)
        if self._answers and self._is_at_line_start and fits:
            self._send_answers()

    def _send_answers(self) -> None:
        answers = bytes(self._answers)
        self._answers.clear()
        self._write(Frame.STDOUT, answers)
        self._answered()

    # stderr

    def _on_stderr(self, data: bytes) -> None:
        # Held back until it is known whether bubblewrap or the CLI wrote it.
        may_be = self._held or self._may_be_bubblewrap
        if data and may_be and (self._held + data).startswith(BUBBLEWRAP):
            self._held += data
        elif data:
            self._may_be_bubblewrap = False
            self._write(Frame.STDERR, data)
        self._progressed()

    def read_bubblewrap(self) -> str:
        """Return what bubblewrap wrote before it failed, for the audit log."""
        self._stderr.read()  # its last message may still be in the pipe
        return self._held.decode("utf-8", "replace").strip()

    def flush(self) -> None:
        """Send what was held back, because the CLI itself wrote it."""
        if self._held:
            held, self._held = self._held, b""
            self._write(Frame.STDERR, held[: self._channel.allowance(Frame.STDERR)])

    def _write(self, stream: int, data: bytes) -> None:
        if data:
            self._channel.send_data(stream, data)

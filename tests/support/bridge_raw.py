"""A client written by an attacker: it sends any claim about itself, where the real client tells the truth."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bridge.protocol.frames import VERSION, WINDOW, Event, Frame
from bridge.protocol.link import CLIENT, Link
from tests.support.bridge_host import Place


@dataclasses.dataclass
class Heard:
    """The result of a call: its exit code, or the error's; its output; the error's kind and text."""

    code: int = -1
    stdout: bytes = b""
    stderr: bytes = b""
    kind: str = ""
    text: str = ""


class RawClient:
    """A connection to a grant's socket; use it as a context manager."""

    def __init__(self, place: Place, workspace: str | Path | None = None, name: str = "raw") -> None:
        """Send a hello that names the workspace: the true one, `device:inode` of a path, or any text."""
        self.link = Link(CLIENT)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(str(place.mount / "claude-bridge.sock"))
        named = identity(place.workspace) if workspace is None else workspace
        said = identity(named) if isinstance(named, Path) else named
        self.sock.sendall(self.link.hello(protocol=VERSION, client="0", name=name, workspace=said))

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def events(self) -> list[Event]:
        """Return the events that come next; none when the server has closed the connection."""
        while data := self._received():
            if found := self.link.receive(data):
                return found
        return []

    def _received(self) -> bytes:
        try:
            return self.sock.recv(1 << 18)
        except ConnectionError:
            return b""

    def call(self, *argv: str, runs: Callable[[Event], dict[str, Any]] | None = None, **fields: Any) -> Heard:
        """Make a call, and follow it to its end. Commands are not run: `runs` says how each is reported to end."""
        given = {"cwd": "/workspace", "stdin": "none", "stdout": "other", **fields}
        number, frame = self.link.open([os.fsencode(word) for word in argv], {}, **given)
        with contextlib.suppress(ConnectionError):  # the call was refused at its hello; the next event says why
            self.sock.sendall(frame)
        heard = Heard()
        while events := self.events():
            for event in events:
                if event.kind in (Frame.STDOUT, Frame.STDERR):
                    name = "stdout" if event.kind == Frame.STDOUT else "stderr"
                    setattr(heard, name, getattr(heard, name) + event.payload)
                    if len(event.payload):
                        self.sock.sendall(self.link.grant(number, event.kind, min(len(event.payload), WINDOW)))
                elif event.kind == Frame.RUN and runs:
                    self.sock.sendall(self.link.end(event.channel, Frame.EXIT, **runs(event)))
                elif event.kind == Frame.EXIT:
                    heard.code = event.fields.number("code", 128 + event.fields.number("signal"))
                    return heard
                elif event.kind == Frame.ERROR:
                    heard.code = event.fields.number("code")
                    heard.kind, heard.text = event.fields.text("kind"), event.fields.text("text")
                    return heard
        return heard


def identity(path: str | Path) -> str:
    """Return device and inode in the form in which a client sends them."""
    found = Path(path).stat()
    return f"{found.st_dev}:{found.st_ino}"

"""Answers the hello of a client: checks its protocol version and its workspace."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

from bridge import __version__
from bridge.protocol.frames import MAX_CALL, VERSION, WINDOW, Fields
from bridge.server.guess_limit import GuessLimit
from bridge.server.holds import Held
from bridge.server.host.claude_cli import HostCli
from bridge.server.host.grants import Grant
from bridge.server.host.places import Identity

MAX_HELP = 48_000
"""Largest help text of the CLI in a hello, bytes. A record has 64 KiB."""


@dataclasses.dataclass(frozen=True)
class Hello:
    """Answers the clients of one grant. `cli` and `idle` (seconds) can change when the server reloads."""

    grant: Grant
    guesses: GuessLimit
    cli: Callable[[], HostCli]
    idle: Callable[[], int]
    waiting: Callable[[], tuple[int, int]]
    """Returns how many calls of the grant wait, and how many calls come before the first of them."""
    held: Callable[[], Held | None]
    """Returns what holds the grant's new work."""
    note: Callable[..., None]
    """Writes to the audit log."""

    @property
    def is_ready(self) -> bool:
        """Whether the next hello can be answered at once."""
        return self.cli().is_current and not self.guesses.wait()

    async def prepare(self) -> None:
        """Read the CLI's version again if its file has changed, and wait until the guess limit allows an answer."""
        await self.cli().ask()
        while wait := self.guesses.wait():  # noqa: ASYNC110 - other clients of the grant may extend it
            await asyncio.sleep(wait)

    def refusal(self, fields: Fields, client: dict[str, Any]) -> tuple[str, str] | None:
        """Return why a client is refused, as kind and sentence; None if it is accepted."""
        if fields.number("protocol") != VERSION:
            theirs = fields.text("protocol", "none")[:20]
            text = f"the client speaks protocol {theirs} and the server {VERSION}; bring both to one version"
            return "version", text
        theirs = fields.text("workspace")
        if not theirs or theirs == _text(self.grant.place.identity):
            return None  # without a workspace it may send a hello; the connection refuses its calls
        name = self.grant.name
        if theirs in map(_text, self.grant.earlier):
            kind = "changed"
            text = (
                f"on the host, the workspace of grant {name} was replaced; this container still has the earlier folder"
            )
        elif changed := self.grant.changed:
            self.guesses.count_wrong()
            kind, text = "changed", f"on the host, {changed}"
        else:
            self.guesses.count_wrong()
            kind, text = "workspace", f"this socket belongs to another workspace; grant {name} mounts its own"
        self.note("refused", **client, why=text)
        return kind, text

    def answer(self, fields: Fields) -> dict[str, bytes | str | int | None]:
        """Return the fields of the server's hello."""
        cli, (waiting, ahead), held = self.cli(), self.waiting(), self.held()
        return {
            "protocol": VERSION,
            "server": __version__,
            "grant": self.grant.name,
            "cli": cli.version,
            "problem": None if cli.version else cli.public_problem,
            "help": cli.help[:MAX_HELP] if fields.get("want") == b"help" else None,
            "max_call": MAX_CALL,
            "window": WINDOW,
            "idle": self.idle(),
            "waiting": waiting or None,
            "ahead": ahead if waiting else None,
            "held": held.why if held else None,
            "until": int(held.until) if held else None,
        }


def _text(identity: Identity) -> str:
    """Return device and inode as a client's hello has them."""
    return "{}:{}".format(*identity)

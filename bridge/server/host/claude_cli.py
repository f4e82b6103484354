"""Finds the host's Claude Code, and caches its version and help until the file changes."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from pathlib import Path

PROBE_LIMIT_S = 20.0
"""Seconds for `claude --version` or `--help` on a cold disk. On a warm disk the slowest version takes 0.5 s."""

USUAL_PLACES = (
    "~/.local/bin/claude",
    "~/.claude/local/claude",
    "/usr/local/bin/claude",
    "/opt/claude/claude",
)


READS_AGENTS_MD = (2, 1, 332)
"""From this version on, the CLI reads AGENTS.md in a project that has no CLAUDE.md."""

IGNORES_BYPASS = (2, 1, 198)
"""From this version on (some version up to 2.1.332), a project's settings cannot switch all questions off."""


class HostCli:
    """The host's CLI, its version and its help. Clients are answered from this cache; the CLI is not started for
    them."""

    def __init__(self, configured: str | None) -> None:
        self.configured = configured
        self._is_misnamed = False
        self._seen: tuple[str, int, int, int] | None = None
        self.version = ""
        self.help = b""
        self.problem = "the host has no Claude Code; install it there, or name it in bridge.yaml as `claude`"

    @property
    def public_problem(self) -> str:
        """The problem as it is reported to the container: without a path of the host."""
        return "bridge.yaml names a Claude Code that is no program" if self._is_misnamed else self.problem

    def find(self) -> Path | None:
        """Return the CLI's file with all links resolved, or None."""
        named = self.configured
        places = [named] if named else [shutil.which("claude"), *map(os.path.expanduser, USUAL_PLACES)]
        for place in filter(None, places):
            path = Path(place)
            if path.is_file() and os.access(path, os.X_OK):
                return path.resolve()
        if named:
            self._is_misnamed = True
            self.problem = f"bridge.yaml names {named} as the host's Claude Code, and that is no program"
        return None

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the version; empty if it is not known."""
        return tuple(int(number) for number in re.findall(r"\d+", self.version)[:3])

    @property
    def reads_agents_md(self) -> bool:
        """Whether the CLI reads AGENTS.md in a project that has no CLAUDE.md."""
        return self.numbers >= READS_AGENTS_MD

    @property
    def ignored_modes(self) -> frozenset[str]:
        """The permission modes that have no effect in a project's settings."""
        return frozenset({"auto", "bypassPermissions"} if self.numbers >= IGNORES_BYPASS else {"auto"})

    @property
    def is_current(self) -> bool:
        """Whether version and help come from the current file."""
        return self._seen == self._look()

    async def ask(self) -> None:
        """Run the CLI to get its version and help, unless they are current."""
        look = self._look()
        if look == self._seen:
            return
        self.version, self.help = "", b""
        if look is not None:
            self.version = (await _output(look[0], "--version")).decode("utf-8", "replace").split("\n")[0].strip()
            self.help = await _output(look[0], "--help")
            if not self.version:
                self.problem = "the host's Claude Code does not answer `claude --version`"
        self._seen = look

    def _look(self) -> tuple[str, int, int, int] | None:
        path = self.find()
        if path is None:
            return None
        found = path.stat()
        return str(path), found.st_ino, found.st_mtime_ns, found.st_size


async def _output(program: str, argument: str) -> bytes:
    """Return what the program prints; nothing if it fails or takes too long."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "DISABLE_AUTOUPDATER": "1"}
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            argument,
            env=environment,
            cwd="/",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return b""
    try:
        output, _ = await asyncio.wait_for(process.communicate(), PROBE_LIMIT_S)
    except asyncio.TimeoutError:  # noqa: UP041 - an alias of TimeoutError since Python 3.11
        process.kill()
        await process.wait()
        return b""
    return output if process.returncode == 0 else b""


def files_of(program: Path) -> tuple[Path, Path]:
    """Return what must be visible for the program to run (a directory or the file itself), and the program's file.

    The native build is one file. An older one is a script in the directory of its package. Raises OSError.
    """
    with program.open("rb") as file:
        script = file.read(2) == b"#!"
    if script:
        for directory in (program.parent, program.parent.parent):
            if (directory / "package.json").is_file():
                return directory, program
    return program, program


def interpreters_of(program: Path) -> dict[str, str]:
    """Return the interpreters that a script needs: the path where each is looked up, and its file. A native program
    needs none.

    Raises OSError.
    """
    with program.open("rb") as file:
        head = file.readline(256)
    if not head.startswith(b"#!"):
        return {}
    words = os.fsdecode(head[2:]).split()
    found = {words[0]: os.path.realpath(words[0])}
    if Path(words[0]).name == "env" and len(words) > 1:
        name = next(word for word in words[1:] if not word.startswith("-"))
        found[f"/usr/bin/{name}"] = os.path.realpath(shutil.which(name) or name)
    return found

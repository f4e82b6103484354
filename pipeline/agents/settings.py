"""What a person chose for an agent. It is kept with the agent's record, for the next `up`, and for `agents.update`."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from docker.models.containers import Container

from pipeline.agents.logs import plain
from pipeline.errors import Problem

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
OWN = re.compile(r"(AGENT|HEALTH)_.*|HOME|PATH|TMUX_TMPDIR")
"""Variables that the image or the template sets."""
MEMORY = re.compile(r"([0-9]{1,12})(b|k|kb|m|mb|g|gb)?", re.IGNORECASE)
UNITS = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30}
LEAST_MEMORY = 64 << 20
"""Bytes. The supervisor, health and a shell need about half of it."""
CPUS = re.compile(r"[0-9]{1,4}(\.[0-9]{1,3})?")
LONGEST_COMMAND = 100_000
"""Bytes. The kernel takes no variable of more than 128 kB."""


@dataclass(frozen=True)
class Settings:
    """What a person chose for an agent. An empty text means: what compose.yaml says."""

    command: str = ""
    """What runs in the agent's first pane (AGENT_COMMAND)."""
    cpus: str = ""
    memory: str = ""
    env: tuple[str, ...] = ()
    """Names of variables. Their values are nowhere but in the container."""
    variant: str = "prod"
    image: str = ""
    """The image that was named in place of the variant's own."""
    as_root: bool = False
    clone: bool = False
    ssh_agent: bool = False
    certificates: str = ""
    protect: tuple[str, ...] = ()
    unprotect: tuple[str, ...] = ()

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Settings:
        """Return settings from a record."""
        found: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in said.items()}
        return cls(**found)


@dataclass(frozen=True)
class Lasting:
    """What a command says of the settings that stay until a person chooses others. None: what was chosen before.

    An empty text, or 0 for a limit, is the choice of what compose.yaml says.
    """

    command: str | None = None
    cpus: str | None = None
    memory: str | None = None
    env: tuple[str, ...] | None = None

    @classmethod
    def of(cls, command: str | None, cpus: str | None, memory: str | None, env: Iterable[str]) -> Lasting:
        """Check what a person wrote. Raises a `Problem`."""
        if command is not None and len(command.encode(errors="surrogateescape")) > LONGEST_COMMAND:
            raise Problem(f"--command has more than {LONGEST_COMMAND:,} bytes; put it into a script", 64)
        names = tuple(dict.fromkeys(env))
        return cls(command, _cpus(cpus), _memory(memory), _variables(names) if names else None)

    def over(self, before: Settings) -> Settings:
        """Return the settings `before`, with what was chosen now."""
        chosen = {name: value for name, value in vars(self).items() if value is not None}
        return dataclasses.replace(before, **chosen)


NOTHING_NEW = Lasting()


def _cpus(value: str | None) -> str | None:
    if value is None or value == "":
        return value
    if not CPUS.fullmatch(value):
        raise Problem(f"--cpus {plain(value)} is no number of processors; write for example 1.5", 64)
    most = os.cpu_count() or 1
    if float(value) > most:
        raise Problem(f"--cpus {value} is more than this machine has; name at most {most}", 64)
    return "" if float(value) == 0 else value


def _memory(value: str | None) -> str | None:
    if value is None or value == "":
        return value
    found = MEMORY.fullmatch(value)
    if not found:
        raise Problem(f"--memory {plain(value)} is no size; write for example 512m or 4g", 64)
    size = int(found[1]) << UNITS[(found[2] or "").lower()[:1]]
    if 0 < size < LEAST_MEMORY:
        raise Problem(f"--memory {value} is too little for an agent; name at least {LEAST_MEMORY >> 20}m", 64)
    if size > (most := os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")):
        raise Problem(f"--memory {value} is more than this machine has; name at most {most >> 20}m", 64)
    return value if size else ""


def _variables(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of variables. One empty name alone means none."""
    if names == ("",):
        return ()
    for name in names:
        if "=" in name:
            variable = plain(name.partition("=")[0])
            raise Problem(
                f"--env takes a name alone, as everybody on this machine sees a command's words; type "
                f"`export {variable}=...` and then --env {variable}",
                64,
            )
        if not VARIABLE.fullmatch(name):
            raise Problem(f"--env {plain(name)!r} is no name of a variable; letters, digits and _ make one", 64)
        if OWN.fullmatch(name):
            raise Problem(f"--env {name}: the image sets that one itself; leave it out", 64)
        if name not in os.environ:
            raise Problem(
                f"--env {name}: it is not set in this shell, so nothing was started; type `export {name}=...` and the "
                "same command again",
                64,
            )
    return names


def values(names: Iterable[str], asked: Iterable[str], agent: str, before: Container | None) -> dict[str, str]:
    """Return the values of an agent's variables: of this shell for those that were `asked` for just now.

    The others keep the value that the container has. Without a container they are this shell's as well.
    """
    had = environment(before) if before else {}
    found = {}
    for name in names:
        here = os.environ.get(name)
        value = here if name in set(asked) else had.get(name, here)
        if value is None:
            raise Problem(
                f"agent {agent} is to have {name}, which is not set in this shell, so it was not started; type "
                f"`export {name}=...` and the same command again, or --env '' to do without",
                64,
            )
        found[name] = value
    return found


def environment(container: Container) -> dict[str, str]:
    """Return the variables of a container."""
    return dict(line.partition("=")[::2] for line in container.attrs["Config"]["Env"])

"""The Docker engine: which one is chosen, whether it answers, and a client for it.

The engine is chosen as Docker's own command chooses it: DOCKER_HOST, then DOCKER_CONTEXT, then the current context of
the configuration, then the local socket. The SDK alone uses only the first of these.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import docker
import docker.errors
import requests.exceptions
from docker.constants import DEFAULT_UNIX_SOCKET
from docker.context import ContextAPI
from docker.utils import kwargs_from_env

from pipeline.errors import Problem, docker_errors_as_problems

MINIMUM_VERSION = 25  # the first version that supports a health check's start interval
ANSWER_S = 5  # an engine that needs longer to report its version is unusable
WORK_S = 600  # removing a large container or exporting an image takes minutes on a slow disk


UNIX = "unix://"
LOCAL = (UNIX, "npipe://")
"""The beginnings of addresses on this machine. Virtual machines that share its folders have such ones, too."""


@dataclass(frozen=True)
class Engine:
    """An engine's address, the options for a client, and what to type to choose this machine's own engine."""

    where: str
    options: dict[str, object]
    way_back: str = ""

    @property
    def is_here(self) -> bool:
        """Whether its address is on this machine."""
        return self.where.startswith(LOCAL)

    def client(self, timeout: int = WORK_S) -> docker.DockerClient:
        """Connect. Raises the SDK's errors when nothing answers."""
        return docker.DockerClient(version="auto", timeout=timeout, **self.options)


def chosen() -> Engine:
    """Return the engine that Docker's command would use, without connecting to it."""
    if os.environ.get("DOCKER_HOST"):
        options = kwargs_from_env()
        return Engine(os.environ["DOCKER_HOST"], _with_ssh(options), "unset DOCKER_HOST")
    name = os.environ.get("DOCKER_CONTEXT")
    try:
        context = ContextAPI.get_context(name) if name else ContextAPI.get_current_context()
    except docker.errors.DockerException as error:
        raise Problem(f"Docker context {name or 'in use'} cannot be read ({error}); run `docker context ls`") from error
    if context is None or not context.Host:
        if name and name != "default":
            raise Problem(f"there is no Docker context {name}; run `docker context ls`, or unset DOCKER_CONTEXT")
        return Engine(DEFAULT_UNIX_SOCKET.replace("http+unix://", "unix://"), {})
    host = context.Host.replace("http+unix://", "unix://")
    way_back = "unset DOCKER_CONTEXT" if name else "docker context use default"
    return Engine(host, _with_ssh({"base_url": host, "tls": context.TLSConfig or False}), way_back)


def _with_ssh(options: dict[str, object]) -> dict[str, object]:
    if str(options.get("base_url", "")).startswith("ssh://"):
        return options | {"use_ssh_client": True}
    return options


def version() -> str | None:
    """Return the version of the engine, or None when none answers within `ANSWER_S` seconds."""
    try:
        with closing(chosen().client(timeout=ANSWER_S)) as client:
            return str(client.version()["Version"])
    except (docker.errors.DockerException, requests.exceptions.RequestException):
        return None


@contextmanager
def connected() -> Iterator[docker.DockerClient]:
    """Yield a client. Every error of the SDK inside the block becomes a `Problem`."""
    engine = chosen()
    with docker_errors_as_problems(engine.where):
        client = engine.client()
        try:
            yield client
        finally:
            client.close()


# What kind of engine it is


@dataclass(frozen=True)
class Kind:
    """How an engine differs from the usual one in what matters to an agent: who its users are, and what builds it."""

    person: int | None = None
    """The user that runs a rootless engine. It is root in containers, and others of this machine are nobody there."""
    first: int = 0
    """With userns-remap: the number on this machine of root in containers."""
    is_podman: bool = False


USUAL = Kind()


def refuse_elsewhere() -> None:
    """Raise a `Problem` when the chosen engine is reached over the network: it cannot mount folders of this machine.

    The address of this machine itself is refused, too: it may be a tunnel's end, or the port of an engine in a
    container. The engine is not asked.
    """
    found = chosen()
    if not found.is_here:
        raise Problem(
            f"the Docker engine at {found.where} is reached over the network, so it cannot mount folders of this "
            "machine, and nothing was started; run the same command on the engine's machine, or type "
            f"`{found.way_back}` to use the engine of this one"
        )


def kind() -> Kind:
    """Ask the chosen engine of what kind it is. One that does not answer yet is taken for a usual one."""
    engine = chosen()
    try:
        with closing(engine.client(timeout=ANSWER_S)) as client:
            return kind_of(client, engine.where)
    except (docker.errors.DockerException, requests.exceptions.RequestException):
        return USUAL


def kind_of(client: docker.DockerClient, where: str) -> Kind:
    """Return the kind of the engine behind a client, from what the engine says of itself. `where` is its address."""
    info = client.info()
    options = {option.split(",")[0] for option in info.get("SecurityOptions") or []}
    is_podman = any(part["Name"] == "Podman Engine" for part in client.version().get("Components") or [])
    if "name=rootless" in options:
        return Kind(person=_owner_of_socket(where), is_podman=is_podman)
    if "name=userns" in options:
        return Kind(first=_first_number(info["DockerRootDir"]))
    return Kind(is_podman=is_podman)


def _owner_of_socket(where: str) -> int:
    """Return who runs a rootless engine. Its socket is that user's."""
    path = Path(where.removeprefix(UNIX))
    return path.stat().st_uid if path.exists() else os.geteuid()


def _first_number(root: str) -> int:
    """Return the number of root in containers. An engine with userns-remap names its folder `UID.GID`."""
    found = re.search(r"/(\d+)\.\d+$", root)
    if found is None:
        raise Problem(f"this engine renumbers users (userns-remap), and {root} does not say how; use one without it")
    return int(found[1])

"""The Docker engine: which one is chosen, whether it answers, and a client for it.

The engine is chosen as Docker's own command chooses it: DOCKER_HOST, then DOCKER_CONTEXT, then the current context of
the configuration, then the local socket. The SDK alone uses only the first of these.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Engine:
    """An engine's address, and the options for a client."""

    where: str
    options: dict[str, object]

    def client(self, timeout: int = WORK_S) -> docker.DockerClient:
        """Connect. Raises the SDK's errors when nothing answers."""
        return docker.DockerClient(version="auto", timeout=timeout, **self.options)


def chosen() -> Engine:
    """Return the engine that Docker's command would use, without connecting to it."""
    if os.environ.get("DOCKER_HOST"):
        options = kwargs_from_env()
        return Engine(os.environ["DOCKER_HOST"], _with_ssh(options))
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
    return Engine(host, _with_ssh({"base_url": host, "tls": context.TLSConfig or False}))


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

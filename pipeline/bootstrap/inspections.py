"""What the engine says of many containers, quickly.

The SDK needs a millisecond of processor time for each request, and the engine as long for each answer. So containers
are asked for here over few connections to the engine's socket, where it has one on this machine. Whatever goes wrong,
the SDK asks again, and reports it.
"""

from __future__ import annotations

import http.client
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any

import docker
from docker.models.containers import Container

AT_ONCE = 3
"""Connections. More of them wait for the engine all the same."""


def containers(client: docker.DockerClient, label: str) -> list[Container]:
    """Return all containers with a label, running or not. One that is removed in the meantime is left out."""
    path = getattr(client.api.get_adapter(client.api.base_url), "socket_path", "")
    if path:
        with suppress(OSError, http.client.HTTPException, ValueError):
            return _over_socket(client, path, label)
    return list(client.containers.list(all=True, filters={"label": label}, ignore_removed=True))


def _over_socket(client: docker.DockerClient, path: str, label: str) -> list[Container]:
    ids = [str(each["Id"]) for each in client.api.containers(all=True, filters={"label": label})]
    prefix = f"/v{client.api.api_version}/containers"

    def some(start: int) -> list[dict[str, Any]]:
        with closing(_Connection(path, client.api.timeout)) as connection:
            return [found for each in ids[start::AT_ONCE] if (found := _ask(connection, f"{prefix}/{each}/json"))]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        every = [found for part in pool.map(some, range(min(AT_ONCE, len(ids)))) for found in part]
    return [client.containers.prepare_model(attrs) for attrs in every]


def _ask(connection: http.client.HTTPConnection, path: str) -> dict[str, Any] | None:
    """Return what the engine says of a container; None of one that was removed in the meantime."""
    connection.request("GET", path)
    answer = connection.getresponse()
    attrs: dict[str, Any] = json.loads(answer.read())
    if answer.status == http.client.NOT_FOUND:
        return None
    if answer.status != http.client.OK:
        raise OSError(answer.reason)
    return attrs


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

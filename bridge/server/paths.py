"""Translates directories between the container and the CLI."""

from __future__ import annotations

import os

from bridge.policy.terms import WORKSPACE


class PathTranslator:
    """Translates paths of one call. In a namespace both sides use the same ones."""

    def __init__(self, host_workspace: str | None) -> None:
        """`host_workspace` is where a CLI without a namespace sees the workspace; None with a namespace."""
        self._host = None if host_workspace is None else os.fsencode(host_workspace)

    def to_container(self, path: bytes) -> bytes:
        """A directory of the CLI's, as the container knows it."""
        return path if self._host is None else _moved(path, self._host, WORKSPACE.encode())

    def to_cli(self, path: bytes) -> bytes:
        """A directory of the container's, as the CLI knows it."""
        return path if self._host is None else _moved(path, WORKSPACE.encode(), self._host)


def _moved(path: bytes, source: bytes, target: bytes) -> bytes:
    """A path below `source`, put below `target`; any other path as it is."""
    return target + path[len(source) :] if (path + b"/").startswith(source + b"/") else path

"""Translates directories between the container and the CLI."""

from __future__ import annotations

import os

from bridge.policy.terms import WORKSPACE


class PathTranslator:
    """Translates the paths of one call. In a namespace both sides use the same paths."""

    def __init__(self, host_workspace: str | None) -> None:
        """`host_workspace` is the workspace's path for a CLI without a namespace; None with a namespace."""
        self._host = None if host_workspace is None else os.fsencode(host_workspace)

    def to_container(self, path: bytes) -> bytes:
        """Translate a directory of the CLI into the container's path."""
        return path if self._host is None else _moved(path, self._host, WORKSPACE.encode())

    def to_cli(self, path: bytes) -> bytes:
        """Translate a directory of the container into the CLI's path."""
        return path if self._host is None else _moved(path, WORKSPACE.encode(), self._host)


def _moved(path: bytes, source: bytes, target: bytes) -> bytes:
    """Replace `source` at the start of a path with `target`. Other paths are returned unchanged."""
    return target + path[len(source) :] if (path + b"/").startswith(source + b"/") else path

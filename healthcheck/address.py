"""Where this container's own programs reach health. Imports nothing, because Docker's probe has to be quick."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

PORT = 3999
EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - to connect to, not to bind
"""Addresses that a server listens on and nobody can connect to, and the one to connect to instead."""


def own_address(environ: Mapping[str, str]) -> tuple[str, int]:
    """Return host and port to connect to. ValueError where the port is no number."""
    host = environ.get("HEALTH_HOST", "")
    return EVERYWHERE.get(host, host), int(environ.get("HEALTH_PORT") or PORT)

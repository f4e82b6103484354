"""The address under which the container's own programs reach health. No imports: Docker's probe must be fast."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

PORT = 3999
EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - to connect to, not to bind
"""For each address that a server can listen on but nobody can connect to, the address to connect to."""


def own_address(environ: Mapping[str, str]) -> tuple[str, int]:
    """Return host and port to connect to. Raises ValueError when the port is no number."""
    host = environ.get("HEALTH_HOST", "")
    return EVERYWHERE.get(host, host), int(environ.get("HEALTH_PORT") or PORT)

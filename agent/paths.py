"""Where the volumes are in the container."""

from __future__ import annotations

AGENT, SHARED, WORKSPACE = "/agent", "/shared", "/workspace"
VOLUMES = (AGENT, WORKSPACE, SHARED)

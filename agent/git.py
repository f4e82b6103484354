"""The settings that git takes from the operator: an identity, and the certificates of the host's network.

They are written to a file that the image's /etc/gitconfig includes. So the agent's own ~/.gitconfig, a project's
.git/config and GIT_* variables all win. Variables would win over those files.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agent.certificates import HOST, TRUSTED
from agent.files import replace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.files import Report

SETTINGS = Path("/agent/run/gitconfig")
IDENTITY = {"name": "AGENT_GIT_NAME", "email": "AGENT_GIT_EMAIL"}
ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"})


def configure(environ: Mapping[str, str], report: Report) -> None:
    """Write the settings. Raises OSError."""
    replace(SETTINGS, settings(environ, has_certificates=HOST.exists()), report)


def settings(environ: Mapping[str, str], *, has_certificates: bool) -> str:
    """Return the file's text."""
    identity = {key: environ[name] for key, name in IDENTITY.items() if environ.get(name, "").strip()}
    trust = {"sslCAInfo": str(TRUSTED)} if has_certificates else {}
    return _section("user", identity) + _section("http", trust)


def _section(name: str, values: Mapping[str, str]) -> str:
    lines = [f'\t{key} = "{value.translate(ESCAPES)}"\n' for key, value in values.items()]
    return "".join([f"[{name}]\n", *lines]) if lines else ""

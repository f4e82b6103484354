"""The settings that git takes from the operator: an identity, the certificates of the host's network, and no need to
write the workspace's own settings where these are protected.

They are written to a file that the image's /etc/gitconfig includes. So the agent's own ~/.gitconfig, a project's
.git/config and GIT_* variables all win. Variables would win over those files.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agent import protected
from agent.certificates import HOST, TRUSTED
from agent.files import replace
from agent.paths import WORKSPACE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.files import Report

SETTINGS = Path("/agent/run/gitconfig")
FOR_PROTECTED = Path("/agent/run/gitconfig-protected")
CONFIG = ".git/config"
SAVING = {"branch": {"autoSetupMerge": "false"}, "push": {"default": "current"}}
"""For the workspace's own repository with a protected .git/config. git cannot note there which branch of a remote
belongs to a new branch. So it is not to try, and to push to the branch of the same name."""
IDENTITY = {"name": "AGENT_GIT_NAME", "email": "AGENT_GIT_EMAIL"}
ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"})


def configure(environ: Mapping[str, str], report: Report) -> None:
    """Write the settings. Raises OSError."""
    replace(FOR_PROTECTED, "".join(_section(name, values) for name, values in SAVING.items()), report)
    replace(SETTINGS, settings(environ, has_certificates=HOST.exists()), report)


def settings(environ: Mapping[str, str], *, has_certificates: bool) -> str:
    """Return the file's text."""
    identity = {key: environ[name] for key, name in IDENTITY.items() if environ.get(name, "").strip()}
    trust = {"sslCAInfo": str(TRUSTED)} if has_certificates else {}
    is_protected = CONFIG in protected.paths(environ)
    own = [f'includeIf "gitdir:{WORKSPACE}/{name}"' for name in (".git", ".git/") if is_protected]
    saving = [_section(condition, {"path": str(FOR_PROTECTED)}) for condition in own]
    return _section("user", identity) + _section("http", trust) + "".join(saving)


def _section(name: str, values: Mapping[str, str]) -> str:
    lines = [f'\t{key} = "{value.translate(ESCAPES)}"\n' for key, value in values.items()]
    return "".join([f"[{name}]\n", *lines]) if lines else ""

"""Opens an issue about a newer CLI, with GitHub's own command. While one is open, no other is opened."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

LABEL = "cli-drift"
TITLE = "The newest Claude Code differs from what the bridge knows"
MOST = 50_000
"""Characters of the text. GitHub accepts 65,536."""


def report(output: Path) -> str:
    """Open an issue with the end of a session's output. Returns what was done. Raises CalledProcessError."""
    found = _gh("issue", "list", "--label", LABEL, "--state", "open", "--json", "number", "--jq", ".[].number").split()
    if found:
        return f"issue {found[0]} is open already"
    _gh("label", "create", LABEL, "--force", "--description", "A newer Claude Code has something new, gone or changed")
    return _gh("issue", "create", "--title", TITLE, "--label", LABEL, "--body-file", "-", text=_body(output)).strip()


def _body(output: Path) -> str:
    named = "GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID"
    server, repository, run = (os.environ.get(name, "") for name in named)
    text = output.read_text(errors="replace")[-MOST:].replace("```", "'''")
    return (
        f"The weekly comparison found differences: {server}/{repository}/actions/runs/{run}\n\n"
        "`nox -s cli_drift` prints the first part of it, and says where each new name belongs.\n\n"
        f"```text\n{text}\n```\n"
    )


def _gh(*words: str, text: str | None = None) -> str:
    return subprocess.run(["gh", *words], input=text, stdout=subprocess.PIPE, text=True, check=True).stdout

"""Finds the host's credentials. They leave this process only through a file descriptor, which the CLI inherits."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

TOKEN = "CLAUDE_CODE_OAUTH_TOKEN"  # noqa: S105 - the name of a variable
KEY = "ANTHROPIC_API_KEY"

UNUSABLE = "the host's login cannot be used; `claude-bridge-server doctor` on the host says why"

ELSEWHERE = (
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_VERTEX",
    "CLAUDE_CODE_USE_FOUNDRY",
    "ANTHROPIC_AUTH_TOKEN",
)
"""With one of these in the operator's environment, the CLI needs no credential from this module."""


class NoCredentialsError(Exception):
    """There is no usable credential. The text is one line that says what to do.

    `public_text` is the text for the container, without a path of the host.
    """

    def __init__(self, text: str, public_text: str = "") -> None:
        super().__init__(text)
        self.public_text = public_text or text


@dataclasses.dataclass(frozen=True)
class Credential:
    """A secret, and the variable that tells the CLI the number of its descriptor."""

    secret: str
    source: str
    is_key: bool

    def __repr__(self) -> str:
        return f"Credential(from {self.source})"

    @property
    def variable(self) -> str:
        """The variable that holds the descriptor's number."""
        return f"{'CLAUDE_CODE_API_KEY' if self.is_key else TOKEN}_FILE_DESCRIPTOR"

    def descriptor(self, uid: int, gid: int) -> int:
        """Return the read end of a pipe that holds only the secret. Raises OSError.

        It belongs to the user that the CLI runs as, because the CLI opens it again by its name in /dev/fd.
        """
        reading, writing = os.pipe2(os.O_CLOEXEC)
        os.write(writing, self.secret.encode())
        os.close(writing)
        os.fchown(reading, uid, gid)
        return reading


def find(
    choice: str, token: Path, environment: Mapping[str, str], operator: Mapping[str, str] | None = None
) -> Credential | None:
    """Return the credential to use; None if the operator's environment contains its own. Raises NoCredentialsError."""
    operator = operator or {}
    if choice != "auto":
        return _from_file(Path(choice), f"the file {choice}")
    if token.exists():
        return _from_file(token, "`claude-bridge-server login`")
    for where, variables in (("bridge.yaml", operator), ("the server's environment", environment)):
        for name in (TOKEN, KEY):
            if variables.get(name):
                return Credential(variables[name], f"{name} in {where}", name == KEY)
    if any(operator.get(name) for name in ELSEWHERE):
        return None
    return _own_login(environment)


def _from_file(path: Path, source: str) -> Credential:
    try:
        secret = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        text = f"{source} cannot be read ({error}); run `claude-bridge-server login`"
        raise NoCredentialsError(text, UNUSABLE) from None
    if not secret or len(secret) > 4096 or any(character.isspace() for character in secret):
        raise NoCredentialsError(f"{source} holds no token or key; run `claude-bridge-server login`", UNUSABLE)
    return Credential(secret, source, is_key(secret))


def is_key(secret: str) -> bool:
    """Return whether a secret is an API key. The long-lived tokens of `claude setup-token` begin with `sk-ant-oat`."""
    return not secret.startswith("sk-ant-oat")


def _own_login(environment: Mapping[str, str]) -> Credential:
    home = Path(environment.get("HOME") or Path.home())
    chosen = environment.get("CLAUDE_CONFIG_DIR")
    for directory in [Path(chosen)] if chosen else [home / ".claude", home / ".config/claude-code"]:
        try:
            login = json.loads((directory / ".credentials.json").read_text())["claudeAiOauth"]
            secret, expires = str(login["accessToken"]), float(login.get("expiresAt") or "inf") / 1000
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError):
            text = f"the login in {directory} cannot be read; run `claude` on the host"
            raise NoCredentialsError(text, UNUSABLE) from None
        if expires < time.time():
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(expires))
            raise NoCredentialsError(
                f"the host's login expired on {when}; run `claude` there once, or `claude-bridge-server login`"
            )
        return Credential(secret, f"the login in {directory}", is_key=False)
    raise NoCredentialsError("the host's Claude Code is not logged in; run `claude-bridge-server login` on the host")

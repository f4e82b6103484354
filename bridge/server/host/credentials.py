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

FILE = ".credentials.json"
"""The CLI's file with its login, in its configuration directory."""

AGAIN = "run `claude` on the host and log in, or `claude-bridge-server login` there with a long-lived token"

LONG_LIVED = "`claude-bridge-server login` with a long-lived token (of `claude setup-token`)"
"""The remedy for a login that ends."""

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
    expires: float = float("inf")
    """When it ends, as `time.time` counts; infinite if that is not known."""
    directory: Path | None = None
    """The CLI's configuration directory with the host's own login; None for any other credential."""
    is_renewable: bool = False
    """Whether the host's CLI can renew it: there is a refresh token beside it."""

    def __repr__(self) -> str:
        return f"Credential(from {self.source})"

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.expires <= time.time()

    @property
    def lasts(self) -> str:
        """How long it lasts, and what makes it last longer, without a path of the host."""
        if self.directory is None:
            return "its end is not known here"
        if self.expires == float("inf"):
            return "its end is not known"
        until = f"{'ended' if self.is_over else 'lasts until'} {moment(self.expires)}"
        if self.is_renewable:
            return f"{until}, and is renewed before; {LONG_LIVED} needs no renewal"
        return f"{until}, and cannot be renewed; {LONG_LIVED} lasts a year"

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
    """Return the credential to use; None if the operator's environment contains its own. The host's own login may have
    ended. Raises NoCredentialsError."""
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


def moment(when: float) -> str:
    """Return a time as people read it, with its time zone."""
    return time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(when))


def _own_login(environment: Mapping[str, str]) -> Credential:
    home = Path(environment.get("HOME") or Path.home())
    chosen = environment.get("CLAUDE_CONFIG_DIR")
    for directory in [Path(chosen)] if chosen else [home / ".claude", home / ".config/claude-code"]:
        try:
            login = json.loads((directory / FILE).read_text())["claudeAiOauth"]
            secret, renews = str(login["accessToken"]), bool(login.get("refreshToken"))
            expires = float(login.get("expiresAt") or "inf") / 1000
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError):
            text = f"the login in {directory} cannot be read; run `claude` on the host"
            raise NoCredentialsError(text, UNUSABLE) from None
        if not secret:  # the CLI empties it when the account refuses to renew it
            raise NoCredentialsError(
                f"the login in {directory} was ended; {AGAIN}", f"the host's login was ended; {AGAIN}"
            )
        return Credential(secret, f"the login in {directory}", False, expires, directory, renews)
    raise NoCredentialsError("the host's Claude Code is not logged in; run `claude-bridge-server login` on the host")


def over(found: Credential, why: str = "") -> NoCredentialsError:
    """Return the error of a login that has ended. `why` says why it was not renewed, without a path of the host."""
    text = f"the host's login expired on {moment(found.expires)}{f', and {why}' if why else ''}; {AGAIN}"
    return NoCredentialsError(text)

"""Keeps the host's own login good: has the host's CLI renew it before it ends, and reads it again.

The login is an access token of some hours with a refresh token beside it. Both belong to the CLI, which renews them
under a lock of its own, as it does when the operator uses it. This module never uses the refresh token. It runs a
command of the CLI that asks no model, starts no MCP server, and needs the login:

    claude mcp get NAME     for a server that nobody has; the CLI looks among those of the account, and for that it
                            renews a login with less than five minutes left (2.1.197 to 2.1.332)

There is one renewal at a time, however many calls wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bridge.server.host import credentials
from bridge.server.host.credentials import Credential, NoCredentialsError

COMMAND = ("mcp", "get", "claude-code-bridge-renews-the-login")

RENEW_BEFORE_S = 240.0
"""Seconds before its end at which a login is renewed. The CLI itself renews one with less than 300 s left, so that
none is asked in vain. Of a login that lasts shorter, it is the last quarter."""

URGENT = 0.25
"""The share of that time in which a call waits for the renewal."""

LOOK_EVERY_S = 30.0
"""How often the login is looked at, at least. A host that was suspended is noticed after it, or by the next call."""

RENEW_LIMIT_S = 180.0
"""Seconds for the CLI. It takes two, or ten if another one holds the lock. It is not ended sooner: it may have the new
login and not have written it yet."""

WAIT_S = 45.0
"""Seconds that a call waits for a renewal."""

FIRST_PAUSE_S, MAX_PAUSE_S = 5.0, 300.0
"""Seconds between a renewal that failed and the next. Each is twice as long as the one before."""

PATIENCE = 3
"""How many renewals in a row may fail until calls wait no longer for the next. The network of a host that was suspended
takes some seconds."""

PASSED = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "CLAUDE_CONFIG_DIR", "CLAUDE_CODE_CERT_STORE",
    "CLAUDE_CODE_CLIENT_CERT", "CLAUDE_CODE_CLIENT_KEY", "CLAUDE_CODE_CLIENT_KEY_PASSPHRASE",
    "NODE_EXTRA_CA_CERTS", "SSL_CERT_DIR", "SSL_CERT_FILE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
    "http_proxy", "https_proxy", "all_proxy", "no_proxy",
)  # fmt: skip
"""Variables of the server's that the CLI gets: where it is, whose it is, and the way to the network. bridge.yaml's
come before them."""


class Login:
    """The credential of the calls. `find` returns it, `program` the host's CLI, `operator` the variables of
    bridge.yaml. `note` writes to the audit log and `say` to the server's own."""

    def __init__(
        self,
        find: Callable[[], Credential | None],
        program: Callable[[], Path | None],
        operator: Callable[[], Mapping[str, str]],
        note: Callable[..., None],
        say: Callable[[str], None],
    ) -> None:
        self.problem = ""
        """Why the last renewal failed, without a path of the host; empty if it did not."""
        self._find = find
        self._program = program
        self._operator = operator
        self._note = note
        self._say = say
        self._known = ""
        """The secret that `_had` is about."""
        self._had = 0.0
        """How many seconds the login had left when it was first seen."""
        self._failures = 0
        self._not_before = 0.0
        """When the next renewal may begin."""
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look at the login from now on."""
        self._look()

    def close(self) -> None:
        """Look no longer. A renewal that is under way ends by itself: the CLI may hold the only new login."""
        if self._timer is not None:
            self._timer.cancel()

    # For calls

    def credential(self) -> Credential | None:
        """Return the credential that a call starts with; None if the operator's environment contains its own. Raises
        NoCredentialsError."""
        found = self._find()
        if found is not None and found.is_over:
            raise credentials.over(found, self.problem)
        return found

    @property
    def is_wanted(self) -> bool:
        """Whether a call must wait until the login is renewed."""
        found = self._own()
        return found is not None and self._is_urgent(found) and (self._may_try(found) or self._failures <= PATIENCE)

    async def wait(self) -> None:
        """Wait until the login is good or could not be renewed, at most WAIT_S seconds."""
        deadline = time.monotonic() + WAIT_S
        while self.is_wanted and (left := deadline - time.monotonic()) > 0:
            pause = 0.0 if self._task else self._not_before - time.monotonic()
            if pause > left:
                return
            if pause > 0:
                await asyncio.sleep(pause)
            else:
                await asyncio.wait({self._renewal()}, timeout=left)

    async def present(self, given: str) -> str:
        """Return the secret for a request of a call that was given `given` at its start. Raises NoCredentialsError."""
        await self.wait()
        found = self.credential()
        return given if found is None or found.is_key else found.secret

    # For the operator

    def status(self) -> dict[str, Any]:
        """Return where the login comes from and how long it lasts."""
        try:
            found = self._find()
        except NoCredentialsError as error:
            return {"source": "", "lasts": "", "expires": None, "renewed": False, "problem": str(error)}
        if found is None:
            source, lasts = "the environment in bridge.yaml", "its end is not known here"
            return {"source": source, "lasts": lasts, "expires": None, "renewed": False, "problem": ""}
        expires = None if found.expires == float("inf") else round(found.expires, 3)
        problem = self.problem and f"{self.problem}; {credentials.AGAIN}"
        if found.is_over and not (found.is_renewable and self._may_try(found)):
            problem = str(credentials.over(found, self.problem))
        return {
            "source": found.source,
            "lasts": found.lasts,
            "expires": expires,
            "renewed": found.is_renewable,
            "problem": problem,
        }

    @property
    def public(self) -> tuple[str, str]:
        """What a container may know: how long the login lasts, and why calls fail, each empty if there is nothing to
        say. Without a path of the host."""
        try:
            found = self._find()
        except NoCredentialsError as error:
            return "", error.public_text
        if found is None or found.directory is None:
            return "", ""
        if found.is_over and not (found.is_renewable and self._may_try(found)):
            return "", credentials.over(found, self.problem).public_text
        return f"the host's login {found.lasts}{f'; {self.problem}' if self.problem else ''}", ""

    # The renewal

    def _look(self) -> None:
        """Renew the login if it is time for that. Look again later."""
        loop, pause = asyncio.get_running_loop(), LOOK_EVERY_S
        found = self._own()
        if found is not None:
            due = self._left(found) - self._margin(found)
            if due <= 0 and self._may_try(found):
                self._renewal()
            pause = min(pause, max(due, self._not_before - time.monotonic(), 0.2))
        self._timer = loop.call_later(pause, self._look)

    def _own(self) -> Credential | None:
        """Return the host's own login, if it is what calls use and can be renewed."""
        try:
            found = self._find()
        except NoCredentialsError:
            return None
        return found if found is not None and found.is_renewable else None

    @staticmethod
    def _left(found: Credential) -> float:
        return found.expires - time.time()

    def _margin(self, found: Credential) -> float:
        """Return how many seconds before its end the login is renewed."""
        if found.secret != self._known:
            self._known, self._had = found.secret, max(self._left(found), 0.0)
            self.problem, self._failures, self._not_before = "", 0, 0.0
        return min(RENEW_BEFORE_S, self._had / 4)

    def _is_urgent(self, found: Credential) -> bool:
        return self._left(found) <= self._margin(found) * URGENT

    def _may_try(self, found: Credential) -> bool:
        """Whether a renewal is under way, or may begin."""
        self._margin(found)
        return self._task is not None or time.monotonic() >= self._not_before

    def _renewal(self) -> asyncio.Task[None]:
        """Return the renewal that is under way, or begin one."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._renew())
            self._task.add_done_callback(self._on_done)
        return self._task

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and (error := task.exception()):
            self._fail(f"the host's CLI could not renew it ({type(error).__name__})")

    async def _renew(self) -> None:
        before, program = self._own(), self._program()
        if before is None or before.directory is None:
            return
        if program is None:
            self._fail("the host has no Claude Code that could renew it")
            return
        margin = self._margin(before)
        try:
            code = await run(program, before.directory, self._operator())
        except OSError as error:
            self._fail(f"the host's CLI could not be started ({error.strerror})", margin)
            return
        try:
            after = self._find()
        except NoCredentialsError:
            self._fail("the account refuses to renew it", margin)
            return
        if after is None or after.secret == before.secret:
            why = f"within {RENEW_LIMIT_S:g} s" if code is None else f"and ended with {code}"
            self._fail(f"the host's CLI did not renew it {why} (is the network there?)", margin)
            return
        self._margin(after)
        self._note("renewed", until=credentials.moment(after.expires))

    def _fail(self, why: str, margin: float = RENEW_BEFORE_S) -> None:
        pause = min(min(FIRST_PAUSE_S, margin / 8) * 2**self._failures, MAX_PAUSE_S)
        self._failures += 1
        self._not_before = time.monotonic() + pause
        if why != self.problem:
            self._say(f"the host's login: {why}; {credentials.AGAIN}")
        self.problem = why
        self._note("failed", why=f"the login was not renewed: {why}", again_s=round(pause))


async def run(program: Path, directory: Path, operator: Mapping[str, str]) -> int | None:
    """Run the CLI so that it renews the login in a directory. Returns its exit code; None if it took too long.

    It runs as the owner of the file, who must be able to read it afterwards. Raises OSError.
    """
    named = {**os.environ, **operator}
    environment = {name: named[name] for name in PASSED if name in named}
    environment |= {"DISABLE_AUTOUPDATER": "1", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
    owner = (directory / credentials.FILE).stat()
    identity: dict[str, Any] = {}
    if os.geteuid() == 0 and owner.st_uid != 0:
        identity = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    process = await asyncio.create_subprocess_exec(
        str(program),
        *COMMAND,
        env=environment,
        cwd="/",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
        **identity,
    )
    try:
        return await asyncio.wait_for(process.wait(), RENEW_LIMIT_S)
    except asyncio.TimeoutError:  # noqa: UP041 - an alias of TimeoutError since Python 3.11
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        return None

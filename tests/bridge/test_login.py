"""The host's own login lasts: the host's CLI renews it, once for all calls, which never see the end of one."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bridge.server.host import login as renewing
from tests.support.bridge_cli import NEWEST, OLDEST, VERSIONS, installed
from tests.support.bridge_host import BridgeHost, passable
from tests.support.fake_account import FakeAccount
from tests.support.screen import READY, SHELL, Screen
from tests.support.stream_json import STREAM, user
from tests.support.tool_calls import FREE
from tests.support.waiting import wait_until

LONG_S = 28_800.0
"""Seconds that a real login lasts."""
NO_KEY = {"ANTHROPIC_API_KEY": "", "CLAUDE_CODE_MAX_RETRIES": "0"}


class Desk:
    """A server that uses the host's own login, the account, and the file with the login."""

    def __init__(self, directory: Path, version: str, lasts: float, **more: Any) -> None:
        self.account = FakeAccount(directory / "account", lasts)
        self.version = version
        environment = {**NO_KEY, **self.account.variables}
        self.host = BridgeHost(directory, claude=str(installed(version)), environment=environment, **more)
        self.file = directory / "home/.claude/.credentials.json"

    def log_in(self, lasts: float | None = None) -> None:
        self.account.log_in(self.file.parent, lasts)

    @property
    def login(self) -> dict[str, Any]:
        """What the status says of the login."""
        found: dict[str, Any] = self.host.status()["login"]
        return found

    @property
    def failures(self) -> int:
        """How many renewals failed."""
        return sum(entry["event"] == "failed" and "renewed" in entry["why"] for entry in self.host.audit())


@contextlib.contextmanager
def desk(
    directory: Path, version: str, lasts: float, left: float | None = None, is_used: bool = False, **more: Any
) -> Iterator[Desk]:
    """Run such a server. `left` is how long the first login lasts, if not `lasts`. `is_used`: the CLI has run in its
    directory before, as after a person's login. In its first run, 2.1.332 looks at the login twice, and renews one
    that lasts seconds each time."""
    made = Desk(directory, version, lasts, **more)
    with made.account:
        if is_used:
            made.log_in(LONG_S)
            variables = {**made.account.variables, "HOME": str(made.file.parent.parent)}
            asyncio.run(renewing.run(installed(version), made.file.parent, variables))
            assert not made.account.asked
        made.log_in(left)
        made.host.start()
        try:
            yield made
        except BaseException:
            print(made.host.log.read_text(), made.host.audit(), sep="\n")
            raise
        finally:
            if made.host.process is not None and made.host.process.poll() is None:
                made.host.end()


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory whose sockets have short paths, and whose certificate the grants' users can read."""
    return passable(tmp_path_factory.mktemp("login"))


@pytest.mark.parametrize("version", VERSIONS)
def test_login_that_has_ended_is_renewed_once_for_all_calls_that_start(directory: Path, version: str) -> None:
    """As on a laptop that slept: the server looks only later, and the calls come first."""
    with desk(directory, version, LONG_S) as one:
        places = [one.host.grant(f"many-{number}") for number in range(3)]
        one.log_in(-60)
        with ThreadPoolExecutor() as pool:
            done = list(pool.map(lambda place: place.run("-p", "hello"), places))
        assert [(each.returncode, each.stdout) for each in done] == [(0, b"heard: hello\n")] * 3, done
        assert not any(b"certs" in each.stderr for each in done), "the CLI can read the operator's authority"
        assert one.account.renewals == len(one.account.asked) == 1
        assert sum(entry["event"] == "renewed" for entry in one.host.audit()) == 1, "the CLI was run once"
        assert not one.account.rejected
        written = json.loads(one.file.read_text())["claudeAiOauth"]
        assert written["refreshToken"] == one.account.refresh, "the CLI has written the login"
        assert one.file.stat().st_mode & 0o777 == 0o600
        login = one.login
        assert (login["source"], login["renewed"], login["problem"]) == (f"the login in {one.file.parent}", True, "")
        assert login["expires"] == written["expiresAt"] / 1000


@pytest.mark.parametrize("version", VERSIONS)
def test_program_outlives_its_login(directory: Path, version: str) -> None:
    """One that holds a session open gets an answer with the next login, over the same process."""
    with desk(directory, version, 8.0) as one:
        place = one.host.grant("program")
        with place.start("-p", *STREAM) as running:
            for number in range(3):
                running.stdin.write(user(f"question {number}"))
                running.stdin.flush()
                lines = iter(running.line, b"")
                result = next(json.loads(line) for line in lines if b'"type":"result"' in line)
                assert result["result"] == f"heard: question {number}", result
                end = one.account.tokens[one.account.api.prompts[-1].key]
                wait_until(lambda end=end: end < time.time(), 20, "the end of its login")  # type: ignore[misc]
            running.end()
        assert len({request.key for request in one.account.api.prompts}) == 3
        assert not one.account.rejected


def test_renewal_that_fails_is_told_and_tried_again(directory: Path) -> None:
    with desk(directory, NEWEST, 6.0) as one:
        place = one.host.grant("refused")
        one.account.internet.otherwise = 9  # nobody listens: the OAuth server is away
        wait_until(lambda: "did not renew it" in one.login["problem"], 20, "a renewal that fails")
        wait_until(lambda: one.login["expires"] < time.time(), 20, "the end of the login")
        refused = place.run("-p", "hello")
        assert refused.returncode == 125
        assert b"the host's login expired on" in refused.stderr
        assert b"`claude-bridge-server login`" in refused.stderr
        assert str(directory).encode() not in refused.stderr
        doctor = one.host.tell("doctor").stdout
        assert "FAIL credentials: from the login in" in doctor
        one.account.internet.otherwise = one.account.oauth.server_port
        wait_until(lambda: one.account.renewals, 30, "a renewal that works")
        wait_until(lambda: not one.login["problem"], 10, "no problem any more")
        assert place.run("-p", "hello").stdout == b"heard: hello\n"


def test_login_that_the_account_has_ended_says_to_log_in_again(directory: Path) -> None:
    """The CLI empties its file then, and nothing is asked any more."""
    with desk(directory, NEWEST, LONG_S) as one:
        place = one.host.grant("ended")
        one.account.refuses = True
        one.log_in(-60)
        refused = place.run("-p", "hello")
        assert (refused.returncode, one.account.renewals) == (125, 0)
        assert b"was ended; run `claude` on the host and log in" in refused.stderr, refused.stderr
        asked = len(one.account.asked)
        assert place.run("-p", "hello").returncode == 125
        assert len(one.account.asked) == asked
        assert "was ended" in one.login["problem"]


def test_status_and_doctor_say_how_long_the_login_lasts(directory: Path) -> None:
    with desk(directory, NEWEST, LONG_S) as one:
        for said in (one.host.tell("status").stdout, one.host.tell("doctor").stdout):
            (line,) = [line for line in said.splitlines() if "from the login in" in line]
            assert "lasts until" in line
            assert "and is renewed before" in line
            assert "`claude-bridge-server login` with a long-lived token" in line
        login = json.loads(one.file.read_text())
        login["claudeAiOauth"]["refreshToken"] = ""
        one.file.write_text(json.dumps(login))
        assert "cannot be renewed" in one.login["lasts"]


# A clock of minutes


Clock = tuple[str, float, int, int]
"""Version, seconds that a login lasts, expiries and calls."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A short clock with the oldest version, which is the slower one; `-- --complete`: both versions, whole."""
    if "clock" in metafunc.fixturenames:
        is_complete = metafunc.config.getoption("--complete")
        clocks = [(version, 20.0, 10, 50) for version in VERSIONS] if is_complete else [(OLDEST, 10.0, 3, 10)]
        metafunc.parametrize("clock", clocks, ids=lambda clock: "oldest" if clock[0] == OLDEST else "latest")


def test_calls_over_many_expiries(directory: Path, clock: Clock) -> None:
    """None fails, there is one renewal for each expiry, and no token is found where it must not be."""
    version, lasts, expiries, calls = clock
    with desk(directory, version, lasts, is_used=True, sleep=0) as one, ExitStack() as stack:
        account, place = one.account, one.host.grant("clock")
        screens = [
            stack.enter_context(contextlib.closing(Screen(directory / f"screen-{n}", place.box(*SHELL), "/app/claude")))
            for n in range(2)
        ]
        for screen in screens:
            screen.type(" ".join([screen.claude, *FREE]), "Enter")
        for screen in screens:
            see(screen, READY)
        seen: set[str] = set()
        for number in range(calls - 4):
            wait_until(lambda n=number: account.renewals * (calls - 4) >= (n - 1) * expiries, 60, "its moment")  # type: ignore[misc]
            seen |= tokens_in_processes(account)
            done = place.run("-p", f"call {number}")
            assert (done.returncode, done.stdout) == (0, f"heard: call {number}\n".encode()), done
            if number in (calls // 3, calls // 2):
                for index, screen in enumerate(screens):
                    text = f"at {number} from {index}"
                    screen.type(text)
                    see(screen, text)
                    screen.type("", "Enter")
                    see(screen, f"heard: {text}")
        wait_until(lambda: account.renewals >= expiries, 60, "the last renewal")
        assert account.renewals == len(account.asked), "no renewal was asked for in vain"
        moments = [moment for moment, _ in account.asked]
        gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
        assert min(gaps) >= lasts * 0.7, f"one renewal for each expiry: {gaps}"
        assert not account.rejected
        assert not one.failures
        assert not seen, "no token stands in an argument list or an environment"
        texts = [path for path in (directory / "state").rglob("*") if path.is_file()]
        texts += [one.host.log, *(path for path in place.workspace.rglob("*") if path.is_file())]
        for path in texts:
            text = path.read_text(errors="replace")
            assert not [token for token in (*account.tokens, account.refresh) if token in text], path


def see(screen: Screen, text: str) -> None:
    """Wait for a text. It may come as late as a renewal, a start and an answer of a busy machine."""
    wait_until(lambda: text in screen.text, 60, f"{text!r} on the screen")


def tokens_in_processes(account: FakeAccount) -> set[str]:
    """Return where a token stands in the arguments or the environment of a process."""
    found, secrets = set(), [token.encode() for token in (*account.tokens, account.refresh)]
    for process in [path for path in Path("/proc").iterdir() if path.name.isdigit()]:
        for path in (process / "cmdline", process / "environ"):
            with contextlib.suppress(OSError):  # ignored because processes end
                text = path.read_bytes()
                found |= {str(path) for secret in secrets if secret in text}
    return found

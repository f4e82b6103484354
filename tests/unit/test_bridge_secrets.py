"""Secrets that the CLI needs as variables, on a kernel without Landlock; paths that no container may learn."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bridge.policy.environment import without_long_wait
from bridge.server.host import credentials
from bridge.server.host.claude_cli import HostCli
from bridge.server.launch import for_bare
from bridge.server.sandbox import bubblewrap
from bridge.server.sandbox.bubblewrap import ConfinementError, refuse_what_could_be_read

OLD, NEW = "2.1.197 (Claude Code)", "2.1.332 (Claude Code)"


@pytest.fixture
def without_landlock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without Landlock."""
    monkeypatch.setattr(bubblewrap, "has_landlock", lambda: False)


NAMES = ["AWS_SECRET_ACCESS_KEY", "ANTHROPIC_AUTH_TOKEN", "DB_PASSWORD", "X_API_KEY", "ANTHROPIC_CUSTOM_HEADERS"]


@pytest.mark.parametrize("name", NAMES)
def test_secret_with_an_old_cli_needs_landlock(without_landlock: None, name: str) -> None:
    with pytest.raises(ConfinementError, match=rf"{name}.*2\.1\.332 or newer"):
        refuse_what_could_be_read({name: "x"}, OLD)
    refuse_what_could_be_read({name: "x"}, NEW)
    refuse_what_could_be_read({name: ""}, OLD)


def test_what_is_no_secret_is_no_matter_without_landlock(without_landlock: None) -> None:
    harmless = {"CLAUDE_CODE_MAX_OUTPUT_TOKENS": "1", "AWS_REGION": "x", "HTTPS_PROXY": "http://x"}
    refuse_what_could_be_read(harmless, OLD)


def test_landlock_keeps_secrets_of_any_cli() -> None:
    refuse_what_could_be_read(dict.fromkeys(NAMES, "x"), OLD)


def test_container_is_told_no_path_of_a_login(tmp_path: Path) -> None:
    broken = tmp_path / ".claude" / ".credentials.json"
    broken.parent.mkdir()
    broken.write_text("{")
    for choice, environment in (("auto", {"HOME": str(tmp_path)}), (str(tmp_path / "token"), {})):
        with pytest.raises(credentials.NoCredentialsError) as caught:
            credentials.find(choice, tmp_path / "none", environment)
        assert str(tmp_path) in str(caught.value)
        assert str(tmp_path) not in caught.value.public_text


def test_container_is_told_no_path_of_the_cli(tmp_path: Path) -> None:
    cli = HostCli(str(tmp_path / "claude"))
    assert cli.find() is None
    assert str(tmp_path) in cli.problem
    assert str(tmp_path) not in cli.public_problem


def test_call_with_bare_gets_a_placeholder_and_never_a_key() -> None:
    """With --bare the CLI reads a key from its environment alone, where other processes could read it too."""
    real = credentials.Credential("sk-ant-api03-real", "a test", is_key=True)
    hidden = dataclasses.replace(real, secret="placeholder")
    assert for_bare({b"A": b"b"}, hidden, real) == {b"A": b"b", b"ANTHROPIC_API_KEY": b"placeholder"}
    with pytest.raises(credentials.NoCredentialsError, match="--bare"):
        for_bare({}, real, real)


def test_project_has_servers_that_the_cli_waits_for_as_for_its_own() -> None:
    assert without_long_wait({})[b"CLAUDE_CODE_MCP_STARTUP_WAIT_MS"] == b"2000"
    asked = {b"CLAUDE_CODE_MCP_STARTUP_WAIT_MS": b"9"}
    assert without_long_wait(asked) == asked


@pytest.mark.parametrize(("version", "ignored"), [("2.1.197", {"auto"}), ("2.1.332", {"auto", "bypassPermissions"})])
def test_modes_of_a_project_that_each_version_ignores(version: str, ignored: set[str]) -> None:
    cli = HostCli(None)
    cli.version = f"{version} (Claude Code)"
    assert cli.ignored_modes == ignored

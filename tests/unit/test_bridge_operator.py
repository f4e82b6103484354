"""The operator's command line: options in any position, help, and output."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge import __version__
from bridge.server.operator.cli import _parser, main
from bridge.server.operator.report import status_lines

COMMANDS = {
    "serve": ["--workspace", "/w"],
    "grant": ["alpha", "--workspace", "/w"],
    "revoke": ["alpha"],
    "status": ["--json"],
    "explain": ["--grant", "alpha"],
    "login": [],
    "doctor": [],
    "install": ["--user", "1000"],
}
COMMON = ["--state", "/s", "--config", "/c"]


def parsed(*words: str) -> dict[str, object]:
    return vars(_parser().parse_args(words))


def test_every_command_is_in_the_table() -> None:
    assert _parser().format_help().count("\n    ") >= len(COMMANDS)
    for name in COMMANDS:
        assert f"\n    {name} " in _parser().format_help()


@pytest.mark.parametrize("name", COMMANDS)
def test_common_options_mean_the_same_before_and_after_the_command(name: str) -> None:
    words = COMMANDS[name]
    before = parsed(*COMMON, name, *words)
    assert (before["state"], before["config"]) == (Path("/s"), Path("/c"))
    assert parsed(name, *COMMON, *words) == before
    assert parsed(name, *words, *COMMON) == before
    assert parsed(*COMMON[:2], name, *words, *COMMON[2:]) == before


@pytest.mark.parametrize("name", COMMANDS)
def test_common_option_that_stands_last_counts(name: str) -> None:
    assert parsed("--state", "/other", name, *COMMANDS[name], "--state", "/s")["state"] == Path("/s")
    assert parsed("--config", "/other", name, "--config", "/c", *COMMANDS[name])["config"] == Path("/c")


@pytest.mark.parametrize("name", COMMANDS)
def test_usual_places_are_used_when_no_common_option_is_given(name: str) -> None:
    found = parsed(name, *COMMANDS[name])
    assert (found["state"], found["config"]) == (None, None)


def test_options_among_claude_s_arguments_are_claude_s() -> None:
    found = parsed("--state", "/s", "explain", "--", "-p", "hi", "--state", "/x", "--version")
    assert (found["state"], found["arguments"]) == (Path("/s"), ["--", "-p", "hi", "--state", "/x", "--version"])


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_of_each_command_names_the_common_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*filter(None, [name]), "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    assert text.startswith(f"usage: claude-bridge-server {name}".rstrip())
    assert "options of every command, before or after it; the last one counts: --state DIR" in text
    assert text.count("--config FILE the operator's choices (default /") == 1
    assert "SUPPRESS" not in text


@pytest.mark.parametrize("words", [["--version"], ["status", "--version"]])
def test_version(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(words)
    assert capsys.readouterr().out == f"claude-bridge-server {__version__}\n"


@pytest.mark.parametrize("place", ["before", "after"])
def test_state_directory_that_was_named_is_the_one_that_is_asked(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    option = ["--state", str(tmp_path / "state")]
    assert main([*option, "status"] if place == "before" else ["status", *option]) == 1
    assert f"no server runs in {tmp_path / 'state'}; start one with `claude-bridge-server serve`" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("place", ["before", "after"])
def test_configuration_that_was_named_is_the_one_that_is_read(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bridge.yaml").write_text("policy: {refuse: ['--model']}")
    option = ["--config", str(tmp_path / "bridge.yaml")]
    words = [*option, "explain"] if place == "before" else ["explain", *option]
    assert main([*words, "--", "-p", "hi", "--model", "opus"]) == 126
    assert capsys.readouterr().out.startswith("refuse   --model")


def test_status_is_a_table_whose_columns_stand_under_each_other() -> None:
    call = {"age_s": 7.4, "waits_for": "a place", "ahead": 2}
    grant = {"running": 1, "queued": 12, "connections": 3, "calls": [call], "workspace": "/w", "problem": ""}
    grant = {**grant, "budgets": []}
    other = {**grant, "calls": [], "workspace": "/other", "problem": "is gone"}
    login = {"source": "the login in /h", "lasts": "lasts until noon", "problem": "nobody renews it"}
    answer = {"cli": "1.2.3", "login": login, "uptime_s": 61.0, "running": 2, "queued": 24, "served": 9, "held": None}
    assert status_lines({**answer, "grants": {"a-name-of-more-than-20-letters": grant, "b": other}}) == [
        "Claude Code 1.2.3; up 61 s",
        "login: from the login in /h; lasts until noon; nobody renews it",
        "2 running, 24 queued, 9 served",
        "GRANT                           RUNNING  QUEUED  CONNECTIONS  OLDEST  WORKSPACE",
        "a-name-of-more-than-20-letters        1      12            3     7 s  /w",
        "b                                     1      12            3       -  /other  (is gone)",
        "a call of a-name-of-more-than-20-letters waits for a place (2 ahead)",
    ]

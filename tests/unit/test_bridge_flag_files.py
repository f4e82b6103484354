"""Files that flags name: the client reads them in the container, and the policy judges their texts."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from bridge.client import flag_files, main
from bridge.client.flag_files import FLAGS, MAX_TEXT
from bridge.policy.argv import Plan, rewrite
from bridge.policy.flags import BY_NAME
from bridge.policy.terms import CliError, PolicyError, Scope
from bridge.protocol.frames import NUL

IN_CONTAINER = Scope(runs_commands=True)


def sent(*argv: str) -> dict[str, tuple[str, bytes]]:
    """Return what the client sends for these arguments: for each name the error and the text."""
    found = [entry.split(b"\n", 2) for entry in flag_files.flag_files([os.fsencode(word) for word in argv])]
    return {os.fsdecode(name): (error.decode(), text) for name, error, text in found}


def plan(*argv: str, **texts: str) -> Plan:
    """Judge arguments whose files have these texts; a text that begins with an exclamation mark is an error."""
    given = [f"{name}\n{text[1:]}\n" if text[:1] == "!" else f"{name}\n\n{text}" for name, text in texts.items()]
    return rewrite(["-p", "hi you", *argv], IN_CONTAINER, "/workspace/sub", texts=[one.encode() for one in given])


def values(plan: Plan, flag: str) -> list[str]:
    """Return the values of a flag that is run."""
    return [word.partition("=")[2] for word in plan.argv if word.startswith(f"{flag}=")]


def test_client_and_policy_know_the_same_flags() -> None:
    assert {name.decode() for name in FLAGS} == {name for name, flag in BY_NAME.items() if flag.is_file}
    assert all(name.startswith(main._FLAGS_WITH_FILES) for name in FLAGS)


# The client


@pytest.mark.parametrize(
    "argv",
    [
        ("--settings", "{}/a"),
        ("--settings={}/a",),
        ("-p", "--mcp-config", "nowhere", "{}/a", "--verbose"),
        ("--mcp-config", '{"mcpServers": {}}', "{}/a"),
    ],
)
def test_file_is_read(tmp_path: Path, argv: tuple[str, ...]) -> None:
    (tmp_path / "a").write_bytes(b"text\n\0")
    found = sent(*(word.replace("{}/", f"{tmp_path}/") for word in argv))
    assert found[f"{tmp_path}/a"] == ("", b"text\n" + NUL)


@pytest.mark.parametrize(
    "argv", [("--model", "{}"), ("{}",), ("--", "--settings", "{}"), ("--settings", "--verbose", "{}"), ("-p", "{}")]
)
def test_other_words_are_no_files(tmp_path: Path, argv: tuple[str, ...]) -> None:
    (tmp_path / "a").write_text("text")
    assert not sent(*(word.replace("{}", str(tmp_path / "a")) for word in argv))


def test_json_is_no_name() -> None:
    assert not sent("--settings", ' {"model": "opus"}', "--mcp-config={}")


def test_errors_have_names(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"x" * (MAX_TEXT + 1))
    names = [str(tmp_path / "none"), str(tmp_path), str(tmp_path / "long"), "/dev/zero"]
    assert [error for error, _ in sent("--mcp-config", *names).values()] == ["ENOENT", "EISDIR", "EFBIG", "ENXIO"]


def test_all_files_together_are_bounded(tmp_path: Path) -> None:
    names = [str(tmp_path / str(number)) for number in range(40)]
    for name in names:
        Path(name).write_bytes(b"x" * 60_000)
    found = sent("--mcp-config", *names)
    assert len(found) == flag_files.MAX_WORDS
    assert [error for error, _ in found.values()][:4] == ["", "", "EFBIG", "EFBIG"]


def test_pipe_is_read_to_its_end_without_blocking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"first ")

    def go_on() -> None:
        os.write(writing, b"second")
        os.close(writing)

    writer = threading.Timer(0.2, go_on)
    writer.start()
    assert sent("--settings", f"/dev/fd/{reading}") == {f"/dev/fd/{reading}": ("", b"first second")}
    writer.join()
    monkeypatch.setattr(flag_files, "PIPE_S", 0.1)
    reading, writing = os.pipe()  # nobody ever writes to this one
    assert sent("--settings", f"/dev/fd/{reading}")[f"/dev/fd/{reading}"][0] == "ETIMEDOUT"
    os.mkfifo(tmp_path / "pipe")
    assert sent("--settings", str(tmp_path / "pipe"))[str(tmp_path / "pipe")] == ("", b"")


def test_notes_are_for_a_person_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLAUDE_BRIDGE_NOTES", raising=False)
    monkeypatch.setattr("os.isatty", lambda descriptor: descriptor == 2)
    assert main._wants_notes([b"-p", b"answer in json"])
    assert not main._wants_notes([b"-p", b"--output-format", b"stream-json"])
    assert not main._wants_notes([b"-p", b"--output-format=json"])
    monkeypatch.setattr("os.isatty", lambda descriptor: False)
    assert not main._wants_notes([b"-p"])
    monkeypatch.setenv("CLAUDE_BRIDGE_NOTES", "always")
    assert main._wants_notes([b"-p", b"--output-format=json"])


# The policy


def test_text_of_a_file_is_judged_like_the_text_itself() -> None:
    server = {"mcpServers": {"x": {"type": "stdio", "command": "cat", "args": []}}}
    assert json.loads(values(plan("--mcp-config", "m", m=json.dumps(server)), "--mcp-config")[0]) == server
    assert values(plan("--settings", "s", s='\ufeff{"model": "opus"}'), "--settings") == ['{"model": "opus"}']
    with pytest.raises(PolicyError, match="apiKeyHelper"):
        plan("--settings", "s", s='{"apiKeyHelper": "x"}')
    with pytest.raises(PolicyError, match="hook of Stop"):
        plan("--agents", "a", a='{"x": {"description": "d", "prompt": "p", "hooks": {"Stop": [{"hooks": [1]}]}}}')


def test_several_values_are_one_configuration() -> None:
    found = plan(
        "--mcp-config", "m", '{"mcpServers": {"b": {"command": "b"}}}', m='{"mcpServers":{"a":{"command":"a"}}}'
    )
    assert json.loads(values(found, "--mcp-config")[0])["mcpServers"].keys() == {"a", "b"}
    assert found.servers == {"a", "b"}


def test_texts_of_the_system_prompt_are_joined() -> None:
    found = plan("--append-system-prompt", "INLINE", "--append-system-prompt-file", "p", p="FILE\n")
    (added,) = values(found, "--append-system-prompt")
    assert added.startswith("FILE\n\nINLINE\n\nYou work for a container.")
    assert values(plan("--system-prompt-file", "p", p="FILE\n"), "--system-prompt") == ["FILE"]


@pytest.mark.parametrize(
    ("argv", "text", "words"),
    [
        (("--mcp-config", "f"), "!ENOENT", "Error: Invalid MCP configuration:\nMCP config file not found: {}"),
        (("--mcp-config", "f"), "{nope", "Error: Invalid MCP configuration:\nMCP config is not a valid JSON"),
        (
            ("--mcp-config", "f"),
            "[1]",
            "Error: Invalid MCP configuration:\nInvalid input: expected object, received array",
        ),
        (
            ("--mcp-config", "{}"),
            "",
            "Error: Invalid MCP configuration:\nmcpServers: Invalid input: expected record, received undefined",
        ),
        (("--settings", "f"), "!ENOENT", "Error: Settings file not found: {}"),
        (("--settings", "{bad}"), "", "Error: Invalid JSON provided to --settings"),
        (("--system-prompt-file", "f"), "!ENOENT", "Error: System prompt file not found: {}"),
        (
            ("--append-system-prompt-file", "f"),
            "!EISDIR",
            "Error reading append system prompt file: EISDIR: illegal operation on a directory, read",
        ),
        (("--output-format", "xml"), "", "error: option '--output-format <format>' argument 'xml' is invalid. Allowed "
         "choices are text, json, stream-json."),
    ],
)  # fmt: skip
def test_fault_is_told_in_the_words_of_the_cli(argv: tuple[str, ...], text: str, words: str) -> None:
    with pytest.raises(CliError) as refused:
        plan(*argv, f=text)
    assert str(refused.value) == words.replace("{}", "/workspace/sub/f")
    assert "f" not in refused.value.kind.split()


def test_words_of_the_cli_are_bounded_and_harmless_to_a_terminal() -> None:
    names = [f"\x1b]52;{number}{'é' * 2000}" for number in range(100)]
    with pytest.raises(CliError) as refused:
        plan("--mcp-config", *names, **dict.fromkeys(names, "!ENOENT"))
    assert len(str(refused.value).encode()) < 32 * 1024
    assert all(line.isprintable() for line in str(refused.value).split("\n"))


def test_broken_settings_file_counts_as_empty() -> None:
    found = plan("--settings", "f", f="{nope")
    assert not values(found, "--settings")
    assert found.notes == ["the file of --settings is left out: it is no JSON object"]


def test_file_that_was_not_sent_is_refused() -> None:
    with pytest.raises(PolicyError, match="sent no text of the file 'other'") as refused:
        plan("--settings", "other", f="{}")
    assert not isinstance(refused.value, CliError)

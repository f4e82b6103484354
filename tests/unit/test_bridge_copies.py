"""Copies of the CLI's own files in the container: what is named, what is sent, and what comes back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bridge.client.copies import MAX_BACK
from bridge.client.copies import Copies as Client
from bridge.protocol.frames import OF_SERVER, WINDOW, Event, Fields, Frame, frame
from bridge.protocol.link import CLIENT, Link
from bridge.server.channel import Channel
from bridge.server.copies import MAX_WAITING, Copies, Told
from tests.bridge.test_namespace import shim_names
from tests.unit.test_bridge_calls import Connection

PLACE = b"/tmp/claude-code-0123456789abcdef"
SESSION = "0-1-2"


def copies(directory: bytes = PLACE) -> tuple[Copies, Connection]:
    connection = Connection()
    connection.is_writable = True
    return Copies(Channel(connection, 1), directory, b"/claude"), connection


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (b"wc -l /claude/projects/x", b"wc -l %s/projects/x"),
        (b"eval 'cat '\"'\"'/claude/tmp/claude-1/a b'\"'\"''", b"eval 'cat '\"'\"'%s/tmp/claude-1/a b'\"'\"''"),
        (b"</claude/plans/p.md", b"<%s/plans/p.md"),
        (b"cat /workspace/claude/projects/x ~/.claude/projects/x", b""),
        (b"cat /claude/settings.json /claude/projectsx", b""),
    ],
)
def test_paths_in_a_command(text: bytes, wanted: bytes) -> None:
    assert copies()[0].translate(text) == (wanted % PLACE if wanted else text)


def test_paths_in_a_hook_s_input() -> None:
    text = (
        b'{"session_id":"x","transcript_path":"/claude/projects/x.jsonl","agent_transcript_path":"/claude/projects/y"}'
    )
    made = copies()[0].translate_input(text)
    assert made.count(PLACE + b"/projects/") == 2
    assert len(made) - len(text) <= copies()[0].growth
    for other in (
        b'{"jsonrpc":"2.0","transcript_path":"/claude/projects/x"}',
        b'{"session_id":"x","a":"/claude/projects/"}',
    ):
        assert copies()[0].translate_input(other) == other


@pytest.mark.parametrize("directory", [b"", b"tmp", b"/tmp/$(x)", b"/tmp/a b", b"/tmp/x\n", b"/tmp/'", b"/t" * 200])
def test_directory_that_could_be_more_than_a_name_is_not_used(directory: bytes) -> None:
    made, connection = copies(directory)
    assert made.translate(b"cat /claude/projects/x") == b"cat /claude/projects/x"
    assert made.variables_file(b"/claude/session-env/x/setup-hook-0.sh") == (b"", b"")
    descriptor = os.open(os.devnull, os.O_RDONLY)
    made.bring([Told(b"/claude/projects/x", descriptor)], lambda: None, lambda: None)
    os.close(descriptor)
    assert not connection.sent


def carry(connection: Connection, client: Client, link: Link) -> list[Fields]:
    """Let the client keep what was sent, and tell the server so. Returns what was opened."""
    opened: list[Fields] = []
    descriptors: dict[int, int] = {}
    while connection.sent:
        data, connection.sent = bytes(connection.sent), bytearray()
        for event in link.receive(data):
            handler = connection.handlers[-1]
            if event.kind == Frame.RUN:
                opened.append(event.fields)
                descriptors[event.channel] = client.open(event.fields.get("copy"), event.fields.number("at"))
                connection.link.receive(link.grant(event.channel, Frame.STDIN, WINDOW))
                handler.settle()
            elif event.payload:
                os.write(descriptors[event.channel], event.payload)
                connection.link.receive(link.grant(event.channel, Frame.STDIN, len(event.payload)))
                handler.settle()
            else:
                os.close(descriptors[event.channel])
                connection.link.receive(link.end(event.channel, Frame.EXIT, code=0))
                handler.on(Event(Frame.EXIT, event.channel, fields=Fields(())))
    return opened


def test_what_was_added_is_sent_and_nothing_else(tmp_path: Path) -> None:
    made, connection = copies(os.fsencode(tmp_path / "copies"))
    client, link = Client(os.fsencode(tmp_path / "copies")), Link(CLIENT)
    link.receive(connection.link.hello())
    connection.link.receive(link.hello())
    source = tmp_path / "source"
    starts = []
    ran: list[bool] = []
    for text in ("", "one\n", "one\ntwo\n" * 100_000, "less\n"):
        source.write_text(text)
        descriptor = os.open(source, os.O_RDONLY)
        made.bring([Told(b"/claude/projects/x.jsonl", descriptor)], lambda: ran.append(True), lambda: None)
        starts += [fields.number("at") for fields in carry(connection, client, link)]
        os.close(descriptor)
        assert (tmp_path / "copies/projects/x.jsonl").read_text() == text
    assert starts == [0, 0, 4, 0]
    assert ran == [True] * 4


def test_call_that_ends_gives_up_what_waits() -> None:
    made, _ = copies()
    given_up: list[bool] = []
    made.close()
    made.bring([], lambda: None, lambda: given_up.append(True))
    assert given_up == [True]


# The client


def test_client_keeps_nothing_outside_of_its_directory(tmp_path: Path) -> None:
    client = Client(os.fsencode(tmp_path / "copies"))
    with pytest.raises(OSError, match="names no file"):
        client.open(b"projects/../../x", 0)
    os.close(client.open(b"projects/x", 0))
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "copies/link").symlink_to(tmp_path)
    client.remove()
    assert not (tmp_path / "copies").exists()
    assert (tmp_path / "kept").exists()


@pytest.mark.parametrize("data", [b"x" * (MAX_BACK + 1), b"a\0b"])
def test_variables_that_cannot_be_sent(tmp_path: Path, data: bytes) -> None:
    client = Client(os.fsencode(tmp_path))
    assert client.text(b"session-env/x") is None
    (tmp_path / "session-env/x").write_bytes(data)
    with pytest.raises(ValueError, match="too long"):
        client.text(b"session-env/x")


def test_variables_file_that_is_a_pipe_or_a_link(tmp_path: Path) -> None:
    client = Client(os.fsencode(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/etc/passwd")
    assert client.text(b"pipe") == b""
    assert client.text(b"link") is None


# The shell prefix


@pytest.fixture
def shim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("CLAUDE_CODE_SESSION_ID", SESSION)
    for name in ("projects/-w/0-1-2/tool-results/r.txt", "tmp/claude-1/t.output", ".claude.json", "settings.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "projects/-w/link").symlink_to(tmp_path / ".claude.json")
    os.mkfifo(tmp_path / "projects/-w/pipe")
    return shim_names()


@pytest.mark.parametrize(
    ("named", "opened"),
    [
        ("true", []),
        ("cat {home}/tmp/claude-1/t.output", ["tmp/claude-1/t.output"]),
        ("cat {home}/tmp/claude-1/*", ["tmp/claude-1/t.output"]),
        ("cat '{home}/projects/-w/link' {home}/projects/-w/pipe {home}/projects/../.claude.json", []),
        ("cat {home}/settings.json {home}/tmp/claude-1/../../settings.json", []),
    ],
)
def test_what_the_prefix_opens(shim: dict[str, Any], tmp_path: Path, named: str, opened: list[str]) -> None:
    found = shim["opened"](named.format(home=tmp_path).encode(), False, b"")
    for descriptor in found.values():
        os.close(descriptor)
    wanted = {*opened, "projects/-w/0-1-2/tool-results/r.txt"}
    assert {os.fsdecode(path).removeprefix(f"{tmp_path}/") for path in found} == wanted


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("session-env/0-1-2/sessionstart-hook-0.sh", True),
        ("session-env/0-1-2/cwdchanged-hook-12.sh", True),
        ("session-env/0-1-2/other-hook-0.sh", False),
        ("session-env/0-1-2/setup-hook-x.sh", False),
        ("session-env/../setup-hook-0.sh", False),
        ("session-env/x/../../setup-hook-0.sh", False),
        ("settings.json", False),
    ],
)
def test_where_variables_may_be_written(shim: dict[str, Any], tmp_path: Path, name: str, is_one: bool) -> None:
    assert shim["is_for_variables"](f"{tmp_path}/{name}".encode()) is is_one
    assert not shim["is_for_variables"](f"{tmp_path}/below/{name}".encode())


@pytest.mark.parametrize(
    ("line", "reads"),
    [
        ("--no-optional-locks status --short", True),
        ("-c core.x=y -C /workspace log --oneline -n 5", True),
        ("config user.name", True),
        ("config --get remote.origin.url", True),
        ("config --local --includes -z --list", True),
        ("config user.name x", False),
        ("config --unset user.name", False),
        ("remote", True),
        ("remote get-url origin", True),
        ("remote add x y", False),
        ("branch --show-current", True),
        ("branch -D x", False),
        ("worktree list --porcelain", True),
        ("worktree add x", False),
        ("--version", True),
        ("fetch", False),
        ("checkout main", False),
        ("-c alias.status=!x commit", False),
        ("update-index --add", False),
        ("", False),
    ],
)
def test_git_only_reads(shim: dict[str, Any], line: str, reads: bool) -> None:
    assert shim["only_reads"](line.split()) is reads


def test_number_of_a_descriptor_that_is_used_again_meanwhile_brings_no_other_file(tmp_path: Path) -> None:
    """The command ends while its first file is on the way. The container decides when, and how long that takes."""
    made, connection = copies(os.fsencode(tmp_path / "copies"))
    client, link = Client(os.fsencode(tmp_path / "copies")), Link(CLIENT)
    link.receive(connection.link.hello())
    connection.link.receive(link.hello())
    told = []
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text(name)
        told.append(Told(b"/claude/projects/" + name.encode(), os.open(tmp_path / name, os.O_RDONLY)))
    made.renew(told)
    (tmp_path / "secret").write_text("the host's own")
    secret = os.open(tmp_path / "secret", os.O_RDONLY)
    for file in told:
        os.dup2(secret, file.descriptor)
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names
    carry(connection, client, link)
    assert {path.name: path.read_text() for path in (tmp_path / "copies/projects").iterdir()} == {
        name: name for name in ("a.jsonl", "b.jsonl")
    }
    assert len(before) - len(os.listdir("/proc/self/fd")) == 3, "the copies' own descriptors are closed"  # noqa: PTH208
    for descriptor in (secret, *(file.descriptor for file in told)):
        os.close(descriptor)


def test_end_of_a_call_closes_what_was_on_the_way(tmp_path: Path) -> None:
    made, connection = copies()
    (tmp_path / "a.jsonl").write_text("a" * 100_000)
    descriptor = os.open(tmp_path / "a.jsonl", os.O_RDONLY)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names
    made.renew([Told(b"/claude/projects/a.jsonl", descriptor), Told(b"/claude/projects/b.jsonl", descriptor)])
    made.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - names
    opened = bytes(connection.sent)
    assert opened.endswith(frame(Frame.CANCEL, OF_SERVER)), "the client is told"
    os.close(descriptor)


def test_command_that_has_ended_waits_no_longer(tmp_path: Path) -> None:
    """The container answers no copy, and the commands that wait for one are killed meanwhile."""
    made, _ = copies()
    (tmp_path / "a").write_text("a")
    ended: list[bool] = []
    descriptor = os.open(tmp_path / "a", os.O_RDONLY)
    for number in range(3):
        told = [Told(b"/claude/projects/%d" % number, descriptor)]
        wait = made.bring(told, lambda: None, lambda: ended.append(True))
        assert made.is_waiting(wait)
        made.forget(wait)
    assert ended == [True] * 3
    made.close()
    os.close(descriptor)


def test_commands_that_wait_are_bounded(tmp_path: Path) -> None:
    made, _ = copies()
    (tmp_path / "a").write_text("a")
    descriptor = os.open(tmp_path / "a", os.O_RDONLY)
    for _ in range(MAX_WAITING):
        assert not made.is_full
        made.bring([Told(b"/claude/projects/a", descriptor)], lambda: None, lambda: None)
    assert made.is_full
    made.close()
    os.close(descriptor)

"""Sleep and the reports of sessions: keys, events, messages of a program, and the arguments to go on with."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.policy import PolicyError, Scope
from bridge.policy.argv import NEW, SAME, rewrite
from bridge.protocol.frames import VERSION, Event, Frame, record
from bridge.protocol.keys import CANCEL, ENTER, FOCUS, KEY, REPORT, TEXT, Keys
from bridge.protocol.link import SERVER, Link
from bridge.server.activity import Activity
from bridge.server.dialogue import INPUT, QUESTION, Dialogue, ProgramDialogue, SessionEvent, read_event
from bridge.server.host.config import Config, ConfigError, parse
from bridge.server.host.conversations import has_conversation
from pipeline.files import ROOT
from tests.support.waiting import wait_until

ID = "0a1b2c3d-0000-4000-8000-0123456789ab"
OTHER = "0a1b2c3d-0000-4000-8000-0123456789ac"


@pytest.mark.parametrize(
    ("data", "kinds"),
    [
        (b"hi\xc3\xbc", [TEXT]),
        (b"\r", [ENTER]),
        (b"\n", [KEY]),
        (b"\x1b", [CANCEL]),
        (b"\x03", [CANCEL]),
        (b"\x1b[A\x1bOB\x1b[1;5C\x1bf\x1b[13;2u\x1b[27;2;13~\x7f", [KEY] * 7),
        (b"\x1b[<35;10;10M\x1b[<0;1;1m", [KEY, KEY]),
        (b"\x1b[I", [FOCUS]),
        (b"\x1b[O\x1b[?62;22c\x1b[>0;10;1c\x1b[5;1R\x1b[?2026;2$y\x1b[?1u\x1b[?997;1n", [REPORT] * 7),
        (b"\x1b]11;rgb:1/1/1\x1b\\\x1bP>|tmux 3.3a\x1b\\\x1b]0;x\x07", [REPORT] * 3),
        (b"\x1b[200~a\rb\x03\x1b[201~\r", [TEXT, TEXT, ENTER]),
    ],
)
def test_keys_are_told_from_what_a_terminal_reports(data: bytes, kinds: list[str]) -> None:
    """Also when a sequence comes in two pieces."""
    found = list(Keys().read(data))
    assert [kind for kind, _ in found] == kinds
    assert b"".join(text for _, text in found) == data
    for at in range(1, len(data)):
        if data[at - 1] != 0x1B and kinds != [TEXT]:  # after Escape alone, nothing is waited for
            keys = Keys()
            pieces = [*keys.read(data[:at]), *keys.read(data[at:])]
            assert (b"".join(text for _, text in pieces), keys.rest) == (data, b"")
            assert [kind for kind, _ in pieces if kind != TEXT] == [kind for kind in kinds if kind != TEXT]


class Sessions:
    """A session with a clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.ends = self.interrupts = 0
        self.activity = Activity(lambda: self.now)
        self.activity.come_up()
        self.dialogue = Dialogue(self.activity, self.end, self.interrupt, lambda: self.now)
        self.program = ProgramDialogue(self.activity, self.end)

    def end(self) -> None:
        self.ends += 1

    def interrupt(self) -> None:
        self.interrupts += 1

    def tell(self, *names: str) -> None:
        for name in names:
            name, _, detail = name.partition(" ")
            self.dialogue.hear(SessionEvent(name, ID, detail))

    @property
    def sleeps(self) -> bool:
        """Whether it may sleep after an hour of rest."""
        self.now += 3600
        return self.dialogue.may_sleep(1800)


@pytest.mark.parametrize(
    ("typed", "sleeps"),
    [
        (b"", True),
        (b"half a prom", False),
        (b"whole prompt\r", True),
        (b"first\\\r", False),
        (b"first\x1b[13;2u", False),
        (b"dropped\x03", True),
        (b"\x1b[200~pasted\r\x1b[201~", False),
        (b"\x1b[A\x1b[I\x1b[?62c\x1b]11;rgb:1/1/1\x07", True),
    ],
)
def test_draft_keeps_a_session_awake(typed: bytes, sleeps: bool) -> None:
    session = Sessions()
    session.tell("SessionStart startup", "UserPromptSubmit", "Stop")
    session.dialogue.type(typed)
    assert session.sleeps is sleeps
    assert session.interrupts == typed.endswith(b"\x03")


def test_session_sleeps_only_after_a_rest_and_without_work_or_question() -> None:
    session = Sessions()
    assert not session.sleeps  # it has told nothing: its hooks may be off
    session.tell("SessionStart startup")
    session.now += 1799
    assert not session.dialogue.may_sleep(1800)
    session.dialogue.type(b"\x1b[A")
    session.now += 1799
    assert not session.dialogue.may_sleep(1800), "a key was pressed meanwhile"
    session.dialogue.use()
    session.now += 1799
    assert not session.dialogue.may_sleep(1800), "somebody was attached, or went on after Ctrl-Z"
    session.activity.hold_place(True)
    assert not session.sleeps
    session.activity.hold_place(False)
    session.tell("PermissionRequest Bash")
    assert not session.sleeps
    session.tell("UserPromptSubmit")
    assert session.sleeps


def test_client_that_does_not_agree_is_asked_again_after_a_while() -> None:
    session = Sessions()
    asked = []
    for _ in range(5):
        session.now += 200
        asked.append(session.dialogue.may_be_asked(1800))
    assert asked == [True, False, False, True, False]


@pytest.mark.parametrize(
    ("event", "waits_for", "answers"),
    [
        ("PermissionRequest Bash", "permission to use Bash", [b"\r", b"1", b"\x1b", b"\x03"]),
        ("PermissionRequest mcp__files__read", "permission to use mcp__files__read", [b"\r"]),
        ("PermissionRequest", "a permission", [b"\r"]),
        ("PermissionRequest AskUserQuestion", "an answer to a question", [b"\x1b"]),
        ("PermissionRequest ExitPlanMode", "approval of a plan", [b"\x1b"]),
        ("Elicitation", INPUT, [b"\x1b"]),
        ("Notification permission_prompt", "a permission", [b"\r"]),
    ],
)
def test_session_tells_what_it_waits_for(event: str, waits_for: str, answers: list[bytes]) -> None:
    for answer in [b"", *answers]:
        session = Sessions()
        session.tell("SessionStart startup", "UserPromptSubmit", event)
        session.dialogue.type(b"\x1b[B\x1b[?1u")
        assert session.activity.facts() | {"since": 0} == {
            "kind": "print", "state": "waiting_for_person", "waits_for": waits_for, "ahead": None, "until": None,
            "since": 0, "session": ID, "prompts": 1, "nested": False,
        }  # fmt: skip
        assert session.ends == 1, "a place is not held while a person is waited for"
        session.dialogue.type(answer) if answer else session.tell("Stop")
        assert session.activity.waits_for == ""


def test_answer_to_a_question_is_no_end_of_a_later_one() -> None:
    """A key may be one of several answers, and a command of a subagent may run meanwhile."""
    session = Sessions()
    session.tell("PermissionRequest AskUserQuestion")
    session.dialogue.type(b"1\r")
    session.dialogue.begin_command()
    assert session.activity.waits_for == QUESTION
    session.tell("PostToolUse AskUserQuestion")
    assert session.activity.waits_for == ""
    session.tell("PermissionRequest Bash")
    session.dialogue.begin_command()
    assert session.activity.waits_for == ""


def test_way_to_go_on_after_sleep() -> None:
    kept = {ID}
    session = Sessions()
    session.tell("SessionStart startup")
    assert session.dialogue.again(lambda _: False) == SAME
    session.tell("UserPromptSubmit")
    assert session.dialogue.again(kept.__contains__) == ID
    session.dialogue.hear(SessionEvent("SessionStart", OTHER, "clear"))
    assert session.activity.session == OTHER
    assert session.dialogue.again(kept.__contains__) == NEW


class Host:
    """The other side of the client: a test says what it answers."""

    def __init__(self, listener: socket.socket) -> None:
        self._link, self._sock = Link(SERVER), listener.accept()[0]
        self._sock.settimeout(20)
        self.call = self.wait(Frame.CALL)
        self._sock.sendall(self._link.hello(protocol=VERSION))

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def wait(self, kind: int) -> Event:
        while True:
            data = self._sock.recv(1 << 16)
            assert data, "the client has gone"
            for event in self._link.receive(data):
                if event.kind == kind:
                    return event

    def tell(self, **fields: str | int) -> None:
        self._sock.sendall(record(Frame.STATE, self.call.channel, **fields))

    def end(self, number: int) -> None:
        self._sock.sendall(self._link.end(self.call.channel, Frame.EXIT, signal=number))


def test_session_that_waits_for_its_start_after_sleep_says_so_and_can_be_left(tmp_path: Path) -> None:
    shown = b""

    def shows(text: bytes) -> bool:
        nonlocal shown
        if select.select([terminal], [], [], 0)[0]:
            shown += os.read(terminal, 4096)
        return text in shown

    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from bridge.client.main import main; main()"
    path = tmp_path / "socket"
    terminal, other = os.openpty()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(20)
        words = ["setsid", "--ctty", sys.executable, "-IS", "-c", code]
        env = {"CLAUDE_BRIDGE_SOCKET": str(path), "PATH": "/usr/bin:/bin"}
        with subprocess.Popen(words, stdin=other, stdout=other, stderr=other, env=env) as client:
            os.close(other)
            try:
                with Host(listener) as host:
                    host.tell(state="started", terminal=1)
                    host.tell(state="asleep", again=NEW, prompts=1)
                    wait_until(lambda: shows(b"asleep; any key goes on"), 20, "a session that sleeps")
                    os.write(terminal, b"x")
                    with Host(listener) as woken:
                        assert woken.call.fields.get("again") == NEW.encode()
                        woken.tell(state="queued", ahead=2)
                        wait_until(lambda: shows(b"waiting for a turn, 2 calls ahead"), 20, "why it waits")
                        os.write(terminal, b"\x03")
                        assert woken.wait(Frame.SIGNAL).payload == bytes([signal.SIGINT])
                        woken.end(signal.SIGINT)
                        assert client.wait(20) == 128 + signal.SIGINT
            finally:
                client.kill()
                os.close(terminal)


@pytest.mark.parametrize(
    ("fields", "event"),
    [
        ([b"Stop", ID.encode(), b"", b"", b""], SessionEvent("Stop", ID, "")),
        ([b"SessionStart", ID.encode(), b"clear", b"", b""], SessionEvent("SessionStart", ID, "clear")),
        ([b"PermissionRequest", b"../x", b"", b"", b"Bash(rm)\n"], SessionEvent("PermissionRequest", "", "")),
        ([b"Stop", ID.encode(), b""], None),
        ([b"St op", ID.encode(), b"", b"", b""], None),
        ([], None),
    ],
)
def test_event_has_known_fields_only(fields: list[bytes], event: SessionEvent | None) -> None:
    assert read_event(fields) == event


def line(text: str) -> bytes:
    return text.encode() + b"\n"


INIT = line(f'{{"type":"system","subtype":"init","cwd":"/workspace","session_id":"{ID}","tools":[]}}')
MAY = line(
    '{"type":"control_request","request_id":"r1","request":{"subtype":"can_use_tool","tool_name":"Bash","input":{}}}'
)
RESULTS = (
    line(f'{{"type":"result","subtype":"success","session_id":"{ID}"}}'),
    line(f'{{"duration_api_ms":1,"session_id":"{ID}","result":"{"x" * 5000}","type":"result","uuid":"u"}}'),
)
SAID = line('{"type":"assistant","message":{"content":[{"type":"tool_use","input":{"a":1,"type":"result","b":2}}]}}')


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("result", RESULTS, ids=["2.1.197", "2.1.332"])
def test_session_of_a_program_tells_from_its_messages(result: bytes, size: int) -> None:
    session = Sessions()

    def hear(data: bytes) -> None:
        for at in range(0, len(data), size):
            session.program.hear(data[at : at + size])

    session.program.say("user", "")
    hear(INIT + SAID)
    assert (session.activity.session, session.activity.prompts, session.ends) == (ID, 1, 0)
    hear(MAY)
    assert session.activity.waits_for == "permission to use Bash"
    session.program.say("control_response", "another")
    assert session.activity.waits_for == "permission to use Bash"
    session.program.say("control_response", "r1")
    assert (session.activity.waits_for, session.ends) == ("", 1)
    hear(MAY + line('{"type":"control_cancel_request","request_id":"r1"}'))
    assert session.activity.waits_for == ""
    hear(MAY + result)
    assert (session.activity.waits_for, session.ends) == ("", 4)


FLAGS = ["--model=opus", "--continue", "--fork-session", "--session-id", OTHER, "do it"]


@pytest.mark.parametrize(
    ("again", "asked"),
    [
        (ID, ["--model=opus", f"--resume={ID}"]),
        (NEW, ["--model=opus"]),
        (SAME, ["--model=opus", "--continue", "--fork-session", f"--session-id={OTHER}"]),
    ],
)
def test_session_goes_on_with_its_flags_and_without_its_prompt(again: str, asked: list[str]) -> None:
    scope = Scope(runs_commands=True)
    plan = rewrite(FLAGS, scope, interactive=True, again=again)
    own = {word.partition("=")[0] for word in rewrite([], scope, interactive=True).argv}
    assert sorted(word for word in plan.argv if word.partition("=")[0] not in own) == sorted(asked)
    assert plan.prompt is None


@pytest.mark.parametrize(("words", "again"), [(["-p", "hi"], ID), ([], "../x"), ([], f"{ID} --debug")])
def test_nothing_else_is_woken(words: list[str], again: str) -> None:
    with pytest.raises(PolicyError):
        rewrite(words, Scope(runs_commands=True), interactive=True, again=again)


def test_conversation_counts_once_it_has_a_prompt(tmp_path: Path) -> None:
    """A link or a pipe in its place is not followed and not waited for."""
    folder = tmp_path / "projects" / "-workspace"
    folder.mkdir(parents=True)
    (folder / f"{ID}.jsonl").write_text('{"type":"summary"}\n')
    assert not has_conversation(tmp_path, ID)
    (folder / f"{ID}.jsonl").write_text('{"type":"summary"}\n{"type":"user","message":{}}\n')
    assert has_conversation(tmp_path, ID)
    (folder / f"{OTHER}.jsonl").symlink_to(folder / f"{ID}.jsonl")
    assert not has_conversation(tmp_path, OTHER)
    (folder / f"{OTHER}.jsonl").unlink()
    os.mkfifo(folder / f"{OTHER}.jsonl")
    assert not has_conversation(tmp_path, OTHER)


def test_minutes_until_sleep() -> None:
    assert (Config().sleep, parse({"sleep": 0.5}).sleep, parse({"sleep": 0}).sleep) == (30, 0.5, 0)
    for wrong in (-1, True, "30", 1_000_001, float("nan")):
        with pytest.raises(ConfigError, match=r"sleep is .* minutes"):
            parse({"sleep": wrong})

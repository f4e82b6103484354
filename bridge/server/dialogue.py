"""What a session and its person do with each other, for `status` and for sleep. Pure, except for the clock.

    Dialogue            an interactive session: hooks of the bridge's own (sandbox/shim.py), and the keys that are typed
    ProgramDialogue     a session of a program (`stream-json`): the messages that pass

The container can forge all of it: it types the keys, and a hook of its own can say the same as the bridge's. It can
only make `status` wrong for its own grant, and keep its own session awake or put it to sleep. One thing here counts for
all grants: the CLI's own message of a usage limit. It is a line of its output, and no container can write one.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable

from bridge.policy import usage_limits
from bridge.policy.argv import NEW, SAME
from bridge.policy.usage_limits import Told
from bridge.protocol.keys import CANCEL, ENTER, KEY, TEXT, Keys
from bridge.server.activity import Activity, Doing

SESSION = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
WORD = re.compile(rb"[A-Za-z][A-Za-z0-9_.:-]{0,127}")

QUESTION = "an answer to a question"
PLAN = "approval of a plan"
INPUT = "input of an MCP server"
ASKED = {"AskUserQuestion": QUESTION, "ExitPlanMode": PLAN}
"""Tools that ask a person themselves, and what for."""
NOTIFIED = {"permission_prompt": "a permission", "elicitation_dialog": INPUT}
"""Notifications that a person is waited for. They come some seconds after the question, if nobody has answered."""


@dataclasses.dataclass(frozen=True)
class SessionEvent:
    """One event of a session."""

    name: str
    session: str
    """The conversation's id, or nothing."""
    detail: str
    """How the session began, what a notification is about, or the tool that asks."""


def read_event(fields: list[bytes]) -> SessionEvent | None:
    """Return the event of a message; None if it is no message of the shim's."""
    if len(fields) != 5 or not WORD.fullmatch(fields[0]):
        return None
    session = fields[1] if SESSION.fullmatch(fields[1]) else b""
    detail = next((field for field in fields[2:] if WORD.fullmatch(field)), b"")
    return SessionEvent(fields[0].decode(), session.decode(), detail.decode())


def question_of(tool: str) -> str:
    """Return what a person is asked for when a tool needs an answer. The tool's name may be the container's text."""
    return ASKED.get(tool) or (f"permission to use {tool}" if WORD.fullmatch(tool.encode()) else "a permission")


class Dialogue:
    """An interactive session and its person. `end_answer` is called when the session itself works no longer: its
    answer has ended, or it asks. `interrupt` is called when the person may have interrupted it."""

    def __init__(
        self,
        activity: Activity,
        end_answer: Callable[[], None],
        interrupt: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.has_draft = False
        """Whether keys were typed since the last prompt that may be the beginning of the next one."""
        self._activity = activity
        self._end_answer = end_answer
        self._interrupt = interrupt
        self._clock = clock
        self._keys = Keys()
        self._last = b""
        """The last key. A backslash before Enter makes a new line."""
        self._asks = ""
        self._starts = 0
        self._used_at = clock()
        self._asked_at = 0.0

    # From the session

    def hear(self, event: SessionEvent) -> None:
        """Handle an event."""
        self._used_at = self._clock()
        if event.session:
            self._activity.session = event.session
        if event.name == "PermissionRequest":
            self._ask(question_of(event.detail))
        elif event.name == "Elicitation":
            self._ask(INPUT)
        elif event.name == "Notification":
            if event.detail in NOTIFIED and not self._asks:
                self._ask(NOTIFIED[event.detail])
        else:
            self._ask("")
        if event.name == "SessionStart":
            self._starts += 1
        elif event.name == "UserPromptSubmit":
            self._activity.prompts += 1
        elif event.name in ("Stop", "StopFailure"):
            self._end_answer()

    def begin_command(self) -> None:
        """A command of Claude's begins, so nobody is asked whether it may."""
        if self._asks not in (QUESTION, PLAN, INPUT):
            self._ask("")

    def _ask(self, what: str) -> None:
        if what != self._asks:
            self._asks = what
            self._activity.ask_person(what)
        if what:
            self._end_answer()

    @property
    def tells(self) -> bool:
        """Whether the session tells what it does: its hooks are not off."""
        return self._starts > 0

    # From the person

    def use(self) -> None:
        """Somebody does something with the terminal: gives it another size, or goes on after Ctrl-Z."""
        self._used_at = self._clock()

    def type(self, data: bytes) -> None:
        """Handle what comes from the terminal."""
        for kind, text in self._keys.read(data):
            if kind in (TEXT, ENTER, CANCEL, KEY):
                self.use()
            if kind == CANCEL:
                self._interrupt()
            if self._asks:
                self._answer(kind, text)
            elif kind == TEXT:
                self.has_draft = True
            elif kind == CANCEL or (kind == ENTER and not self._last.endswith(b"\\")):
                self.has_draft = False
            self._last = text

    def _answer(self, kind: str, text: bytes) -> None:
        """Handle a key while a question is open. There is no event when a person refuses: Escape closes any question,
        and each answer closes the question for a permission."""
        chooses = kind == ENTER or text.isdigit()
        if kind == CANCEL or (chooses and self._asks not in (QUESTION, PLAN, INPUT)):
            self._ask("")

    # Sleep

    def may_sleep(self, after: float) -> bool:
        """Return whether nobody has used the session for `after` seconds, and nothing would be lost.

        A session that has told nothing yet is not known well enough: its hooks are off, or it still starts.
        """
        activity = self._activity
        if activity.state is not Doing.IDLE or self._asks or self.has_draft or not self.tells:
            return False
        return self._clock() - max(self._used_at, activity.since) >= after

    def may_be_asked(self, after: float) -> bool:
        """Return whether to ask the client whether the session may sleep: not again soon after it did not agree."""
        if self._clock() - self._asked_at < after / 4:
            return False
        self._asked_at = self._clock()
        return True

    def again(self, is_kept: Callable[[str], bool]) -> str:
        """Return how to go on after sleep: the id of the conversation, SAME or NEW. `is_kept` says whether there is
        something to resume."""
        session = self._activity.session or ""
        if session and is_kept(session):
            return session
        return SAME if self._starts == 1 and not self._activity.prompts else NEW


HEAD = usage_limits.MAX_EVENT
"""Bytes of a message of the CLI's that are kept. Its names come first, except in a result."""
RESULT = b',"type":"result",'
"""Shows a result whose type does not come first. In the text of a message, quotation marks are escaped."""
MAX_ASKED = 64
"""Questions of one session that are known at once."""

_KIND = re.compile(rb'\{"type":"([a-z_]+)"')
_ID = re.compile(rb'"request_id":"([^"\\]{1,256})"')
_TOOL = re.compile(rb'"tool_name":"([A-Za-z0-9_.:-]{1,128})"')
_SESSION = re.compile(rb'"session_id":"([0-9a-f-]{36})"')


class ProgramDialogue:
    """A session of a program: it sends prompts and answers questions itself. `end_answer` as above."""

    def __init__(
        self, activity: Activity, end_answer: Callable[[], None], hear_limit: Callable[[Told], None] = lambda _: None
    ) -> None:
        """`hear_limit` gets what the CLI says of a usage limit."""
        self._activity = activity
        self._end_answer = end_answer
        self._hear_limit = hear_limit
        self._clock = time.time
        self._asked: dict[bytes, str] = {}
        """Questions without an answer, by the id of the request."""
        self._head = self._end = b""
        """The start of the line that is not complete yet, and its last bytes."""
        self._is_result = False

    def say(self, kind: str, answered: str) -> None:
        """Handle a message of the program's: its type, and the id of the request that it answers, or nothing."""
        if kind == "user":
            self._activity.prompts += 1
        elif self._asked.pop(answered.encode("utf-8", "replace"), None):
            self._tell()

    def hear(self, data: bytes) -> None:
        """Handle what the CLI writes."""
        *lines, last = data.split(b"\n")
        for line in lines:
            self._add(line)
            self._judge(self._head)
            self._head, self._end, self._is_result = b"", b"", False
        self._add(last)

    def _add(self, part: bytes) -> None:
        """Add a part of a line."""
        self._head = (self._head + part[:HEAD])[:HEAD]
        part = self._end + part
        self._is_result = self._is_result or RESULT in part
        self._end = part[-len(RESULT) :]

    def _judge(self, head: bytes) -> None:
        found = _KIND.match(head)
        kind = found[1] if found else b"result" if self._is_result else b""
        if kind == b"rate_limit_event" and (told := usage_limits.of_message(head, self._clock())):
            self._hear_limit(told)
        if kind in (b"system", b"result") and (session := _SESSION.search(head)):
            self._activity.session = session[1].decode()
        if kind == b"result":
            self._asked.clear()
            self._tell()
            self._end_answer()
        elif kind == b"control_request" and (number := _ID.search(head)):
            self._ask(number[1], head)
        elif kind == b"control_cancel_request" and (number := _ID.search(head)):
            self._asked.pop(number[1], None)
            self._tell()

    def _ask(self, number: bytes, head: bytes) -> None:
        if len(self._asked) == MAX_ASKED:
            return
        if b'"subtype":"can_use_tool"' in head:
            tool = _TOOL.search(head)
            self._asked[number] = question_of(tool[1].decode() if tool else "")
        elif b'"subtype":"elicitation"' in head:
            self._asked[number] = INPUT
        else:
            return
        self._tell()
        self._end_answer()

    def _tell(self) -> None:
        self._activity.ask_person(next(iter(self._asked.values()), ""))

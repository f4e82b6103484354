"""What a call is doing, for `status`: it is computed from facts that several parts report.

    the queue and the gate (bridge/server/gate.py)     waits for a turn, starts, has a place or none
    the CLI's own reports (hooks, control messages)     waits for a person, sleeps; the session, the prompts

Pure, except for the clock: nothing is decided by it.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable

from bridge.protocol.moment import moment


class Kind(enum.Enum):
    """The kind of a call."""

    PRINT = "print"
    """`claude -p`: one prompt and its answer."""
    PROGRAM = "program"
    """A program sends prompts as messages on stdin (`--input-format stream-json`), as an Agent SDK does."""
    INTERACTIVE = "interactive"
    """A person's session on a terminal."""


class Doing(enum.Enum):
    """The state of a call for people and programs. `status` shows the value."""

    WAITING_FOR_TURN = "waiting_for_turn"
    WAITING_FOR_QUOTA = "waiting_for_quota"
    STARTING = "starting"
    WORKING = "working"
    WAITING_FOR_PERSON = "waiting_for_person"
    IDLE = "idle"
    ASLEEP = "asleep"
    ENDING = "ending"


class Activity:
    """What one call is doing, and since when."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.kind = Kind.PRINT
        self.session: str | None = None
        """The id of the CLI's conversation."""
        self.prompts = 0
        """Prompts that the session was given."""
        self.ahead: int | None = None
        """How many calls come first, while it waits for a turn."""
        self.is_nested = False
        """Whether it shares the place of the call whose command it is."""
        self._clock = clock
        self._waits_for_turn = ""
        self._held = ""
        self.held_until: float | None = None
        """Until when new work is held, while it waits because of that. Seconds since the epoch."""
        self._is_up = False
        self._has_place = False
        self._asks = ""
        self._is_asleep = False
        self._is_ending = False
        self._state = Doing.STARTING
        self.since = clock()
        """When the present state began, seconds since the epoch."""

    # From the queue and the gate

    def wait_for_turn(self, what: str) -> None:
        """Report what the call waits for. An empty text: it waits no longer."""
        self._waits_for_turn = what
        if not what:
            self.ahead, self._held, self.held_until = None, "", None
        self._settle()

    def hold(self, why: str, until: float | None) -> None:
        """Report that new work is held, why, and until when (seconds since the epoch). An empty text: it is not."""
        self._held, self.held_until = why, until
        self._settle()

    def come_up(self) -> None:
        """Report that the CLI has started."""
        self._is_up = True
        self._settle()

    def hold_place(self, has_place: bool) -> None:
        """Report whether the call has a place, so that it may ask the API."""
        self._has_place = has_place
        self._settle()

    def end(self) -> None:
        """Report that the CLI is being ended."""
        self._is_ending = True
        self._settle()

    # From the CLI's own reports

    def ask_person(self, what: str) -> None:
        """Report what the session waits for from a person. An empty text: the person has answered."""
        self._asks = what
        self._settle()

    def sleep(self, is_asleep: bool) -> None:
        """Report whether the session's CLI was ended to save memory, until a key wakes it."""
        self._is_asleep = is_asleep
        self._settle()

    # For `status`

    @property
    def is_starting(self) -> bool:
        """Whether the CLI has not started yet."""
        return not self._is_up

    @property
    def state(self) -> Doing:
        """What the call is doing."""
        return self._state

    @property
    def waits_for(self) -> str:
        """What the call waits for; empty if it waits for nothing."""
        if self._state is Doing.WAITING_FOR_QUOTA and self.held_until is not None:
            return f"{moment(self.held_until)}, because {self._held}"
        if self._state is Doing.WAITING_FOR_TURN:
            return self._waits_for_turn
        return self._asks if self._state is Doing.WAITING_FOR_PERSON else ""

    def facts(self) -> dict[str, object]:
        """Return what `status` shows."""
        return {
            "kind": self.kind.value,
            "state": self._state.value,
            "waits_for": self.waits_for,
            "ahead": self.ahead,
            "until": self.held_until,
            "since": round(self.since, 3),
            "session": self.session,
            "prompts": self.prompts,
            "nested": self.is_nested,
        }

    def _settle(self) -> None:
        state = self._judge()
        if state is not self._state:
            self._state = state
            self.since = self._clock()

    def _judge(self) -> Doing:
        """Return the state. Of several facts, the first one below counts."""
        if self._is_ending:
            return Doing.ENDING
        if self._is_asleep:
            return Doing.ASLEEP
        if self._waits_for_turn:
            return Doing.WAITING_FOR_QUOTA if self._held else Doing.WAITING_FOR_TURN
        if not self._is_up:
            return Doing.STARTING
        if self._asks:
            return Doing.WAITING_FOR_PERSON
        return Doing.WORKING if self._has_place else Doing.IDLE

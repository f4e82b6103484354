"""Decides whether the command or shell in the session is started again, and when. Pure: facts in, decision out."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_DELAY_S = 0.25
LONGEST_DELAY_S = 30.0
GOOD_RUN_S = 30.0
"""A run of at least this length was not part of a crash loop."""
MOST_QUICK_FAILURES = 5
"""As systemd's StartLimitBurst."""
QUICK_SHELL_S = 2.0


@dataclass(frozen=True)
class Ended:
    """The end of one run in the session: `code` as a shell shows it (128+n), `cause` in words."""

    code: int
    cause: str


@dataclass(frozen=True)
class Again:
    """Start it again after `delay_s`."""

    delay_s: float


@dataclass(frozen=True)
class Done:
    """It has ended with 0, and the container stays."""


@dataclass(frozen=True)
class GiveUp:
    """The container ends with this exit code."""

    code: int
    why: str


class CommandPolicy:
    """AGENT_RESTART and AGENT_ON_EXIT for a command."""

    def __init__(self, restart: str, on_exit: str) -> None:
        self._restart = restart
        self._on_exit = on_exit
        self._quick = 0

    def after(self, ended: Ended, ran_s: float) -> Again | Done | GiveUp:
        """Decide what follows the end of a run."""
        if ran_s >= GOOD_RUN_S:
            self._quick = 0
        if ended.code == 0 and self._restart != "always":
            return Done() if self._on_exit == "stay" else GiveUp(0, "the command has finished")
        if ended.code != 0 and self._restart == "no":
            return GiveUp(ended.code, f"{ended.cause}, and AGENT_RESTART is no")
        self._quick += 1
        if ended.code != 0 and self._quick >= MOST_QUICK_FAILURES:
            return GiveUp(ended.code, f"crash loop: failed {self._quick} times within {GOOD_RUN_S:g} s of its start")
        return Again(_delay(self._quick))


class ShellPolicy:
    """A login shell that has ended is started again and counts as no failure. One that ends at once is delayed."""

    def __init__(self) -> None:
        self.quick = 0

    def after(self, ended: Ended, ran_s: float) -> Again | Done | GiveUp:
        """Decide what follows the end of a run."""
        if ran_s >= QUICK_SHELL_S:
            self.quick = 0
            return Again(0.0)
        self.quick += 1
        return Again(_delay(self.quick) if self.quick > 1 else 0.0)

    @property
    def profile_is_broken(self) -> bool:
        """Say whether the shell ends at once again and again, so that it should start without its profile."""
        return self.quick >= MOST_QUICK_FAILURES


def _delay(times: int) -> float:
    return float(min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(times - 1, 16)))

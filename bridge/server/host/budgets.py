"""Budgets of grants: how much a grant may use in a day or a week, and what happens above that.

    budgets:
      "*": {usd: 20, per: day}
      "research-*": {usd: 100, tokens: 50000000, per: week, over: stop}
      nightly: [{usd: 5, per: day, over: warn}, {usd: 20, per: week, over: hold}]

The most exact name of a grant counts: the name itself, or else the longest pattern that fits. Days and weeks are those
of UTC; a week begins on Monday. Pure: the use comes from bridge/server/host/usage.py.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import fnmatch
from collections.abc import Callable, Mapping
from typing import Any

ALL = "*"


class Period(enum.Enum):
    """How long a budget lasts."""

    DAY = "day"
    WEEK = "week"

    def begins(self, now: float) -> datetime.datetime:
        """Return when the present period began."""
        day = datetime.datetime.fromtimestamp(now, datetime.UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return day if self is Period.DAY else day - datetime.timedelta(day.weekday())

    def ends(self, now: float) -> datetime.datetime:
        """Return when the next period begins."""
        return self.begins(now) + datetime.timedelta(1 if self is Period.DAY else 7)


class Over(enum.Enum):
    """What happens to new calls above a budget."""

    WARN = "warn"
    """Nothing. `status` and the logs show it."""
    HOLD = "hold"
    """They wait until the period ends."""
    STOP = "stop"
    """They are refused."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much may be used in a period."""

    usd: float | None
    tokens: int | None
    """Tokens of all kinds together."""
    per: Period = Period.DAY
    over: Over = Over.HOLD


@dataclasses.dataclass(frozen=True)
class Standing:
    """A budget of a grant, and what is used of it."""

    grant: str
    budget: Budget
    usd: float
    tokens: int
    ends: datetime.datetime
    """When it begins again."""

    @property
    def is_over(self) -> bool:
        """Whether it is used up."""
        usd, tokens = self.budget.usd, self.budget.tokens
        return (usd is not None and self.usd >= usd) or (tokens is not None and self.tokens >= tokens)

    @property
    def sentence(self) -> str:
        """What is used up, without a full stop."""
        usd, tokens = self.budget.usd, self.budget.tokens
        if usd is not None and self.usd >= usd:
            used = f"{usd:g} USD ({self.usd:.2f} used)"
        else:
            used = f"{tokens:,} tokens ({self.tokens:,} used)"
        return f"the budget of grant {self.grant}, {used} per {self.budget.per.value}, is used up"

    @property
    def end(self) -> str:
        """When the budget begins again, for people."""
        return f"{self.ends:%Y-%m-%d %H:%M} UTC"

    def facts(self) -> dict[str, Any]:
        """Return what `usage --json` and `status --json` show."""
        return {
            "per": self.budget.per.value,
            "over": self.budget.over.value,
            "usd": self.budget.usd,
            "tokens": self.budget.tokens,
            "used_usd": round(self.usd, 6),
            "used_tokens": self.tokens,
            "is_over": self.is_over,
            "ends": self.ends.timestamp(),
        }


Budgets = Mapping[str, tuple[Budget, ...]]
"""The budgets by name or pattern of a grant."""


def budgets_of(budgets: Budgets, grant: str) -> tuple[Budget, ...]:
    """Return the budgets that count for a grant."""
    if grant in budgets:
        return budgets[grant]
    fitting = [pattern for pattern in budgets if fnmatch.fnmatchcase(grant, pattern)]
    return budgets[max(fitting, key=len)] if fitting else ()


def standings(budgets: Budgets, grant: str, used: Callable[[str, str], tuple[int, int]], now: float) -> list[Standing]:
    """Return a grant's budgets with what is used of them. `used` is `UsageStore.used`, and its errors are raised."""
    found = []
    for budget in budgets_of(budgets, grant):
        tokens, micros = used(grant, budget.per.begins(now).date().isoformat())
        found.append(Standing(grant, budget, micros / 1_000_000, tokens, budget.per.ends(now)))
    return found


def worst(found: list[Standing]) -> Standing | None:
    """Return the budget that is used up and decides: `stop` before `hold` before `warn`, and the one that ends last."""
    order = (Over.WARN, Over.HOLD, Over.STOP)
    over = [standing for standing in found if standing.is_over]
    return max(over, key=lambda each: (order.index(each.budget.over), each.ends), default=None)

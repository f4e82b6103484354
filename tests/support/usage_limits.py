"""Answers of the API at a usage limit, as it gives them to an account with a subscription."""

from __future__ import annotations

import threading
import time

from tests.support.fake_messages_api import Fail, Reply, Request, echo

HEAD = "anthropic-ratelimit-unified-"


def reached(until: float, window: str = "five_hour") -> Fail:
    """Return the answer at a limit that lasts until `until`, seconds since the epoch."""
    short = {"five_hour": "5h"}.get(window, "7d")
    return Fail(
        429,
        "rate_limit_error",
        (
            ("retry-after", str(max(1, round(until - time.time())))),
            (HEAD + "status", "rejected"),
            (HEAD + "reset", str(round(until))),
            (HEAD + "representative-claim", window),
            (HEAD + f"{short}-status", "rejected"),
            (HEAD + f"{short}-reset", str(round(until))),
            (HEAD + f"{short}-utilization", "1.0"),
            (HEAD + "overage-status", "rejected"),
            (HEAD + "overage-disabled-reason", "org_level_disabled"),
        ),
    )


class Account:
    """An account whose limit can be reached: the part of a fake API. It keeps when it answered whom."""

    def __init__(self, window: str = "five_hour") -> None:
        self.window = window
        self.until = 0.0
        self.lasts = 0.0
        self.refused = 0
        self.answered: list[tuple[float, str]] = []
        """When, and the last line of the prompt."""
        self._lock = threading.Lock()

    def reach(self, seconds: float) -> None:
        """Let the next request reach the limit. It lasts so many seconds from then, and ends at a whole one."""
        self.lasts = seconds

    def __call__(self, request: Request) -> Reply:
        with self._lock:
            if self.lasts:
                self.until, self.lasts = float(round(time.time() + self.lasts + 0.5)), 0.0
            if time.time() < self.until:
                self.refused += 1
                return reached(self.until, self.window)
            self.answered.append((time.time(), request.heard.strip().splitlines()[-1] if request.heard else ""))
        return echo(request)

"""The Messages API that says a different use of tokens in each answer, and keeps the sum by model."""

from __future__ import annotations

import collections
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support import fake_messages_api
from tests.support.fake_messages_api import Json, Request

KINDS = {
    "input": "input_tokens",
    "output": "output_tokens",
    "cache_read": "cache_read_input_tokens",
    "cache_creation": "cache_creation_input_tokens",
}
"""What this API calls the kinds of tokens that the bridge counts."""


class Meter:
    """What the API counted: answers and tokens, by the owner of the request. An answer counts when its end is sent."""

    def __init__(self, owner: Callable[[Request], str]) -> None:
        self._owner = owner
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self.counted: collections.defaultdict[str, collections.Counter[str]] = collections.defaultdict(
            collections.Counter
        )

    def _use(self) -> Json:
        """Return a use that no other answer has."""
        number = next(self._numbers)
        return {KINDS[kind]: number * factor for kind, factor in zip(KINDS, (7, 3, 11, 2), strict=True)}

    def count(self, request: Request, use: Json) -> None:
        with self._lock:
            mine = self.counted[self._owner(request)]
            mine["requests"] += 1
            mine.update({kind: use[name] for kind, name in KINDS.items()})

    def message(self, request: Request, content: list[Json], stop_reason: str | None) -> Json:
        """Return a message as the API does; one that is not streamed counts at once."""
        found = _message(request, content, stop_reason)
        found["usage"] = self._use()
        if not request.body.get("stream"):
            self.count(request, found["usage"])
        return found

    def events(self, request: Request, reply: Any) -> Iterator[Json]:
        """Yield the events of a stream. The first one says one token of output, the last but one says all."""
        use: Json = {}
        for event in _events(request, reply):
            if event["type"] == "message_start":
                use = event["message"]["usage"]
                event["message"]["usage"] = {**use, "output_tokens": 1}
            elif event["type"] == "message_delta":
                event["usage"] = {"output_tokens": use["output_tokens"]}
            elif event["type"] == "message_stop":
                self.count(request, use)
            yield event


_message, _events = fake_messages_api._message, fake_messages_api._events


def metered(monkeypatch: pytest.MonkeyPatch, owner: Callable[[Request], str]) -> Meter:
    """Let the fake API of this process say and count different uses, until the test ends."""
    meter = Meter(owner)
    monkeypatch.setattr(fake_messages_api, "_message", meter.message)
    monkeypatch.setattr(fake_messages_api, "_events", meter.events)
    return meter

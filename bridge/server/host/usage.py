"""What each grant has used: tokens by kind, cost and failed requests, per day and model.

One SQLite database in the state directory. Each report of a CLI is one transaction, so a kill of the server loses or
doubles none: a report counts whole or not at all. It is in the write-ahead log without a wait for the disk; a power
cut can lose the last seconds, and breaks nothing.

Days are those of UTC, as in the API's own accounts: a sum does not depend on the time zone of who asks. Days older than
KEPT_DAYS are removed. A grant has at most MAX_MODELS models a day; the others count as one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from bridge.policy.telemetry import OTHER_MODEL, Report

KEPT_DAYS = 400
"""More than a year, so that a month can be compared with the one a year before."""

MAX_MODELS = 32

BUSY_S = 1.0
"""Seconds for which a transaction waits for another one. Only the server writes."""

LIMITED = 429
"""The status of a request over the API's limits."""

_COLUMNS = ("requests", "input", "output", "cache_read", "cache_creation", "micros", "limited", "failed")

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS used (
    name TEXT NOT NULL, day TEXT NOT NULL, model TEXT NOT NULL,
    {", ".join(f"{column} INTEGER NOT NULL DEFAULT 0" for column in _COLUMNS)},
    PRIMARY KEY (name, day, model)
) WITHOUT ROWID
"""
_ADD = f"""
INSERT INTO used (name, day, model, {", ".join(_COLUMNS)}) VALUES (?, ?, ?, {", ".join("?" * len(_COLUMNS))})
ON CONFLICT DO UPDATE SET {", ".join(f"{column} = {column} + excluded.{column}" for column in _COLUMNS)}
"""  # noqa: S608 - names of this module only


@dataclasses.dataclass(frozen=True)
class Row:
    """What one grant used on one day with one model."""

    grant: str
    day: str
    """In UTC, YYYY-MM-DD."""
    model: str
    requests: int
    """Answers of the API."""
    input: int
    output: int
    cache_read: int
    cache_creation: int
    micros: int
    """Cost in millionths of a US dollar, as the CLI computes it from list prices."""
    limited: int
    """Requests that ended with status 429."""
    failed: int
    """Requests that ended with another error."""

    @property
    def tokens(self) -> int:
        """Tokens of all kinds together."""
        return self.input + self.output + self.cache_read + self.cache_creation


class UsageStore:
    """The database. Every method raises sqlite3.Error, and OSError, if it cannot be used."""

    def __init__(self, path: Path) -> None:
        """The file is made, readable by its owner only, at the first report."""
        self._path = path
        self._database: sqlite3.Connection | None = None
        self._pruned = ""

    def add(self, grant: str, reports: Iterable[Report], day: str) -> None:
        """Count reports for a grant, all or none."""
        database = self._open()
        with database:
            if self._pruned != day:
                oldest = (datetime.date.fromisoformat(day) - datetime.timedelta(KEPT_DAYS)).isoformat()
                database.execute("DELETE FROM used WHERE day < ?", (oldest,))
            for report in reports:
                model = self._model(database, grant, day, report.model)
                database.execute(_ADD, (grant, day, model, *_counts(report)))
        self._pruned = day

    @staticmethod
    def _model(database: sqlite3.Connection, grant: str, day: str, model: str) -> str:
        found = database.execute("SELECT model FROM used WHERE name = ? AND day = ?", (grant, day)).fetchall()
        return model if (model,) in found or len(found) < MAX_MODELS - 1 else OTHER_MODEL

    def used(self, grant: str, since: str) -> tuple[int, int]:
        """Return a grant's tokens of all kinds, and its cost in millionths of a US dollar, from a day on."""
        if not self._path.exists():
            return 0, 0
        found = self._open().execute(
            "SELECT SUM(input + output + cache_read + cache_creation), SUM(micros) FROM used "
            "WHERE name = ? AND day >= ?",
            (grant, since),
        )
        tokens, micros = found.fetchone()
        return tokens or 0, micros or 0

    def close(self) -> None:
        """Close the database."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            # SQLite gives its other files the mode of this one.
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            database = sqlite3.connect(self._path, timeout=BUSY_S)
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            with database:
                database.execute(_SCHEMA)
            self._database = database
        return self._database


def _counts(report: Report) -> tuple[int, ...]:
    usage, is_limited = report.usage, report.status == LIMITED
    fine = report.status == 200
    tokens = (usage.input, usage.output, usage.cache_read, usage.cache_creation)
    return int(fine), *tokens, usage.micros, int(is_limited), int(not fine and not is_limited)


def rows(path: Path, since: str = "", grants: Iterable[str] = ()) -> list[Row]:
    """Return what was used from a day on, by grant, day and model. Without a database: nothing.

    Reads beside a running server. Raises sqlite3.Error.
    """
    wanted = set(grants)
    with contextlib.closing(_reading(path)) if path.exists() else contextlib.nullcontext() as database:
        return [row for row in _read(database, since) if not wanted or row.grant in wanted]


def _reading(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_S)


def _read(database: sqlite3.Connection | None, since: str) -> Iterator[Row]:
    if database is not None:
        columns = ", ".join(("name", "day", "model", *_COLUMNS))
        query = f"SELECT {columns} FROM used WHERE day >= ? ORDER BY name, day, model"  # noqa: S608
        for found in database.execute(query, (since,)):
            yield Row(*found)


def today(now: float) -> str:
    """Return the day of a time (seconds since the epoch), in UTC."""
    return datetime.datetime.fromtimestamp(now, datetime.UTC).date().isoformat()

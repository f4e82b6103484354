"""What the CLI reports of its own use: how it is told to, and what is read from its reports.

The CLI writes one record for each answer of the API (`api_request`), with the tokens, the model and the cost, and one
for each request that failed for good (`api_error`). It sends them as OpenTelemetry logs (OTLP, http/json). Only the
numbers, the model and the status are read. Everything else of a report is dropped: texts of prompts are not in it by
default, but an operator can switch them on for a collector of his own.

Pure: bytes in, reports out.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

EXPORT_EVERY_MS = 500
"""How long a report waits for others before it is sent. So much is lost if the CLI is killed."""

LONGEST_VALUE = 1024
"""Characters of one value in a report, so that a long command of Claude's does not make a report too large."""

MAX_RECORDS = 64
"""Records in one report."""

MAX_REPORT = 8 * 1024 * 1024
"""Bytes of one report. MAX_RECORDS records have some 100 kB."""

PATH = "/v1/logs"

LOGS_ENDPOINT = "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"
LOGS_EXPORTER = "OTEL_LOGS_EXPORTER"
SWITCH = "CLAUDE_CODE_ENABLE_TELEMETRY"
_OTHER_SIGNALS = ("OTEL_METRICS_EXPORTER", "OTEL_TRACES_EXPORTER")

KEY = b"x-bridge-usage"
"""The header field that carries the secret of one call's reports."""

OTHER_MODEL = "other"
_MODEL = re.compile(r"[A-Za-z0-9][\w.:@/\[\]-]{0,79}", re.ASCII)
_MOST = 1 << 40
"""The largest number that counts. A larger one is no number of tokens of one answer."""


@dataclasses.dataclass(frozen=True)
class Usage:
    """Tokens by kind, and the cost in millionths of a US dollar."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_creation: int = 0
    micros: int = 0


@dataclasses.dataclass(frozen=True)
class Report:
    """One record: an answer of the API, or a request that failed for good."""

    session: str
    sequence: int
    """The number of the record within its process; -1 if there is none."""
    model: str
    usage: Usage = Usage()
    status: int = 200
    """The HTTP status of the last attempt; 0 if it got no answer."""


def variables(name: str, secret: str, operator: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with which the CLI sends its reports to the host `name`. They replace the operator's.

    What the operator sends to a collector of his own goes on: metrics and traces as he set them, logs to other
    exporters (such as `console`) by the CLI, and logs by OTLP by the proxy, which passes each report on.
    """
    is_on = operator.get(SWITCH, "").lower() in ("1", "true", "yes", "on")
    theirs = operator.get(LOGS_EXPORTER, "") if is_on else ""
    others = [each.strip() for each in theirs.split(",") if each.strip() not in ("", "otlp", "none")]
    silent = {} if is_on else dict.fromkeys(_OTHER_SIGNALS, "none")
    return {
        **silent,
        SWITCH: "1",
        LOGS_EXPORTER: ",".join(["otlp", *others]),
        "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "http/json",
        LOGS_ENDPOINT: f"http://{name}{PATH}",
        "OTEL_EXPORTER_OTLP_LOGS_HEADERS": f"{KEY.decode()}={secret}",
        "OTEL_EXPORTER_OTLP_LOGS_COMPRESSION": "none",
        "OTEL_LOGS_EXPORT_INTERVAL": str(EXPORT_EVERY_MS),
        "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": str(MAX_RECORDS),
        "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT": str(LONGEST_VALUE),
    }


def wants_logs(operator: Mapping[str, str]) -> bool:
    """Return whether the operator has the CLI's logs sent to a collector of his own."""
    is_on = operator.get(SWITCH, "").lower() in ("1", "true", "yes", "on")
    return is_on and "otlp" in [each.strip() for each in operator.get(LOGS_EXPORTER, "").split(",")]


def read(body: bytes) -> list[Report]:
    """Return what a report says of the CLI's use. Raises ValueError if it is no report."""
    try:
        return [report for record in _records(json.loads(body)) if (report := _report(_attributes(record)))]
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"no report: {type(error).__name__}") from None


def _records(document: Any) -> Iterator[Any]:
    for resource in document["resourceLogs"]:
        for scope in resource["scopeLogs"]:
            yield from scope["logRecords"]


def _attributes(record: Any) -> dict[str, Any]:
    """Return the attributes of a record that are plain values, by name."""
    found = {}
    for attribute in record["attributes"]:
        for kind, value in attribute["value"].items():
            if kind in ("stringValue", "intValue", "doubleValue"):
                found[str(attribute["key"])] = value
    return found


def _report(facts: Mapping[str, Any]) -> Report | None:
    event = facts.get("event.name")
    if event not in ("api_request", "api_error"):
        return None
    said = str(facts.get("model", ""))
    model = said if _MODEL.fullmatch(said) else OTHER_MODEL
    session = str(facts.get("session.id", ""))[:64]
    sequence = _number(facts, "event.sequence", -1)
    if event == "api_error":
        return Report(session, sequence, model, status=_number(facts, "status_code"))
    micros = _number(facts, "cost_usd_micros", -1)
    usage = Usage(
        _number(facts, "input_tokens"),
        _number(facts, "output_tokens"),
        _number(facts, "cache_read_tokens"),
        _number(facts, "cache_creation_tokens"),
        micros if micros >= 0 else _number({"": _as_float(facts.get("cost_usd")) * 1_000_000}, ""),
    )
    return Report(session, sequence, model, usage)


def _as_float(value: Any) -> float:
    try:
        return float(value or 0)
    except ValueError:
        return 0.0


def _number(facts: Mapping[str, Any], name: str, otherwise: int = 0) -> int:
    """Return a whole number of a record. 64-bit numbers may come as text (OTLP), older CLIs send all as text."""
    try:
        value = round(float(facts[name]))
    except (KeyError, ValueError, OverflowError):
        return otherwise
    return value if 0 <= value <= _MOST else otherwise

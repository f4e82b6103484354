"""agent-status for people: plain text tables from the JSON of /status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

COLOURS = {
    "healthy": "32", "pass": "32", "degraded": "33", "warn": "33", "starting": "36", "stopping": "36",
    "unhealthy": "31", "fail": "31",
}  # fmt: skip


def page(status: dict[str, Any], *, colour: bool) -> str:
    """Return the whole page. The agent may have written what it shows, so no part of it may control the terminal."""
    status = plain(status)
    parts = [_agent(status, colour=colour), _sessions(status), _checks(status, colour=colour), _volumes(status)]
    notes = status.get("notes") or []
    if notes:
        parts.append("\n".join(f"note: {note}" for note in notes))
    return "\n\n".join(part for part in parts if part) + "\n"


def plain(found: Any) -> Any:
    """Return the same with a question mark in place of each unprintable character."""
    if isinstance(found, dict):
        return {plain(key): plain(value) for key, value in found.items()}
    if isinstance(found, list):
        return [plain(value) for value in found]
    return "".join(c if c.isprintable() else "?" for c in found) if isinstance(found, str) else found


def duration(seconds: float) -> str:
    """Return 75 as `1m 15s`, 90000 as `1d 1h`: at most two units."""
    left = int(seconds)
    words: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or (unit == "s" and not words):
            words.append(f"{count}{unit}")
    return " ".join(words[:2])


def aligned(rows: Iterable[Sequence[str]]) -> str:
    """Return rows with aligned columns, without blanks at the end of a line."""
    rows = [list(row) for row in rows]
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows), default=0))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def painted(word: str, *, colour: bool) -> str:
    """Return a status in its colour."""
    return f"\x1b[{COLOURS[word]}m{word}\x1b[0m" if colour and word in COLOURS else word


def _agent(status: dict[str, Any], *, colour: bool) -> str:
    agent, bridge = status["agent"], status.get("bridge", {})
    last = agent.get("last_exit")
    ended = f"{last['code']} at {last['at']} ({last['cause']})" if last else "none"
    image = status.get("image", {})
    rows = [
        ("agent", agent["name"]),
        ("status", painted(status["status"], colour=colour)),
        ("phase", f"{status['phase']}, agent {agent['state']}"),
        ("runs", agent.get("runs", "")),
        ("uptime", duration(status["uptime_s"])),
        ("restarts", str(agent["restarts"])),
        ("last exit", ended),
        ("bridge", f"{'answers' if bridge.get('answers') else 'away'} at {bridge.get('socket', '?')}"),
        ("image", f"{status['version']} {image.get('variant', '')}".strip()),
    ]
    return aligned(rows)


def _sessions(status: dict[str, Any]) -> str:
    rows = [
        (
            session["name"],
            f"{window['index']}:{window['name']}",
            "(ended)" if window["dead"] else window["command"],
            duration(window["idle_s"]),
            "attached" if session["attached"] else "",
        )
        for session in status.get("sessions", [])
        for window in session["windows"]
    ]
    return aligned([("SESSION", "WINDOW", "COMMAND", "IDLE", ""), *rows]) if rows else ""


def _checks(status: dict[str, Any], *, colour: bool) -> str:
    names = aligned([("CHECK", "STATUS"), *((n, c["status"]) for n, c in status["checks"].items())]).splitlines()
    width = max(map(len, names))
    lines = [f"{names[0].ljust(width)}  DETAIL"]
    for line, check in zip(names[1:], status["checks"].values(), strict=True):
        name = line.removesuffix(check["status"])  # padded first, because colour codes take no width
        word = painted(check["status"], colour=colour)
        lines.append(f"{name}{word}{' ' * (width - len(line))}  {check['detail']}")
    return "\n".join(lines)


def _volumes(status: dict[str, Any]) -> str:
    rows = [("VOLUME", "KIND", "FREE", "OF", "")]
    for volume in status.get("volumes", []):
        words = volume.get("trouble") or ("read-only" if volume.get("read_only") else "writable")
        total, free = volume.get("total_bytes", 0), volume.get("free_bytes", 0)
        rows.append((volume["path"], volume.get("kind", "?"), _gb(free), _gb(total), words))
    return aligned(rows)


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"

"""From what was seen to what it means: the table of checks and the one word for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.life import Life
    from agent.tmux import Pane
    from agent.volumes import Look
    from healthcheck.probes import Probe
    from healthcheck.world import Memory

PASS, WARN, FAIL = "pass", "warn", "fail"

LITTLE_SPACE = 0.05
LITTLE_SPACE_BYTES = 1 << 30
"""5 % of a large disk is no trouble: below 5 % and below 1 GiB counts as little."""
MUCH_MEMORY = 0.9

AGENT_LIVES = ("running", "finished", "command")
BEING_MENDED = ("tmux", "agent")
"""The checks that recovery works on, and whose lasting failure ends the container."""


@dataclass(frozen=True)
class Check:
    """One row of the answer."""

    name: str
    required: bool
    status: str
    detail: str
    age_s: float

    def as_json(self) -> dict[str, Any]:
        """Return the row as the contract shows it."""
        return {
            "status": self.status,
            "required": self.required,
            "detail": self.detail,
            "age_s": round(max(0.0, self.age_s), 1),
        }


@dataclass(frozen=True)
class Seen:
    """Everything the checks are made from."""

    life: Life
    tmux: Probe[list[Pane]]
    volumes: dict[str, Probe[Look]]
    bridge: Probe[str]
    task_master: Probe[str]
    memory: Probe[Memory]


def all_checks(seen: Seen) -> list[Check]:
    """Judge everything that was seen, in the order of the table below."""
    return [Check(name, required, *_at_worst(required, *judge(seen))) for name, required, judge in TABLE]


def verdict(phase: str, checks: list[Check]) -> str:
    """Return the one word."""
    if phase in ("starting", "stopping"):
        return phase
    if any(check.required and check.status == FAIL for check in checks):
        return "unhealthy"
    return "healthy" if all(check.status == PASS for check in checks) else "degraded"


def _at_worst(required: bool, status: str, detail: str, age_s: float) -> tuple[str, str, float]:
    return (WARN if status == FAIL and not required else status), detail, age_s


def _tmux(seen: Seen) -> tuple[str, str, float]:
    probe = seen.tmux
    if seen.life.is_command:
        return PASS, "not used: a command runs instead of the session", 0.0
    if probe.value is None:
        return FAIL, probe.trouble or "not seen yet", probe.age_s
    sessions = {pane.session for pane in probe.value}
    if "agent" not in sessions:
        return FAIL, "session agent is missing; it is being started again", probe.age_s
    return PASS, f"{len(sessions)} session{'s' * (len(sessions) != 1)}", probe.age_s


def _agent(seen: Seen) -> tuple[str, str, float]:
    life = seen.life
    if life.state in AGENT_LIVES and not life.trouble:
        return PASS, f"{life.state}: {life.what_runs} (pid {life.pid})", 0.0
    return FAIL, f"{life.state}: {life.trouble or life.what_runs}", 0.0


def _volumes(seen: Seen) -> tuple[str, str, float]:
    troubles, words = [], []
    for path, probe in seen.volumes.items():
        if probe.value is None:
            troubles.append(f"{path} {probe.trouble or 'not seen yet'}")
        elif probe.value.trouble:
            troubles.append(probe.value.trouble)
        else:
            words.append(f"{path} {'is mounted read-only' if probe.value.read_only else 'can be written'}")
    age = max(probe.age_s for probe in seen.volumes.values())
    return (FAIL, "; ".join(troubles), age) if troubles else (PASS, ", ".join(words), age)


def _disk(seen: Seen) -> tuple[str, str, float]:
    age = max(probe.age_s for probe in seen.volumes.values())
    looks = [probe.value for probe in seen.volumes.values() if probe.value is not None]
    short = [look for look in looks if not look.read_only and is_short_of_space(look)]
    if short:
        words = ", ".join(f"{look.path} has {size(look.free)} of {size(look.total)} left" for look in short)
        return WARN, f"{words}; remove what is not needed or give it a larger volume", age
    if not looks:
        return WARN, "not seen", age
    least = min(looks, key=lambda look: look.free)
    return PASS, f"at least {size(least.free)} left", age


def is_short_of_space(look: Look) -> bool:
    """Say whether room or file numbers are about to end."""
    if look.total and look.free < min(LITTLE_SPACE * look.total, LITTLE_SPACE_BYTES):
        return True
    return look.files > 0 and look.free_files < LITTLE_SPACE * look.files


def _memory(seen: Seen) -> tuple[str, str, float]:
    probe = seen.memory
    found = probe.value
    if found is None:
        return WARN, probe.trouble or "not seen yet", probe.age_s
    if not found.limit:
        return PASS, f"{size(found.used)} used, no limit", probe.age_s
    words = f"{size(found.used)} of {size(found.limit)} used"
    if found.used > MUCH_MEMORY * found.limit:
        return WARN, f"{words}; give the container more with `--memory`, or run less in it", probe.age_s
    if found.oom_kills:
        return PASS, f"{words}; {found.oom_kills} processes were killed for want of memory", probe.age_s
    return PASS, words, probe.age_s


def _said(choose: Callable[[Seen], Probe[str]]) -> Callable[[Seen], tuple[str, str, float]]:
    def judge(seen: Seen) -> tuple[str, str, float]:
        probe = choose(seen)
        if probe.value is None:
            return FAIL, probe.trouble or "not seen yet", probe.age_s
        return PASS, probe.value, probe.age_s

    return judge


TABLE: tuple[tuple[str, bool, Callable[[Seen], tuple[str, str, float]]], ...] = (
    ("tmux", True, _tmux),
    ("agent", True, _agent),
    ("volumes", True, _volumes),
    ("bridge", False, _said(lambda seen: seen.bridge)),
    ("task-master", False, _said(lambda seen: seen.task_master)),
    ("disk", False, _disk),
    ("memory", False, _memory),
)


def size(count: float) -> str:
    """Return bytes for people."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"

"""The protected paths of a workspace, for who runs a container on it.

bridge/server/host/protected.py says which they are. Every function but `lost` and `within` raises OperatorError.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bridge.server.host import protected
from bridge.server.host.places import Place, PlaceError
from bridge.server.host.protected import (
    GIT,
    NOTHING,
    PROTECTED,
    USUAL,
    Choice,
    Protection,
    ProtectionError,
    lost,
    within,
)
from bridge.server.operator.api import USAGE, OperatorError

__all__ = [
    "GIT",
    "NOTHING",
    "PROTECTED",
    "USUAL",
    "Choice",
    "Protection",
    "check",
    "choice",
    "linked",
    "lost",
    "prepare",
    "stand_ins",
    "within",
]


def choice(more: Iterable[str], fewer: Iterable[str]) -> Choice:
    """Return what a person chose: paths of the workspace."""
    with _as_operator_error(""):
        return Choice.of(more, fewer)


def linked(workspace: Path) -> str:
    """Return the repository elsewhere that a workspace belongs to (a worktree, a submodule); empty if to none."""
    with _as_operator_error(workspace):
        return protected.linked(Place.pin(workspace))


def check(workspace: Path, choice: Choice) -> None:
    """Refuse what cannot be protected, and what is not to be and would not be anyway. Nothing is made."""
    with _as_operator_error(workspace):
        place = Place.pin(workspace)
        if unknown := protected.unknown(place, choice):
            usual = ", ".join(PROTECTED)
            raise ProtectionError(f"--unprotect {unknown[0]}: nothing there is protected; the usual paths are {usual}")
        protected.check(place, choice)


def prepare(workspace: Path, choice: Choice) -> Protection:
    """Make stand-ins for what is missing. Returns what to mount."""
    with _as_operator_error(workspace):
        return protected.prepare(Place.pin(workspace), choice)


def stand_ins(workspace: Path) -> set[str]:
    """Return the paths at which stand-ins are now."""
    with _as_operator_error(workspace):
        return protected.stand_ins(Place.pin(workspace))


@contextmanager
def _as_operator_error(workspace: Path | str) -> Iterator[None]:
    try:
        yield
    except PlaceError as error:
        raise OperatorError(f"workspace {workspace} {error.what}; name another folder", USAGE) from None
    except ProtectionError as error:
        raise OperatorError(str(error), USAGE) from None

"""What a registry serves, and one line that says why it does not answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import Problem
from pipeline.release import faults, verify
from tests.support.registry import Registry


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch, docker_config: Path) -> None:
    """Nobody is logged in, and no request is repeated."""
    monkeypatch.setattr(faults, "WAITS_S", ())


def test_name_that_is_not_there_is_one_line(shared_registry: Registry) -> None:
    with pytest.raises(Problem, match=f"does not serve {shared_registry.host}/team/agent:none: .*not found") as caught:
        verify.fetch(f"{shared_registry.host}/team/agent:none")
    assert "\n" not in str(caught.value)


def test_registry_that_wants_a_login_is_one_line(private_registry: Registry) -> None:
    with pytest.raises(Problem, match=f"run `docker login {private_registry.host}`"):
        verify.fetch(f"{private_registry.host}/team/agent:none")


def test_registry_that_is_away_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(faults, "WAITS_S", (0.1, 0.2))
    monkeypatch.setattr("time.sleep", waited.append)
    with pytest.raises(Problem, match="cannot be reached"):
        verify.fetch("localhost:1/team/agent:none")
    assert waited == [0.1, 0.2]

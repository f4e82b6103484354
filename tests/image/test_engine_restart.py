"""After the engine restarts or was killed, agents that ran run again, and agents that a person stopped stay stopped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.second_engine import SecondEngine, second_engine
from tests.support.waiting import wait_until

pytestmark = pytest.mark.variant("prod")  # it is the engine that is tested here
POLICY = {"Name": "unless-stopped"}
COMES_BACK_S = 60


@pytest.fixture(scope="module")
def restarted(image: str) -> Iterator[SecondEngine]:
    """An engine that was stopped and started while one agent ran and another had been stopped."""
    with second_engine() as engine:
        engine.copy_image(image)
        with engine.client() as client:
            for name in ("ran", "was-stopped"):
                client.containers.run(image, name=name, detach=True, network_mode="none", restart_policy=POLICY)
                comes_back(engine, name)
            client.containers.get("was-stopped").stop()
        engine.stop()
        engine.start()
        yield engine
        with engine.client() as client:
            for container in client.containers.list(all=True):
                container.remove(force=True, v=True)


def health(engine: SecondEngine, name: str) -> str:
    with engine.client() as client:
        state = client.containers.get(name).attrs["State"]
    return str(state["Health"]["Status"]) if state["Status"] == "running" else str(state["Status"])


def comes_back(engine: SecondEngine, name: str) -> None:
    wait_until(lambda: health(engine, name) == "healthy", COMES_BACK_S, f"agent {name} to be healthy")


def test_agent_that_ran_comes_back(restarted: SecondEngine) -> None:
    comes_back(restarted, "ran")


def test_agent_that_was_stopped_stays_stopped(restarted: SecondEngine) -> None:
    comes_back(restarted, "ran")
    assert health(restarted, "was-stopped") == "exited"


def test_engines_end_was_a_graceful_stop(restarted: SecondEngine) -> None:
    with restarted.client() as client:
        log = client.containers.get("ran").logs().decode()
    assert "stopped after" in log
    assert "was cut off" not in log


def test_agent_can_be_started_again_after_the_engine_was_killed(restarted: SecondEngine) -> None:
    """When such an engine starts again, it stops what still runs, and takes that for a person's wish."""
    comes_back(restarted, "ran")
    restarted.kill()
    restarted.start()
    with restarted.client() as client:
        client.containers.get("ran").start()
    comes_back(restarted, "ran")

"""`agents.send` to a live agent whose pane shows Claude: at rest, asleep, and while Claude waits for a person."""

from __future__ import annotations

import os
import uuid

import docker
import pytest

from pipeline import bridge
from pipeline.agents import compose, overview, prompts
from pipeline.agents.settings import Settings
from pipeline.agents.workspace import Owner
from pipeline.build import image as images
from pipeline.errors import Problem
from tests.support.bridge_cli import NEWEST
from tests.support.bridge_host import OWNER
from tests.support.fake_messages_api import Say, in_turn
from tests.support.real_host import RealHost, real_server
from tests.support.tool_calls import bash
from tests.support.waiting import wait_until

WITHIN_S = 90
SLEEP_MINUTES = 0.05
TEXT = 'first --line\n  it\'s "second" with ä🙂\n' + "x" * 100_000


@pytest.fixture
def variant(image: str, monkeypatch: pytest.MonkeyPatch) -> images.Variant:
    monkeypatch.setattr(images, "REPOSITORY", image.rpartition(":")[0])
    return next(one for one in images.VARIANTS.values() if one.tag == image.rpartition(":")[2])


def heard(real: RealHost, *parts: str) -> bool:
    """Say whether the model got a prompt with all of these texts."""
    return any(all(part in request.heard for part in parts) for request in real.api.prompts)


@pytest.mark.parametrize("image", ["prod"], indirect=True)  # what is tested is this machine's side
def test_prompt_reaches_a_session_that_rests_or_sleeps_and_none_that_asks(
    variant: images.Variant, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path_factory.mktemp("send")
    workspace = directory / "workspace"
    workspace.mkdir()
    os.chown(workspace, OWNER, OWNER)
    name = f"send-{uuid.uuid4().hex[:8]}"
    client = docker.from_env()
    said: list[str] = []
    with real_server(directory, NEWEST, sleep=SLEEP_MINUTES) as real:
        monkeypatch.setenv("CLAUDE_BRIDGE_STATE", str(real.host.state))
        monkeypatch.setenv("CLAUDE_BRIDGE_CONFIG", str(real.host.config))

        def state() -> str:
            found = overview.some(client, [name])[name]
            return found.calls[0].state if found and found.calls else "no call"

        def wait_for(*states: str) -> None:
            wait_until(lambda: state() in states, WITHIN_S, f"{states}, not {state()}")

        mount = bridge.for_agent(name, workspace, said.append)
        chosen = Settings("claude-code --permission-mode default")
        try:
            compose.up(client, variant, name, workspace, Owner(OWNER, OWNER), said.append, mount, chosen=chosen)
            wait_for("idle", "asleep")
            assert prompts.send(client, name, TEXT) == f"agent {name}: its Claude has taken the prompt"
            wait_until(lambda: heard(real, 'first --line\n  it\'s "second" with ä🙂\n', "x" * 100_000), WITHIN_S, "all")
            wait_for("asleep")
            prompts.send(client, name, "what\nis next")
            wait_until(lambda: heard(real, "what\nis next"), WITHIN_S, "the prompt after sleep")
            wait_for("idle", "asleep")
            real.api.part = in_turn(bash("touch made.txt"), Say("it is done"))
            prompts.send(client, name, "make it")
            wait_for("waiting_for_person")
            with pytest.raises(Problem, match=rf"agent {name} waits for a person .*, so nothing was sent"):
                prompts.send(client, name, "1")
            assert not (workspace / "made.txt").exists()
        finally:
            compose.down(client, [name], said.append)
            client.volumes.get(f"magents-{name}-agent").remove()
            client.close()

"""The next run removes what a crashed run left, including what Compose made."""

from __future__ import annotations

import platform
import subprocess
import uuid

import docker
import pytest

from pipeline.agents.compose import PROJECT_LABEL
from tests.support.cleanup import remove_orphans
from tests.support.containers import LABEL, SESSION

pytestmark = pytest.mark.variant("prod")  # what is tested is this machine's side


@pytest.mark.parametrize("alive", [True, False], ids=["its maker lives", "its maker is gone"])
def test_project_of_a_run_goes_with_its_maker(client: docker.DockerClient, image: str, alive: bool) -> None:
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    session = SESSION if alive else f"{platform.node()}:{ended.pid}"
    name = f"magents-test-{uuid.uuid4().hex[:12]}"
    project = {PROJECT_LABEL: name}
    made = [
        client.containers.create(image, name=name, labels={LABEL: session, **project}),
        client.volumes.create(name, labels=project),
        client.networks.create(name, labels=project),
    ]
    try:
        assert [removed for removed in remove_orphans() if removed == name] == ([] if alive else [name] * 3)
    finally:
        if alive:
            for one in made:
                one.remove()

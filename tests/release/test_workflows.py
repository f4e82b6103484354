"""The workflows' own commands, taken from the YAML and run in order against a registry on loopback."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml

from pipeline.bootstrap.base import MACHINES
from pipeline.build import source
from pipeline.files import ROOT
from pipeline.release import push, verify
from tests.support.registry import Registry

WORKFLOWS = ROOT / ".github" / "workflows"

NOT_RUN_HERE = {
    "a layer of its own": "it is what runs this test",
    "the fast layer": "it has just run, and needs the network",
    "every row of the bridge's tests": "it takes an hour, and most rows have just run",
    "every other check": "it is what runs this test",
    "a healthy agent": "it would take the place of the agent of whoever runs this; tests of `up` are elsewhere",
    "sign and attest": "cosign needs the identity that GitHub gives to a workflow",
    "description on Docker Hub": "it needs an account on Docker Hub",
}
"""Steps by name, with the reason why they are not run. Steps with `uses:` cannot be run without GitHub either."""

HERE = {"join the architectures": {"ARCHITECTURES": f"--architecture {MACHINES[platform.machine()]}"}}
"""Variables of steps that have other values on this one machine."""

NARROWED = {"test both variants": {"PYTEST_ADDOPTS": "-k test_labels_agree_with_the_manifest"}}
"""Steps that run only some of their tests, because all of them have just run."""


def steps(workflow: str, job: str) -> list[dict[str, Any]]:
    """Return a job's steps that run a command."""
    read = yaml.safe_load((WORKFLOWS / workflow).read_text())
    return [step for step in read["jobs"][job]["steps"] if "run" in step]


def valued(text: str, values: dict[str, str]) -> str:
    """Replace each `${{ … }}` by its value. An unknown one fails the test."""
    return re.sub(r"\$\{\{\s*(.*?)\s*\}\}", lambda found: values[found[1]], str(text))


def test_every_command_of_a_workflow_is_a_task_of_ours() -> None:
    for path in WORKFLOWS.glob("*.yml"):
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            for step in job["steps"]:
                assert "run" not in step or re.search(r"bin/(invoke|nox)\b", step["run"]), step
                assert "${{" not in step.get("run", ""), "an expression in a command may be an injection"


def test_publishing_from_start_to_end(
    images: dict[str, str],
    client: docker.DockerClient,
    shared_registry: Registry,
    docker_config: Path,
    no_names_left: None,
    tmp_path: Path,
) -> None:
    where = f"{shared_registry.host}/flow"
    revision = source.describe().revision
    values = {
        "vars.REGISTRY || 'magents'": where,
        "github.event_name == 'schedule'": "false",
        "vars.DOCKERHUB_USERNAME": "",
        "secrets.DOCKERHUB_TOKEN": "",
    }
    read = yaml.safe_load((WORKFLOWS / "publish.yml").read_text())
    common = {name: valued(value, values) for name, value in read["env"].items()}
    output = tmp_path / "output"
    shutil.rmtree(ROOT / "dist", ignore_errors=True)  # ignored because it does not exist in a first run
    ran = []
    for job in ("plan", "build", "publish"):
        for step in steps("publish.yml", job):
            if step["name"] in NOT_RUN_HERE:
                continue
            own = {name: valued(value, values) for name, value in step.get("env", {}).items()}
            narrowed = NARROWED.get(step["name"], {}) | HERE.get(step["name"], {})
            environment = {**os.environ, **common, **own, **narrowed, "GITHUB_OUTPUT": str(output)}
            environment["GITHUB_SHA"] = revision
            done = subprocess.run(
                ["bash", "-e", "-c", step["run"]],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, f"{step['name']}: {done.stdout}{done.stderr}"
            ran.append(step["name"])
    assert output.read_text() == f"ref={revision}\n"
    assert ran == [
        "the newest release weekly, else what was pushed",
        "build both variants",
        "test both variants",
        "bills of materials",
        "push for this architecture",
        "join the architectures",
    ]
    for part in push.parts():
        assert part.image_id == images[part.variant]
        for reference in part.references:
            assert part.digest in verify.fetch(reference).parts
        bill = json.loads((ROOT / "dist" / "sbom" / f"{part.variant}-{part.architecture}.cdx.json").read_text())
        assert bill["metadata"]["component"]["bom-ref"] == images[part.variant]


def test_nothing_is_published_that_has_not_passed_every_session() -> None:
    """Every change has to pass every session, too."""
    wanted = {name.partition("(")[0] for name in default_sessions()}
    for workflow, jobs in (("publish.yml", ["build"]), ("ci.yml", ["fast", "sessions"])):
        read = yaml.safe_load((WORKFLOWS / workflow).read_text())["jobs"]
        text = " ".join(step["run"] for job in jobs for step in read[job]["steps"] if "run" in step)
        text += " ".join(read.get("sessions", {}).get("strategy", {}).get("matrix", {}).get("session", []))
        named = set(re.findall(r"\w+", text))
        assert wanted - {"build"} <= named, workflow
    order = [step.get("name", "") for step in steps("publish.yml", "build")]
    for check in ("every row of the bridge's tests", "every other check"):
        assert order.index(check) < order.index("push for this architecture")


def default_sessions() -> list[str]:
    """Return the sessions that `bin/nox` runs without arguments."""
    text = (ROOT / "noxfile.py").read_text()
    return re.findall(r'"(\w+)"', text[text.index("nox.options.sessions") : text.index("VARIANTS =")])


@pytest.mark.parametrize("name", NOT_RUN_HERE)
def test_what_is_not_run_is_a_step_still(name: str) -> None:
    found = [path for path in WORKFLOWS.glob("*.yml") if f"name: {name}\n" in path.read_text()]
    assert found, f"no workflow has a step {name} any more; take it off the list"

"""Lists that a tool forces us to write twice are equal; locks have hashes and no addresses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import noxfile
from bridge.protocol import frames
from pipeline.bootstrap import base
from pipeline.build.image import VARIANTS
from tests.fidelity import record
from tests.support import parity
from tests.support.task_master_cases import CASES

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()


def test_noxfiles_variants() -> None:
    assert list(VARIANTS) == noxfile.VARIANTS


def test_dockerfile_has_a_stage_for_each_variant() -> None:
    assert set(re.findall(r"AS variant-(\w+)", DOCKERFILE)) == set(VARIANTS)


def test_dockerfile_names_the_locked_task_master() -> None:
    lock = json.loads((ROOT / "docker/task-master/package-lock.json").read_text())
    version = lock["packages"]["node_modules/task-master-ai"]["version"]
    assert f"ARG TASK_MASTER_VERSION={version}\n" in DOCKERFILE


def test_dockerfile_names_the_bridge_s_protocol() -> None:
    assert f"ARG BRIDGE_PROTOCOL={frames.VERSION}\n" in DOCKERFILE


def test_dockerfile_pulls_no_frontend() -> None:
    assert "# syntax=" not in DOCKERFILE


@pytest.mark.parametrize("node", base.NODES)
@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_a_base_is_locked_for_each_node(node: str, architecture: str) -> None:
    lock = json.loads((ROOT / "docker/base/package-lock.json").read_text())["packages"]
    assert lock[f"node_modules/node-{node}-{architecture}"]["version"].startswith(f"{node}.")


@pytest.mark.parametrize("folder", noxfile.NPM_LOCKS)
def test_npm_lock_has_digests_and_no_addresses(folder: str) -> None:
    text = (ROOT / folder / "package-lock.json").read_text()
    assert '"resolved"' not in text
    fetched = [entry for name, entry in json.loads(text)["packages"].items() if name and not entry.get("inBundle")]
    assert fetched
    assert [entry for entry in fetched if "integrity" not in entry and not entry.get("link")] == []


@pytest.mark.parametrize("name", noxfile.LOCKS)
def test_pip_lock_has_digests_and_no_index(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    assert "--hash=sha256:" in text
    assert "index-url" not in text


def test_record_of_the_plain_cli_is_of_these_projects() -> None:
    """If not, the tests are right but slow: run `bin/nox -s fidelity_tests -- --complete` and commit the record."""
    assert record.recorded()["of"] == record.of()


def test_upstream_s_answer_to_each_case_is_recorded() -> None:
    """If not, the tests are right but slow: run `bin/nox -s parity_tests -- --complete` and commit the record."""
    assert {name: row["of"] for name, row in parity.recorded().items()} == {
        case.name: parity.of(case) for case in CASES
    }

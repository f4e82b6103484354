"""Messages about a build: why it failed, which certificates it uses, which option is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.bootstrap import base
from pipeline.build import image
from pipeline.errors import Problem

# The last lines of real failed builds, cut to those that show the reason.
FAILURES = {
    "disk is full": "ERROR: failed to copy files: copy file range failed: no space left on device",
    "package lock is broken": "npm error code EUSAGE\nnpm error `npm ci` can only install packages when your "
    "package.json and package-lock.json are in sync.",
    "name its certificates": "npm error code SELF_SIGNED_CERT_IN_CHAIN",
    "registry cannot be reached": "Err:1 Temporary failure resolving 'mirror'",
    "base image cannot be had": "ERROR: failed to solve: nowhere/none: failed to resolve source metadata",
    "programs of that platform": "exec /bin/sh: exec format error",
}


@pytest.mark.parametrize("told", FAILURES)
def test_reason_of_a_failed_build(told: str) -> None:
    assert told in image.reason(FAILURES[told])


def test_reason_nobody_knows_is_buildx_own() -> None:
    assert image.reason("#1 x\nERROR: failed to solve: process did not complete") == (
        "failed to solve: process did not complete"
    )


def test_certificates_named_on_the_command_line_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("given.pem", "usual.pem"):
        (tmp_path / name).write_text("x")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "usual.pem"))
    assert image.ca_bundle(str(tmp_path / "given.pem")) == tmp_path / "given.pem"
    assert image.ca_bundle(None) == tmp_path / "usual.pem"


@pytest.mark.parametrize("variable", image.CA_VARIABLES)
def test_each_usual_variable_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    for name in image.CA_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "ca.pem").write_text("x")
    monkeypatch.setenv(variable, str(tmp_path / "ca.pem"))
    assert image.ca_bundle(None) == tmp_path / "ca.pem"


def test_certificates_that_are_not_there_are_told() -> None:
    with pytest.raises(Problem, match="--ca-bundle names /nowhere"):
        image.ca_bundle("/nowhere")


def test_missing_dockerfile_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(image, "DOCKERFILE", tmp_path / "Dockerfile")
    with pytest.raises(Problem, match="Dockerfile is missing"):
        image.build(None, image.VARIANTS["prod"], image.Options(), print)


def test_unknown_platform_is_told() -> None:
    with pytest.raises(Problem, match="--platform linux/mips"):
        image.build(None, image.VARIANTS["prod"], image.Options(platform="linux/mips"), print)


def test_unknown_node_is_told() -> None:
    with pytest.raises(Problem, match="--node 18 is not known"):
        base.choose(None, print, given=None, node="18", architecture="amd64", pull=False)

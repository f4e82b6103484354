"""What is pushed is what was tested, and the registry serves it. Every error is one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import docker
import pytest
from docker.errors import ImageNotFound

from pipeline.build import source
from pipeline.build.image import VARIANTS
from pipeline.errors import Problem
from pipeline.files import ROOT
from pipeline.release import faults, push, test_records, verify
from pipeline.release.push import Publication
from tests.release.conftest import Invoke
from tests.support.registry import PASSWORD, USER, Registry
from tests.support.waiting import wait_until


def log_in(host: str, password: str = PASSWORD) -> None:
    subprocess.run(
        ["docker", "login", "--username", USER, "--password-stdin", host],
        input=password,
        text=True,
        check=True,
        capture_output=True,
    )


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def is_there(client: docker.DockerClient, image_id: str) -> bool:
    try:
        client.images.get(image_id)
    except ImageNotFound:
        return False
    return True


def test_registry_killed_in_the_middle_then_pushed_again(
    invoke: Invoke, images: dict[str, str], private_registry: Registry, docker_config: Path
) -> None:
    where = f"{private_registry.host}/team"
    log_in(private_registry.host)
    command = [str(ROOT / "bin" / "invoke"), "push", "--variant", "prod", "--registry", where]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pushing:
        wait_until(lambda: private_registry.stored_bytes() > 5_000_000, 60, "the push to be under way")
        private_registry.kill()
        output = pushing.communicate()[0]
    assert pushing.returncode == 1
    assert "was not pushed: the registry" in output.strip().splitlines()[-1]
    assert "Traceback" not in output
    private_registry.start()
    again = invoke("push", "--variant", "prod", "--registry", where)
    assert again.returncode == 0, again.stderr
    for line in again.stdout.splitlines():
        assert verify.fetch(line.split()[0]).config == images["prod"]


def test_pulled_images_are_the_tested_ones_and_pass_their_tests(
    invoke: Invoke, images: dict[str, str], client: docker.DockerClient, shared_registry: Registry
) -> None:
    where = f"{shared_registry.host}/team"
    pushed = invoke("push", "--registry", where)
    assert pushed.returncode == 0, pushed.stderr
    served = dict(line.split() for line in pushed.stdout.splitlines())
    revision = source.describe().revision[:12]
    names = {"prod": f"{where}/agent:sha-{revision}", "dev": f"{where}/agent:sha-{revision}-dev"}
    assert set(names.values()) <= served.keys()
    try:
        for name in (*served, *(variant.reference for variant in VARIANTS.values())):
            client.images.remove(name, force=True)
        for variant, image_id in images.items():
            if not client.containers.list(all=True, filters={"ancestor": image_id}):
                assert not is_there(client, image_id), "what is pulled next was here all the time"
            assert str(client.images.pull(names[variant]).id) == image_id
            tests = ["tests/image/test_contents.py", "--variant", variant, "--image", names[variant]]
            subprocess.run([sys.executable, "-m", "pytest", "-q", *tests, "-n", "2"], cwd=ROOT, check=True)
    finally:
        for variant, image_id in images.items():
            if not is_there(client, image_id):
                client.images.pull(names[variant])
            client.images.get(image_id).tag(VARIANTS[variant].reference)


def test_pushing_again_changes_nothing(invoke: Invoke, images: dict[str, str], shared_registry: Registry) -> None:
    where = f"{shared_registry.host}/team"
    first, second = (invoke("push", "--variant", "prod", "--registry", where) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0)
    assert first.stdout == second.stdout


def test_dry_run_shows_the_names_and_gives_none(
    invoke: Invoke, images: dict[str, str], client: docker.DockerClient
) -> None:
    done = invoke("tag", "--dry-run", "--registry", "localhost:5999/team")
    assert done.returncode == 0, done.stderr
    assert f"localhost:5999/team/agent:sha-{source.describe().revision[:12]}" in done.stdout
    assert images["dev"].removeprefix("sha256:")[:12] in done.stdout
    assert not [name for image in client.images.list() for name in image.tags if name.startswith("localhost:5999")]
    assert invoke("tag", "--registry", "localhost:5999/team").returncode == 0
    assert [name for image in client.images.list() for name in image.tags if name.startswith("localhost:5999")]


def test_untested_image_is_refused_unless_named(
    images: dict[str, str], client: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = push.publications(client, [VARIANTS["prod"]], "localhost:5999/team")
    push.require_tested(found, [])
    monkeypatch.setattr(test_records, "RECORDS", tmp_path)
    with pytest.raises(Problem, match="is not the image that was tested"):
        push.require_tested(found, ["dev"])
    push.require_tested(found, ["prod"])
    test_records.record(VARIANTS["prod"], images["dev"])
    with pytest.raises(Problem, match="is not the image that was tested"):
        push.require_tested(found, [])


def test_registry_that_serves_another_image_is_noticed(
    images: dict[str, str],
    client: docker.DockerClient,
    shared_registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    no_names_left: None,
) -> None:
    reference = f"{shared_registry.host}/team/agent:mistaken"
    client.images.get(images["prod"]).tag(reference)
    monkeypatch.setattr(push, "tag", lambda *_: None)
    with pytest.raises(Problem, match="serves another image"):
        push.push(client, Publication(VARIANTS["dev"], images["dev"], "amd64", (reference,)), print)


@pytest.mark.parametrize("password", [None, "wrong"])
def test_registry_that_does_not_know_us_is_one_line(
    invoke: Invoke, images: dict[str, str], private_registry: Registry, password: str | None
) -> None:
    if password:
        with pytest.raises(subprocess.CalledProcessError):
            log_in(private_registry.host, password)
    done = invoke("push", "--registry", f"{private_registry.host}/team")
    assert done.returncode == 1
    assert f"docker login {private_registry.host}" in last_line(done)
    assert "0 of" in last_line(done)


def test_registry_that_is_away_is_tried_again_then_one_line(
    images: dict[str, str],
    client: docker.DockerClient,
    shared_registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    no_names_left: None,
) -> None:
    (found,) = push.publications(client, [VARIANTS["prod"]], "localhost:1/team")
    monkeypatch.setattr(faults, "WAITS_S", (0.1, 0.1))
    said: list[str] = []
    with pytest.raises(Problem, match="cannot be reached"):
        push.push(client, found, said.append)
    assert len([line for line in said if "trying again" in line]) == 2


@pytest.mark.parametrize("where", ["", "UPPER/case", "http://localhost:5000/team", "team; rm -rf /"])
def test_bad_registry_is_one_line(invoke: Invoke, images: dict[str, str], where: str) -> None:
    done = invoke("tag", "--dry-run", "--registry", where)
    assert done.returncode == 64
    assert "is no registry with a namespace" in last_line(done)

"""What the container makes of what its host gives: one file of certificates, settings for git, words for health."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from agent import certificates, git
from healthcheck.checks import network
from healthcheck.facts import Certificates
from tests.support import certificate


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the system's certificates, and a place for the host's."""
    (tmp_path / "public").mkdir()
    certificate.make(tmp_path / "public")
    monkeypatch.setattr(certificates, "SYSTEM", tmp_path / "public" / "certificate.pem")
    for name in ("HOST", "TRUSTED", "ADDED"):
        monkeypatch.setattr(certificates, name, tmp_path / name.lower())
    return tmp_path


def parts(*paths: Path) -> list[str]:
    return [one for path in paths for one in certificates.certificates(path.read_bytes())]


def test_host_s_certificates_are_added_and_nothing_else_of_the_file(files: Path) -> None:
    both = certificate.make(files)  # with its private key, as some files have it
    text = both.read_text().replace("\n", "\r\n") + "# a remark\n" + certificates.SYSTEM.read_text()
    (files / "host").write_text(text, newline="")
    assert certificates.renew(pytest.fail).added == 1
    assert parts(files / "trusted") == parts(certificates.SYSTEM, files / "certificate.pem")
    assert parts(files / "added") == parts(files / "certificate.pem")
    assert "PRIVATE" not in (files / "trusted").read_text()


def test_host_s_certificates_that_change_in_place_are_taken_over(files: Path) -> None:
    certificate.make(files)
    (files / "host").write_bytes(b"")
    assert certificates.renew(pytest.fail) == Certificates(0)
    before = (files / "trusted").stat().st_ino
    certificates.renew(pytest.fail)
    assert (files / "trusted").stat().st_ino == before, "nothing is written where nothing changed"
    (files / "host").write_bytes((files / "certificate.pem").read_bytes())
    assert certificates.renew(pytest.fail).added == 1
    assert parts(files / "trusted") == parts(certificates.SYSTEM, files / "certificate.pem")


def test_container_without_the_mount_is_left_alone(files: Path) -> None:
    assert certificates.renew(pytest.fail) == Certificates(0)
    assert not (files / "trusted").exists()


@pytest.mark.parametrize("content", [b"no certificate", b"\x30\x82\x01\x00 DER", b"-----END CERTIFICATE-----", None])
def test_file_that_cannot_be_used_is_told_and_the_system_s_stay(files: Path, content: bytes | None) -> None:
    if content is None:
        (files / "host").mkdir()
    else:
        (files / "host").write_bytes(content)
    assert certificates.renew(pytest.fail).problem
    assert parts(files / "trusted") == parts(certificates.SYSTEM)


@pytest.mark.parametrize(("root", "expected"), [("/etc/ca.pem", False), ("/etc/ca.pem//deleted", True)])
def test_file_that_was_replaced_on_the_host_is_seen(root: str, expected: bool) -> None:
    table = (
        f"1 2 0:3 {root} /etc/ssl/host.pem ro - ext4 /dev/x ro\n4 5 0:6 /x//deleted /workspace rw - ext4 /dev/x rw\n"
    )
    assert certificates.is_replaced(table) is expected


# git


@pytest.mark.parametrize("name", ["Ann", 'A "B" \\C', "Ünï ; # [x]", "two\nlines", "[core]\n\tpager = evil", " x "])
def test_identity_arrives_as_it_is_and_as_nothing_else(tmp_path: Path, name: str) -> None:
    environ = {"AGENT_GIT_NAME": name, "AGENT_GIT_EMAIL": "a@b"}
    (tmp_path / "gitconfig").write_text(git.settings(environ, has_certificates=True))
    command = ["git", "config", "--file", str(tmp_path / "gitconfig"), "--null", "--list"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert listed.split("\0") == [
        f"user.name\n{name}",
        "user.email\na@b",
        f"http.sslcainfo\n{certificates.TRUSTED}",
        "",
    ]


@pytest.mark.parametrize("environ", [{}, {"AGENT_GIT_NAME": "", "AGENT_GIT_EMAIL": " "}])
def test_without_an_identity_git_asks_for_one(environ: dict[str, str]) -> None:
    assert git.settings(environ, has_certificates=False) == ""


# health


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"HTTP_PROXY": ""}, None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "a, localhost,127.0.0.1"}, None),
        ({"https_proxy": "http://proxy:3128", "no_proxy": "*"}, None),
        ({"https_proxy": "http://127.example.org:1", "no_proxy": "*"}, None),
        ({"https_proxy": "http://u:p@127.0.0.1:3128/", "NO_PROXY": "*"}, "HTTPS_PROXY is http://127.0.0.1:3128, which"),
        ({"HTTP_PROXY": "LocalHost:3128", "NO_PROXY": "*"}, "HTTP_PROXY is LocalHost:3128, which is this container"),
        ({"ALL_PROXY": "socks5h://[::1]:1080", "NO_PROXY": "*"}, "ALL_PROXY is socks5h://[::1]:1080, which"),
        ({"HTTP_PROXY": "http://proxy:3128"}, "NO_PROXY lacks localhost or 127.0.0.1"),
        ({"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "localhost"}, "NO_PROXY lacks localhost or 127.0.0.1"),
    ],
)
def test_proxy_that_cannot_work_in_a_container_is_told(environ: dict[str, str], expected: str | None) -> None:
    problems = network.proxy_problems(environ)
    assert [problem.startswith(expected or "") for problem in problems] == ([True] if expected else [])


@pytest.mark.parametrize(
    "proxy", ["http://user:secret@proxy:3128", "user:secret@proxy:3128", "http://user:se/cret@x@proxy:3128/secret"]
)
def test_password_of_a_proxy_is_never_shown(proxy: str) -> None:
    assert network.place(proxy).removeprefix("http://") == "proxy:3128"


def test_variable_that_names_a_file_of_the_host_is_told(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("")
    assert not network.missing_files({"SSL_CERT_FILE": str(tmp_path / "ca.pem"), "NODE_EXTRA_CA_CERTS": ""})
    (problem,) = network.missing_files({"SSL_CERT_FILE": str(tmp_path / "no.pem"), "PIP_CERT": os.devnull + "/x"})[:1]
    assert problem.startswith(f"SSL_CERT_FILE names {tmp_path}/no.pem, which is no file in this container")

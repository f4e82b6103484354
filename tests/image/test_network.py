"""compose.yaml with values in .env, on a host whose proxy re-signs TLS: each program trusts what the host trusts.

The server is in the container itself, with a certificate that no system has. The proxy that .env names does not exist:
so what arrives shows that NO_PROXY has the container's own addresses.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pip
import pytest

from tests.support import certificate, compose_folder
from tests.support.compose_folder import SERVICES, ComposeFolder
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
UID = 1000
SITE = "https://127.0.0.1:8443"
PROXY = "http://someone:secret@proxy.invalid:3128"
SERVER = """
import functools, http.server, ssl
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory="/workspace/site")
server = http.server.ThreadingHTTPServer(("127.0.0.1", 8443), handler)
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain("/workspace/both.pem")
server.socket = tls.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""
PROGRAMS = {
    "curl": f"curl -sSf {SITE}/page",
    "node": f"node -e \"fetch('{SITE}/page').then(a => a.text()).then(t => console.log(t))\"",
    "npm": f"npm view thing description --registry {SITE}/npm/",
    "pip": f"python3 -m pip download -q --no-deps --no-cache-dir -d /tmp/got --index-url {SITE}/simple/ thing "
    "&& python3 -m zipfile -e /tmp/got/*.whl /tmp/got && cat /tmp/got/thing.txt",
    "requests": f"python3 -c \"from pip._vendor import requests; print(requests.get('{SITE}/page').text)\"",
    "urllib": f"python3 -c \"from urllib.request import urlopen; print(urlopen('{SITE}/page').read().decode())\"",
    "git": f"git ls-remote {SITE}/repository.git",
}


class Desk(ComposeFolder):
    """A folder with compose.yaml and .env, and libraries for Python in its workspace."""

    def sh(self, script: str) -> str:
        return super().sh(f"export PYTHONPATH=/workspace/lib; {script}")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, image: str, variant: str) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    shutil.copy(ROOT / "compose.yaml", folder)
    _make_workspace(folder / "work")
    values = {
        **compose_folder.values(image),
        "AGENT_WORKSPACE": "./work",
        "AGENT_CA_BUNDLE": str(folder / "work" / "certificate.pem"),
        "HTTPS_PROXY": PROXY,
        "http_proxy": PROXY,
    }
    (folder / ".env").write_text("".join(f"{name}='{value}'\n" for name, value in values.items()))
    taken = {*values, "HTTP_PROXY", "NO_PROXY", "https_proxy", "no_proxy", "ALL_PROXY", "all_proxy"}
    made = Desk(folder, SERVICES[variant], {name: value for name, value in os.environ.items() if name not in taken})
    try:
        made.compose("up", "--detach", "--wait", made.service)
        made.compose("exec", "--detach", made.service, "python3", "-c", SERVER)
        wait_until(lambda: "listens" in made.sh(f"curl -sk {SITE}/page > /dev/null && echo listens || true"), 15, "TLS")
        yield made
    finally:
        made.compose("down", "--volumes", "--timeout", "1")


def _make_workspace(folder: Path) -> None:
    site = folder / "site"
    for name in ("npm", "simple/thing"):
        (site / name).mkdir(parents=True)
    certificate.make(folder)
    (site / "page").write_text("trusted")
    described = {"name": "thing", "version": "1.0.0", "description": "trusted"}
    packument = {"name": "thing", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": described}}
    (site / "npm" / "thing").write_text(json.dumps(packument))
    wheel = site / "simple" / "thing" / "thing-1.0.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("thing.txt", "trusted")
        archive.writestr("thing-1.0.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0.0\n")
        archive.writestr(
            "thing-1.0.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("thing-1.0.0.dist-info/RECORD", "")
    (site / "simple" / "thing" / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    repository = site / "repository.git"
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@y", "-C", str(repository)]
    subprocess.run(["git", "init", "--quiet", "--bare", str(repository)], check=True)
    tree = subprocess.run([*git, "mktree"], check=True, input="", capture_output=True, text=True).stdout.strip()
    commit = subprocess.run([*git, "commit-tree", "-m", "x", tree], check=True, capture_output=True, text=True).stdout
    subprocess.run([*git, "update-ref", "refs/heads/trusted", commit.strip()], check=True)
    subprocess.run([*git, "update-server-info"], check=True)
    shutil.copytree(Path(pip.__file__).parent, folder / "lib" / "pip")
    subprocess.run(["chown", "-R", f"{UID}:{UID}", str(folder)], check=True)


@pytest.mark.parametrize("program", PROGRAMS)
def test_program_trusts_what_the_host_trusts(desk: Desk, program: str) -> None:
    assert "trusted" in desk.sh(PROGRAMS[program])


def test_public_authorities_are_trusted_as_before(desk: Desk) -> None:
    """The host's file holds one certificate, and SSL_CERT_FILE replaces the system's file in most programs."""
    both = desk.sh("cat $SSL_CERT_FILE")
    system = desk.sh("cat /etc/ssl/certs/ca-certificates.crt")
    end = "-----END CERTIFICATE-----"
    assert len({*both.split(end)} - {*system.split(end)}) == 1
    assert not {*system.split(end)} - {*both.split(end)}
    assert desk.sh("cat $NODE_EXTRA_CA_CERTS") == (desk.folder / "work" / "certificate.pem").read_text()
    assert desk.sh("touch /etc/ssl/host.pem 2>&1 || true").strip().endswith("Read-only file system")


def test_proxies_have_both_spellings_in_the_session_too(desk: Desk) -> None:
    shown = "env | grep -iE '_(proxy|certs|bundle|file)=' | sort"
    wanted = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), PROXY)
    by_exec = dict(line.split("=", 1) for line in desk.sh(shown).splitlines())
    assert by_exec.items() >= wanted.items()
    assert {"localhost", "127.0.0.1"} <= set(by_exec["NO_PROXY"].split(",")) == set(by_exec["no_proxy"].split(","))
    desk.sh(f'tmux new-window -d "{shown} > /tmp/shown.part; mv /tmp/shown.part /tmp/shown"')
    in_session = wait_until(lambda: desk.sh("cat /tmp/shown 2> /dev/null || true"), 10, "the session's variables")
    assert dict(line.split("=", 1) for line in in_session.splitlines()) == by_exec


def test_health_says_what_the_host_gave_and_no_password(desk: Desk) -> None:
    status = json.loads(desk.sh("agent-status --json"))
    assert status["checks"]["network"]["status"] == "pass"
    assert status["checks"]["network"]["detail"] == "1 certificate of the host's, proxy http://proxy.invalid:3128"
    assert "secret" not in json.dumps(status)

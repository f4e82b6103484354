"""The contents of the image, seen from a live container by the agent's own user."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import docker
import pytest
from testinfra.host import Host

from pipeline.build import source
from tests.support import budgets
from tests.support.containers import Agents

pytest_plugins = ("tests.support.fixtures",)

ROOT = Path(__file__).resolve().parents[2]
# How each tool prints its version, and its name in the manifest.
TOOLS = {
    "node": "node --version",
    "npm": "npm --version",
    "npx": "npx --version",
    "yarn": "yarn --version",
    "pnpm": "pnpm --version",
    "git": "git --version",
    "ssh": "ssh -V",
    "tmux": "tmux -V",
    "curl": "curl --version",
    "python3": "python3 --version",
    "make": "make --version",
    "g++": "g++ -dumpfullversion",
    "tini": "tini --version",
    "task-master": "task-master --version",
    "pip": "python3 -m pip --version",
    "rg": "rg --version",
    "jq": "jq --version",
    "less": "less --version",
    "patch": "patch --version",
    "file": "file --version",
    "zip": "zip -v",
    "unzip": "unzip -v",
    "xz": "xz --version",
    "rsync": "rsync --version",
    "git-lfs": "git lfs version",
}
DEV_TOOLS = {
    "vim": "vim --version",
    "htop": "htop --version",
    "strace": "strace --version",
    "tcpdump": "tcpdump --version",
    "gdb": "gdb --version",
    "ss": "ss --version",
}
SAME_PACKAGE = {"npx": "npm"}


def printed(host: Host, command: str) -> str:
    done = host.run(command)
    assert done.rc == 0, f"{command}: {done.stderr}"
    return str(done.stdout + done.stderr)


@pytest.mark.parametrize("tool", TOOLS)
def test_tool_runs_at_the_manifests_version(host: Host, manifest: dict[str, Any], tool: str) -> None:
    assert manifest["tools"][SAME_PACKAGE.get(tool, tool)] in printed(host, TOOLS[tool])


@pytest.mark.variant("dev")
@pytest.mark.parametrize("tool", DEV_TOOLS)
def test_debugging_tool_runs_at_the_manifests_version(host: Host, manifest: dict[str, Any], tool: str) -> None:
    assert manifest["tools"][tool] in printed(host, DEV_TOOLS[tool])


@pytest.mark.parametrize("tool", [*DEV_TOOLS, "lsof", "sudo"])
def test_no_debugging_tools(host: Host, variant: str, tool: str) -> None:
    assert host.exists(tool) == (variant == "dev" and tool != "sudo")


@pytest.mark.parametrize("name", ["npm", "pnpm", "yarn"])
def test_package_manager_is_a_locked_one(manifest: dict[str, Any], name: str) -> None:
    lock = json.loads((ROOT / "docker/node-tools/package-lock.json").read_text())
    assert manifest["tools"][name] in {
        entry["version"] for entry in lock["packages"].values() if entry.get("name") == name
    }


@pytest.mark.variant("prod")
def test_npm_is_the_newest_that_runs_on_node_20(manifest: dict[str, Any]) -> None:
    assert manifest["tools"]["node"].split(".")[0] == "20", "the default build is on Node 20"
    assert manifest["tools"]["npm"].split(".")[0] == "11", "npm 12 needs Node 22"


def test_task_master_is_the_locked_one(manifest: dict[str, Any]) -> None:
    lock = json.loads((ROOT / "docker/task-master/package-lock.json").read_text())
    assert manifest["tools"]["task-master"] == lock["packages"]["node_modules/task-master-ai"]["version"]


def test_native_addon_can_be_built(host: Host) -> None:
    code = "#include <node_api.h>\\nint main(){return NAPI_VERSION > 0 ? 0 : 1;}"
    compiled = f"printf '{code}' > /tmp/a.cc && g++ -I/usr/local/include/node -o /tmp/a /tmp/a.cc && /tmp/a"
    assert host.run(compiled).rc == 0


def test_virtual_environment_needs_no_network(agents: Agents) -> None:
    make = "python3 -m venv /workspace/.venv && /workspace/.venv/bin/pip --version"
    code, out, err = agents.once("bash", "-c", make, network_mode="none", ports={}, read_only=True, user="4242:4242")
    assert (code, "/workspace/.venv/" in out) == (0, True), err


LARGE_FILES = """
set -e
cd "$(mktemp -d)"
git init -q --bare there && git init -q here && cd here
echo '*.bin filter=lfs diff=lfs merge=lfs -text' > .gitattributes
head -c 1000000 /dev/urandom > a.bin
git add . && git cat-file -s :a.bin
git lfs install --local > /dev/null
git -c user.name=a -c user.email=b commit -qm first
git push -q "file://$PWD/../there" HEAD:main > /dev/null
git clone -q --branch main "file://$PWD/../there" ../back
cmp a.bin ../back/a.bin
"""


def test_large_files_are_stored_as_pointers_and_arrive_whole(host: Host) -> None:
    """Also with the hooks that `git lfs install` leaves in a repository."""
    done = host.run("bash -c %s", LARGE_FILES)
    assert done.rc == 0, done.stderr
    assert int(done.stdout) < 200, "bytes of what was added"


def test_git_s_pager_is_less(host: Host) -> None:
    pager = printed(host, "readlink -f $(command -v $(git var GIT_PAGER))")
    assert pager.strip() == "/usr/bin/less"


# The user and its directories


def test_user(host: Host) -> None:
    assert printed(host, "id").strip() == "uid=1000(agent) gid=1000(agent) groups=1000(agent),61000(agents)"


def test_home(host: Host) -> None:
    assert printed(host, "getent passwd agent").strip().split(":")[5:] == ["/agent/home", "/bin/bash"]


@pytest.mark.parametrize(
    ("place", "owner", "group"),
    [("/workspace", 1000, 1000), ("/agent", 1000, 1000), ("/agent/home", 1000, 1000), ("/shared", 0, 61000)],
)
def test_place_belongs_to_the_agent_and_can_be_written(host: Host, place: str, owner: int, group: int) -> None:
    found = host.file(place)
    assert (found.is_directory, found.uid, found.gid) == (True, owner, group)
    assert host.run(f"touch {place}/.probe && rm {place}/.probe").rc == 0


def test_working_directory(host: Host) -> None:
    assert printed(host, "pwd").strip() == "/workspace"


def test_locale_is_utf8(host: Host) -> None:
    assert printed(host, "python3 -c 'import locale; print(locale.getpreferredencoding())'").strip() == "UTF-8"


def test_git_trusts_exactly_the_workspace(host: Host) -> None:
    assert printed(host, "git config --system --get-all safe.directory").split() == ["/workspace"]


# Facts about the image


def test_labels_agree_with_the_manifest(client: docker.DockerClient, image: str, manifest: dict[str, Any]) -> None:
    labels = client.images.get(image).labels
    told = {
        "io.magents.variant": manifest["variant"],
        "io.magents.protocol": manifest["protocol"],
        "io.magents.node": manifest["tools"]["node"],
        "io.magents.task-master": manifest["tools"]["task-master"],
        "org.opencontainers.image.version": manifest["version"],
        "org.opencontainers.image.revision": manifest["revision"],
        "org.opencontainers.image.created": manifest["created"],
        "org.opencontainers.image.base.name": manifest["base"],
    }
    assert {name: labels.get(name) for name in told} == told


def test_variant(manifest: dict[str, Any], variant: str) -> None:
    assert manifest["variant"] == variant


def test_image_is_of_this_source(manifest: dict[str, Any]) -> None:
    present = source.describe().revision.removesuffix("-dirty")
    assert manifest["revision"].removesuffix("-dirty") == present, "the image is of another commit; build it again"


def test_manifest_lists_the_packages_that_are_there(host: Host, manifest: dict[str, Any]) -> None:
    lines = printed(host, "dpkg-query --show --showformat='${Package} ${Version}\\n'").splitlines()
    assert manifest["packages"]["debian"] == dict(line.split(" ", 1) for line in lines)


def test_volumes_port_and_init(client: docker.DockerClient, image: str) -> None:
    config = client.images.get(image).attrs["Config"]
    assert sorted(config["Volumes"]) == ["/agent", "/shared", "/workspace"]
    assert "3999/tcp" in config["ExposedPorts"]
    assert config["Entrypoint"] == [
        "/usr/bin/env",
        "--block-signal=TERM,INT,HUP,QUIT,USR1",
        "/usr/bin/tini",
        "--",
        "/usr/local/bin/agent-entrypoint",
    ]


# What must not be in the image


def test_no_file_gains_rights_by_its_mode(host: Host) -> None:
    assert printed(host, "find / -xdev -type f -perm /6000 2>/dev/null || true").strip() == ""


def test_only_tcpdump_has_a_capability(host: Host, variant: str, image: str, client: docker.DockerClient) -> None:
    listing = (
        "import os\n"
        "for d, _, fs in os.walk('/'):\n"
        "  if d.startswith(('/proc', '/sys')): continue\n"
        "  for f in fs:\n"
        "    p = os.path.join(d, f)\n"
        "    if not os.path.islink(p) and 'security.capability' in os.listxattr(p): print(p)\n"
    )
    found = client.containers.run(image, ["python3", "-c", listing], user="0:0", remove=True).decode().split()
    assert [Path(path).name for path in found] == (["tcpdump"] if variant == "dev" else [])
    assert host.exists("tcpdump") == (variant == "dev")


@pytest.mark.parametrize(
    "folder",
    ["/var/lib/apt/lists", "/var/cache/apt", "/root/.npm", "/root/.cache", "/agent/home/.npm", "/run/secrets", "/tmp"],
)
def test_nothing_is_left_of_the_build(client: docker.DockerClient, image: str, folder: str) -> None:
    command = f"! test -e {folder} || find {folder} -type f -size +0"
    found = client.containers.run(image, ["-c", command], entrypoint=["sh"], user="0:0", remove=True)
    assert found.decode().split() == []


def test_certificates_are_debians_alone(host: Host) -> None:
    bundle = printed(host, "grep -c 'BEGIN CERTIFICATE' /etc/ssl/certs/ca-certificates.crt")
    shipped = printed(host, "cat /usr/share/ca-certificates/mozilla/*.crt | grep -c 'BEGIN CERTIFICATE'")
    assert bundle == shipped


def test_history_and_environment_tell_no_secret(client: docker.DockerClient, image: str) -> None:
    found = client.images.get(image)
    told = json.dumps(found.attrs["Config"]["Env"]) + json.dumps(found.history())
    assert not re.search(r"(?i)token=|password|api_key|sk-ant-|BEGIN CERTIFICATE", told)


# Size


def test_size(client: docker.DockerClient, image: str, variant: str) -> None:
    assert client.images.get(image).attrs["Size"] <= budgets.UNCOMPRESSED[variant]


def test_task_masters_size(host: Host) -> None:
    assert int(printed(host, "du -sb /usr/local/lib/task-master").split()[0]) <= budgets.TASK_MASTER

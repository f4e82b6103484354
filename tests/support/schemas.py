"""The JSON Schemas of docs/schemas, and how much of one some documents show."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from pipeline.files import ROOT

FOLDER = ROOT / "docs" / "schemas"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


@cache
def schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


@cache
def validator(name: str) -> Draft202012Validator:
    resources = [Resource.from_contents(schema(each)) for each in NAMES]
    registry: Registry[Any] = Registry().with_resources([(str(each.id()), each) for each in resources])
    return Draft202012Validator(schema(name), registry=registry)


def check(name: str, document: object) -> None:
    """Fail where a document differs from its schema."""
    validator(name).validate(document)


def parts(name: str) -> dict[str, dict[str, Any]]:
    """Return all parts of a schema that describe a value, by their place in its file."""
    return dict(_parts(schema(name), "#"))


def _parts(part: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(part, dict):
        if "type" in part or "const" in part or "enum" in part:
            yield place, part
        for key, value in part.items():
            yield from _parts(value, f"{place}/{key}")
    elif isinstance(part, list):
        for number, value in enumerate(part):
            yield from _parts(value, f"{place}/{number}")


def unseen(name: str, documents: Iterable[object]) -> set[str]:
    """Return the places of a schema that none of the documents shows: values, also each one of a choice."""
    seen: set[str] = set()
    root = schema(name)
    for document in documents:
        check(name, document)
        _mark(root, document, "#", seen, name)
    return {place for place in parts(name) if place not in seen}


def _mark(part: dict[str, Any], value: Any, place: str, seen: set[str], name: str) -> None:
    if reference := part.get("$ref"):
        if reference.startswith("#"):
            target = schema(name)
            for key in reference.split("/")[1:]:
                target = target[key]
            _mark(target, value, reference, seen, name)
        return  # ignored where it leads to another file, whose own documents show it
    for number, choice in enumerate(part.get("oneOf", ())):
        if validator(name).evolve(schema=choice).is_valid(value):
            _mark(choice, value, f"{place}/oneOf/{number}", seen, name)
    seen.add(place)
    if isinstance(value, dict):
        for key, inner in value.items():
            known = part.get("properties", {})
            where = f"{place}/properties/{key}" if key in known else f"{place}/additionalProperties"
            _mark(known.get(key, part.get("additionalProperties", {})), inner, where, seen, name)
    elif isinstance(value, list):
        for inner in value:
            _mark(part["items"], inner, f"{place}/items", seen, name)

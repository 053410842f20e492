"""The shipped CRD's schema, checked with jsonschema against the shared table of specs.

The API server itself judges the same table in tests/cluster; this is the quick check that runs everywhere.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

from postgres_writer.core.request import MAX_TABLES
from support.spec_cases import SPEC_CASES, SYSTEM_TABLE_PATTERN, TABLE_PATTERN, SpecCase

if TYPE_CHECKING:
    from collections.abc import Iterator

CRD = Path(__file__).parents[2] / "crds" / "postgreswriters.yaml"
VERSION: dict[str, Any] = yaml.safe_load(CRD.read_text())["spec"]["versions"][0]
SCHEMA: dict[str, Any] = VERSION["schema"]["openAPIV3Schema"]
REFUSES = re.compile(r"!self\.matches\('(.*)'\)")


def cel(_: object, rules: list[dict[str, Any]], value: object, __: object) -> Iterator[ValidationError]:
    """Judge a new object by the CEL rules of the CRD; a rule of a form not known here is an error of the test."""
    for rule in rules:
        text = rule["rule"]
        refused = REFUSES.fullmatch(text)
        if refused is not None:
            broken = isinstance(value, str) and re.search(refused[1], value) is not None
        elif text.startswith("has(self.spec) || (oldSelf.hasValue()"):
            broken = isinstance(value, dict) and "spec" not in value
        else:
            assert "oldSelf" in text, text  # a transition rule does not apply to a new object
            assert not rule.get("optionalOldSelf", False), text
            broken = False
        if broken:
            yield ValidationError(rule["message"], path=rule.get("fieldPath", "").split(".")[1:])


def in_python(schema: Any) -> Any:
    """Return the schema with patterns that end where the text ends: Python's $ also matches before a line break."""
    if isinstance(schema, list):
        return [in_python(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: re.sub(r"\$$", r"\\Z", value) if key == "pattern" and isinstance(value, str) else in_python(value)
        for key, value in schema.items()
    }


_CHECKER: Any = extend(Draft202012Validator, {"x-kubernetes-validations": cel})  # type: ignore[no-untyped-call]
VALIDATOR = _CHECKER(in_python(SCHEMA))


def fields_at_fault(manifest: dict[str, Any]) -> set[str]:
    """Return the fields of the spec that the schema refuses, "spec" for the whole of it."""
    found = set()
    for error in VALIDATOR.iter_errors(manifest):
        path = [str(part) for part in error.absolute_path]
        if error.validator == "required":
            path += re.findall(r"^'(\w+)' is a required property$", error.message)
        assert path[0] == "spec", error
        found.add(path[1] if len(path) > 1 else "spec")
    return found


@pytest.mark.parametrize("case", SPEC_CASES, ids=lambda case: case.id)
def test_schema_judges_as_the_table_says(case: SpecCase) -> None:
    found = fields_at_fault(case.manifest())
    if case.spec == {}:
        assert found == {"table", "name", "age", "country"}
    else:
        assert found == ({case.field} if case.field else set())


def test_the_table_has_unique_sentences() -> None:
    assert len({case.id for case in SPEC_CASES}) == len(SPEC_CASES)


def test_patterns_are_those_of_the_table() -> None:
    table = SCHEMA["properties"]["spec"]["properties"]["table"]
    assert table["pattern"] == TABLE_PATTERN
    assert table["x-kubernetes-validations"][0]["rule"] == f"!self.matches('{SYSTEM_TABLE_PATTERN}')"


def test_status_lists_as_many_tables_as_the_hook_does() -> None:
    assert SCHEMA["properties"]["status"]["properties"]["tables"]["maxItems"] == MAX_TABLES


def test_every_field_is_described_in_sentences() -> None:
    missing: list[str] = []

    def walk(schema: dict[str, Any], path: str) -> None:
        if (
            not schema.get("description", "").strip().endswith(".") and path != ".metadata"
        ):  # the API server has its own words for metadata
            missing.append(path)
        for name, part in schema.get("properties", {}).items():
            walk(part, f"{path}.{name}")
        if schema.get("items", {}).get("type") == "object":
            walk(schema["items"], f"{path}[]")

    walk(SCHEMA, "")
    assert missing == []

"""The shipped CRDs say what the shared specs and the hook say; the API server judges specs in tests/cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from postgres_writer.config.variables import _DATABASE, DEFAULT_DATABASE
from postgres_writer.core.request import MAX_LISTED_COLUMNS, MAX_TABLES
from postgres_writer.core.row import ID_COLUMN, KINDS, MAX_COLUMNS, POSTGRES_ROW, POSTGRES_WRITER, Kind, is_column
from support.spec_cases import SPEC_CASES, SYSTEM_TABLE_PATTERN, TABLE_PATTERN

COLUMN_PATTERN = "^[A-Za-z_][A-Za-z0-9_$]{0,62}$"


def definition(kind: Kind) -> dict[str, Any]:
    """Return the spec of the CRD of a kind."""
    file = Path(__file__).parents[2] / "crds" / f"{kind.plural}.yaml"
    found: dict[str, Any] = yaml.safe_load(file.read_text())["spec"]
    return found


def schema(kind: Kind) -> dict[str, Any]:
    """Return the schema of a kind's one version."""
    (version,) = definition(kind)["versions"]
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return found


every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
ROW = schema(POSTGRES_ROW)["properties"]
COLUMNS = ROW["spec"]["properties"]["columns"]


def test_the_table_has_unique_sentences() -> None:
    assert len({case.id for case in SPEC_CASES}) == len(SPEC_CASES)


@every_kind
def test_names_fields_and_versions_are_those_of_the_hook(kind: Kind) -> None:
    found = definition(kind)
    assert (found["names"]["kind"], found["names"]["plural"]) == (kind.name, kind.plural)
    assert [version["name"] for version in found["versions"]] == [kind.version]
    assert schema(kind)["properties"]["spec"]["properties"].keys() == kind.fields.keys()
    assert ("columns" in schema(kind)["properties"]["status"]["properties"]) is (kind.fixed is None)


@every_kind
def test_patterns_are_those_of_the_table(kind: Kind) -> None:
    table = schema(kind)["properties"]["spec"]["properties"]["table"]
    rules = [rule["rule"] for rule in table["x-kubernetes-validations"]]
    pattern = TABLE_PATTERN.replace(r"\.", "[.]")
    assert rules == [f"self.matches('{pattern}')", f"!self.matches('{SYSTEM_TABLE_PATTERN}')"]
    assert "pattern" not in table, "the API server would add the bare expression to the sentence"


@every_kind
def test_databases_are_named_as_the_hook_does(kind: Kind) -> None:
    (rule,) = schema(kind)["properties"]["spec"]["properties"]["database"]["x-kubernetes-validations"]
    assert rule["rule"] == f"self.matches('^{_DATABASE.pattern}$') && self != '{DEFAULT_DATABASE}'"


def test_columns_are_named_and_counted_as_the_hook_does() -> None:
    id_column, name = ROW["spec"]["properties"]["idColumn"], COLUMNS["items"]["properties"]["name"]
    assert id_column["x-kubernetes-validations"][0]["rule"] == f"self.matches('{COLUMN_PATTERN}')"
    assert f"c.name.matches('{COLUMN_PATTERN}')" in ROW["spec"]["x-kubernetes-validations"][0]["rule"]
    for column in (id_column, name):
        assert "pattern" not in column, "the API server would add the bare expression to the sentence"
    assert is_column("c" * name["maxLength"])
    assert not is_column("c" * (name["maxLength"] + 1))
    assert id_column["default"] == ID_COLUMN
    assert (COLUMNS["maxItems"], ROW["status"]["properties"]["columns"]["maxItems"]) == (
        MAX_COLUMNS,
        MAX_LISTED_COLUMNS,
    )


@every_kind
def test_status_lists_as_many_tables_as_the_hook_does(kind: Kind) -> None:
    assert schema(kind)["properties"]["status"]["properties"]["tables"]["maxItems"] == MAX_TABLES


def test_what_both_kinds_have_is_the_same() -> None:
    writer, row = (schema(kind)["properties"]["status"]["properties"] for kind in (POSTGRES_WRITER, POSTGRES_ROW))
    assert {**writer, "id": row["id"], "columns": row["columns"]} == row
    policies = [schema(kind)["properties"]["spec"]["properties"]["deletionPolicy"] for kind in KINDS.values()]
    assert policies[0] == policies[1]


@every_kind
def test_every_field_is_described_in_sentences(kind: Kind) -> None:
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

    walk(schema(kind), "")
    assert missing == []

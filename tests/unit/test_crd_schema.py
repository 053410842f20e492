"""The shipped CRD says what the shared table of specs says; the API server judges the specs in tests/cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from postgres_writer.core.request import MAX_TABLES
from support.spec_cases import SPEC_CASES, SYSTEM_TABLE_PATTERN, TABLE_PATTERN

CRD = Path(__file__).parents[2] / "crds" / "postgreswriters.yaml"
VERSION: dict[str, Any] = yaml.safe_load(CRD.read_text())["spec"]["versions"][0]
SCHEMA: dict[str, Any] = VERSION["schema"]["openAPIV3Schema"]


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

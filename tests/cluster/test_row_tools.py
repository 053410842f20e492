"""What kustomize, patches and the limits of an object's size make of a PostgresRow, as docs/gitops.md says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from postgres_writer.core.row import POSTGRES_ROW
from support.custom_resource import Resource
from support.documents import ROOT, code_blocks

if TYPE_CHECKING:
    from pathlib import Path

    from support.apiserver import ApiServer

BIG = 2**53 + 1
TENANT = f"""
apiVersion: demo.yash.com/v1alpha1
kind: PostgresRow
metadata: {{name: acme}}
spec:
  table: tenants
  columns:
  - {{name: plan, value: gold}}
  - {{name: seats, value: 5}}
  - {{name: answer, value: no}}
  - {{name: letter, value: y}}
  - {{name: day, value: 2026-01-31}}
  - {{name: quoted, value: "2026-01-31"}}
  - {{name: big, value: {BIG}}}
  - {{name: zeros, value: 0123}}
  - {{name: limits, value: {{a: null, b: 1}}}}
  - {{name: nothing, value: null}}
"""
BUILT = {
    "plan": "gold",
    "seats": 5,
    "answer": "no",
    "letter": "y",
    "day": "2026-01-31T00:00:00Z",
    "quoted": "2026-01-31",
    "big": BIG,
    "zeros": 83,
    "limits": {"a": None, "b": 1},
    "nothing": None,
}
MERGE_PATCH = """
resources: [tenant.yaml]
patches:
- patch: |
    apiVersion: demo.yash.com/v1alpha1
    kind: PostgresRow
    metadata: {name: acme}
    spec:
      columns:
      - {name: seats, value: 6}
"""
JSON_PATCH, REPLACEMENT = code_blocks(ROOT / "docs" / "gitops.md", "Values and patches of a PostgresRow", "yaml")
# what `kubectl get --raw /openapi/v2` would give with the strategy that a custom resource cannot name
SCHEMA = {
    "definitions": {
        "com.yash.demo.v1alpha1.PostgresRow": {
            "type": "object",
            "x-kubernetes-group-version-kind": [
                {"group": "demo.yash.com", "version": "v1alpha1", "kind": "PostgresRow"}
            ],
            "properties": {
                "spec": {
                    "type": "object",
                    "properties": {
                        "columns": {
                            "type": "array",
                            "items": {"type": "object", "properties": {"name": {"type": "string"}}},
                            "x-kubernetes-patch-merge-key": "name",
                            "x-kubernetes-patch-strategy": "merge",
                        }
                    },
                }
            },
        }
    }
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "no patch": ("resources: [tenant.yaml]", BUILT),
    "a strategic merge patch replaces the list": (MERGE_PATCH, {"seats": 6}),
    "with a schema it changes one column": (MERGE_PATCH + "openapi: {path: schema.json}", BUILT | {"seats": 6}),
    "a JSON patch changes one column and rounds": (JSON_PATCH, BUILT | {"seats": 6, "big": BIG - 1}),
    "a replacement changes one column": (REPLACEMENT, BUILT | {"seats": 6}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_kustomize_makes_of_a_row(cluster: ApiServer, namespace: str, tmp_path: Path, case: str) -> None:
    kustomization, values = CASES[case]
    (tmp_path / "tenant.yaml").write_text(TENANT)
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "kustomization.yaml").write_text(kustomization)
    cluster.kubectl("--namespace", namespace, "apply", "--server-side", "--validate=strict", "-k", str(tmp_path))
    columns = Resource(cluster, namespace, "acme", POSTGRES_ROW).get()["spec"]["columns"]
    assert {column["name"]: column["value"] for column in columns} == values


def test_a_json_patch_at_a_changed_position_is_an_error(cluster: ApiServer, tmp_path: Path) -> None:
    (tmp_path / "tenant.yaml").write_text(TENANT.replace("  - {name: plan, value: gold}\n", ""))
    (tmp_path / "kustomization.yaml").write_text(JSON_PATCH)
    done = cluster.kubectl("kustomize", str(tmp_path), check=False)
    assert done.returncode != 0
    assert "testing value /spec/columns/1/name failed" in done.stderr


EXACT = {"a": None, "b": [None, BIG, 2**63 - 1], "c": 0.1}
WITHOUT_A = {field: value for field, value in EXACT.items() if field != "a"}
PATCHES: dict[str, tuple[object, object]] = {
    "merge": ({"spec": {"columns": [{"name": "limits", "value": EXACT}]}}, WITHOUT_A),
    "json": ([{"op": "replace", "path": "/spec/columns/0/value", "value": EXACT}], EXACT),
}


@pytest.mark.parametrize("patch", PATCHES)
def test_a_merge_patch_drops_nulls_of_objects_and_a_json_patch_nothing(
    cluster: ApiServer, namespace: str, patch: str
) -> None:
    row = Resource(cluster, namespace, "acme", POSTGRES_ROW)
    row.create({"table": "tenants", "columns": [{"name": "limits", "value": 1}]})
    change, stored = PATCHES[patch]
    row.kubectl("patch", row.resource, row.name, f"--type={patch}", f"--patch={json.dumps(change)}")
    assert row.get()["spec"]["columns"] == [{"name": "limits", "value": stored}]


SIZES = {
    "a client-side apply of 300 KiB": (300, ("apply",), "Too long: may not be more than 262144 bytes"),
    "a server-side apply of 1000 KiB": (1000, ("apply", "--server-side"), None),
    "a create of 1400 KiB": (1400, ("create",), None),
    "a create of 3200 KiB": (3200, ("create",), "Request entity too large"),
}


@pytest.mark.parametrize("case", SIZES)
def test_how_large_a_row_may_be(cluster: ApiServer, namespace: str, tmp_path: Path, case: str) -> None:
    kibibytes, command, complaint = SIZES[case]
    row = Resource(cluster, namespace, "large", POSTGRES_ROW)
    columns = [{"name": "note", "value": "x" * 1024 * kibibytes}]
    (tmp_path / "row.json").write_text(json.dumps(row.manifest({"table": "tenants", "columns": columns})))
    done = row.kubectl(*command, f"--filename={tmp_path / 'row.json'}", check=False)
    assert (done.returncode == 0) is (complaint is None), done.stderr
    assert (complaint or "") in done.stderr

"""Hook requests as templates: wherever NUMBER stands the load generator puts the number of the object."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from postgres_writer.core.row import DEFAULT_SCHEMA, GROUP, POSTGRES_ROW, POSTGRES_WRITER, Kind

NUMBER = "@N@"
DATABASE = "@D@"
"""Where the load generator puts the number of the object's database."""
NAMESPACE = "bench"
_SINCE = "2026-01-01T00:00:00Z"
_FINALIZER = "metacontroller.io/compositecontroller-postgres-writer"


@dataclass(frozen=True)
class Shape:
    """What the objects declare: their kind, and the table and the values of their rows."""

    kind: Kind
    table: str
    values: dict[str, Any]

    @property
    def relation(self) -> str:
        """The table with its schema."""
        return f"{DEFAULT_SCHEMA}.{self.table}"

    @property
    def spec(self) -> dict[str, Any]:
        """The spec of an object."""
        if self.kind.fixed is not None:
            return {"table": self.table, **self.values}
        columns = [{"name": name, "value": value} for name, value in self.values.items()]
        return {"table": self.table, "idColumn": "id", "columns": columns, "deletionPolicy": "Delete"}

    def row_id(self, prefix: str) -> str:
        """Give the primary key of the rows of objects called prefix-NUMBER."""
        return f"{self.kind.prefix}{NAMESPACE}/{prefix}-{NUMBER}"


_STUDENT = {"name": f"alex {NUMBER}", "age": 23, "country": "canada"}
WRITER = Shape(POSTGRES_WRITER, "students", _STUDENT)
ROW = Shape(POSTGRES_ROW, "students", _STUDENT)
"""The same row, declared column by column: only the kind makes the difference."""
WIDE = Shape(POSTGRES_ROW, "wide", {f"column_{n}": n if n % 3 else f"value {NUMBER}" for n in range(30)})
SHAPES = (WRITER, ROW, WIDE)


def sync(prefix: str, *, synced: bool, shape: Shape = WRITER) -> str:
    """Give the body of a sync; ``synced``: with the status of a resource whose row stands."""
    return _body(_resource(prefix, shape, synced=synced))


def of_databases(template: str) -> str:
    """Give a body whose object names one of several databases."""
    body = json.loads(template)
    body["parent"]["spec"]["database"] = f"bench-{DATABASE}"
    return json.dumps(body, separators=(",", ":"))


def foreign(prefix: str, fields: int = 1000) -> str:
    """Give the body of a sync of a synced object that others have filled with annotations and managed fields."""
    resource = _resource(prefix, WRITER, synced=True)
    half = range(fields // 2)
    resource["metadata"]["annotations"] = {f"example.com/annotation-{n}": f"what somebody noted, {n}" for n in half}
    names: dict[str, Any] = {f"f:example.com/annotation-{n}": {} for n in half}
    resource["metadata"]["managedFields"][0]["fieldsV1"]["f:metadata"] = {"f:annotations": names}
    return _body(resource)


def finalize(prefix: str) -> str:
    """Give the body of a finalize of an object that is being deleted."""
    resource = _resource(prefix, WRITER, synced=True)
    resource["metadata"] |= {"deletionTimestamp": _SINCE, "deletionGracePeriodSeconds": 0, "generation": 2}
    return _body(resource, finalizing=True)


def status(prefix: str, shape: Shape) -> dict[str, Any]:
    """Give the status of a synced object, as the hook answers it."""
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "RowSynced",
        "message": f"The row in table {shape.relation} matches the spec.",
        "observedGeneration": 1,
        "lastTransitionTime": _SINCE,
    }
    known = {
        "observedGeneration": 1,
        "id": shape.row_id(prefix),
        "observedTable": shape.table,
        "tables": [shape.relation],
    }
    listed = {"columns": sorted(shape.values)} if shape.kind.fixed is None else {}
    return {**known, **listed, "conditions": [ready]}


def _resource(prefix: str, shape: Shape, *, synced: bool) -> dict[str, Any]:
    resource: dict[str, Any] = {
        "apiVersion": f"{GROUP}/{shape.kind.version}",
        "kind": shape.kind.name,
        "metadata": {
            "name": f"{prefix}-{NUMBER}",
            "namespace": NAMESPACE,
            "uid": f"5d0c3e1a-77aa-4f0e-9b6e-{NUMBER}",
            "resourceVersion": "184467",
            "generation": 1,
            "creationTimestamp": _SINCE,
            "finalizers": [_FINALIZER],
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": json.dumps({"spec": shape.spec})},
            "managedFields": [_managed(by, shape) for by in ("kubectl-client-side-apply", "metacontroller")],
        },
        "spec": shape.spec,
    }
    return {**resource, "status": status(prefix, shape)} if synced else resource


def _managed(manager: str, shape: Shape) -> dict[str, Any]:
    owned: dict[str, Any] = {f"f:{field}": {} for field in shape.spec}
    if "f:columns" in owned:
        owned["f:columns"] = {".": {}, **{f'k:{{"name":"{name}"}}': {} for name in shape.values}}
    fields = {"f:spec": {".": {}, **owned}, "f:metadata": {"f:finalizers": {".": {}}}}
    return {
        "manager": manager,
        "operation": "Update",
        "apiVersion": f"{GROUP}/{shape.kind.version}",
        "time": _SINCE,
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    }


def _body(resource: dict[str, Any], *, finalizing: bool = False) -> str:
    webhook = {"service": {"name": "postgres-writer", "namespace": "postgres-writer", "port": 8080}, "timeout": "10s"}
    controller = {
        "apiVersion": "metacontroller.k8s.io/v1alpha1",
        "kind": "CompositeController",
        "metadata": {"name": "postgres-writer", "uid": "0b3ab5b1-40f5-4bb1-8f0e-000000000000", "generation": 1},
        "spec": {
            "generateSelector": True,
            "parentResource": {
                "apiVersion": "demo.yash.com/v1",
                "resource": "postgreswriters",
                "ignoreStatusChanges": True,
            },
            "hooks": {
                hook: {"version": "v2", "webhook": {**webhook, "path": f"/{hook}"}} for hook in ("sync", "finalize")
            },
        },
    }
    request = {"controller": controller, "parent": resource, "children": {}, "related": {}, "finalizing": finalizing}
    return json.dumps(request, separators=(",", ":"))

"""Hook requests as templates: wherever NUMBER stands the load generator puts the number of the object."""

from __future__ import annotations

import json
from typing import Any

NUMBER = "@N@"
NAMESPACE = "bench"
TABLE = "students"
RELATION = f"public.{TABLE}"
SPEC = {"table": TABLE, "name": f"alex {NUMBER}", "age": 23, "country": "canada"}

_SINCE = "2026-01-01T00:00:00Z"
_FINALIZER = "metacontroller.io/compositecontroller-postgres-writer"


def row_id(prefix: str) -> str:
    """Give the primary key of the rows of objects called prefix-NUMBER."""
    return f"{NAMESPACE}/{prefix}-{NUMBER}"


def sync(prefix: str, *, synced: bool) -> str:
    """Give the body of a sync; ``synced``: with the status of a resource whose row stands."""
    return _body(_resource(prefix, synced=synced))


def foreign(prefix: str, fields: int = 1000) -> str:
    """Give the body of a sync of a synced object that others have filled with annotations and managed fields."""
    resource = _resource(prefix, synced=True)
    half = range(fields // 2)
    resource["metadata"]["annotations"] = {f"example.com/annotation-{n}": f"what somebody noted, {n}" for n in half}
    names: dict[str, Any] = {f"f:example.com/annotation-{n}": {} for n in half}
    resource["metadata"]["managedFields"][0]["fieldsV1"]["f:metadata"] = {"f:annotations": names}
    return _body(resource)


def finalize(prefix: str) -> str:
    """Give the body of a finalize of an object that is being deleted."""
    resource = _resource(prefix, synced=True)
    resource["metadata"] |= {"deletionTimestamp": _SINCE, "deletionGracePeriodSeconds": 0, "generation": 2}
    return _body(resource, finalizing=True)


def status(prefix: str) -> dict[str, Any]:
    """Give the status of a synced object, as the hook answers it."""
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "RowSynced",
        "message": f"The row in table {RELATION} matches the spec.",
        "observedGeneration": 1,
        "lastTransitionTime": _SINCE,
    }
    known = {"observedGeneration": 1, "id": row_id(prefix), "observedTable": TABLE, "tables": [RELATION]}
    return {**known, "conditions": [ready]}


def _resource(prefix: str, *, synced: bool) -> dict[str, Any]:
    resource: dict[str, Any] = {
        "apiVersion": "demo.yash.com/v1",
        "kind": "PostgresWriter",
        "metadata": {
            "name": f"{prefix}-{NUMBER}",
            "namespace": NAMESPACE,
            "uid": f"5d0c3e1a-77aa-4f0e-9b6e-{NUMBER}",
            "resourceVersion": "184467",
            "generation": 1,
            "creationTimestamp": _SINCE,
            "finalizers": [_FINALIZER],
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": json.dumps({"spec": SPEC})},
            "managedFields": [_managed("kubectl-client-side-apply"), _managed("metacontroller")],
        },
        "spec": SPEC,
    }
    return {**resource, "status": status(prefix)} if synced else resource


def _managed(manager: str) -> dict[str, Any]:
    fields = {"f:spec": {".": {}, **{f"f:{field}": {} for field in SPEC}}, "f:metadata": {"f:finalizers": {".": {}}}}
    return {
        "manager": manager,
        "operation": "Update",
        "apiVersion": "demo.yash.com/v1",
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

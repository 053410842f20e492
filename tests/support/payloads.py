"""Hook requests as Metacontroller sends them, for tests."""

from __future__ import annotations

from typing import Any, Final

from postgres_writer.core.row import GROUP, POSTGRES_WRITER, Kind
from support.spec_cases import ABSENT, spec_with

CONTROLLER_NAME: Final = "postgres-writer"
NOW: Final = 1_700_000_000.0
THEN: Final = "2023-01-01T00:00:00Z"
DELETED: Final[dict[str, Any]] = {"deletionTimestamp": "2023-11-14T22:13:20Z"}
UID: Final = "7c9f3c6e-2a51-4f34-9a4e-0d3b8f5c1a10"


def finalizer(controller: str = "composite") -> str:
    """Return the finalizer that Metacontroller sets for the controller."""
    return f"metacontroller.io/{controller}controller-{CONTROLLER_NAME}"


def resource(
    spec: Any = None,
    status: Any = ABSENT,
    *,
    controller: str = "composite",
    kind: Kind = POSTGRES_WRITER,
    **metadata: Any,
) -> dict[str, Any]:
    """Return a resource; ``metadata`` replaces fields, or leaves them out where the value is ABSENT."""
    known = {
        "namespace": "default",
        "name": "sample",
        "uid": UID,
        "generation": 1,
        "finalizers": [finalizer(controller)],
        **metadata,
    }
    found = {
        "apiVersion": f"{GROUP}/{kind.version}",
        "kind": kind.name,
        "metadata": {field: value for field, value in known.items() if value is not ABSENT},
        "spec": spec_with() if spec is None else spec,
        "status": status,
    }
    return {field: value for field, value in found.items() if value is not ABSENT}


def payload(
    found: Any, controller: str = "composite", *, finalizing: bool = False, version: str = "v2"
) -> dict[str, Any]:
    """Return the whole body of a hook request for the resource."""
    kind = "CompositeController" if controller == "composite" else "DecoratorController"
    # v1 names every kind of child, v2 only those that there are
    groups: dict[str, Any] = {"ConfigMap.v1": {}} if version == "v1" else {}
    return {
        "controller": {
            "apiVersion": "metacontroller.k8s.io/v1alpha1",
            "kind": kind,
            "metadata": {"name": CONTROLLER_NAME},
        },
        ("parent" if controller == "composite" else "object"): found,
        ("children" if controller == "composite" else "attachments"): groups,
        "related": {},
        "finalizing": finalizing,
    }


def condition(status: str = "True", reason: str = "RowSynced", **changes: Any) -> dict[str, Any]:
    """Return a condition Ready as the API server hands it back."""
    return {
        "type": "Ready",
        "status": status,
        "reason": reason,
        "message": "The row in table public.students matches the spec.",
        "observedGeneration": 1,
        "lastTransitionTime": THEN,
        **changes,
    }


def recorded(*tables: str, observed: str | None = None, ready: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a status that lists the tables and has observed the last of them (or ``observed``)."""
    status: dict[str, Any] = {"observedGeneration": 1, "id": "default/sample", "tables": list(tables)}
    found = observed if observed is not None else (tables[-1] if tables else None)
    if found is not None:
        status["observedTable"] = found
    return {**status, "conditions": [ready or condition()]}

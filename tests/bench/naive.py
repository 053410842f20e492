"""A hook as one would write it in an afternoon, to compare with: no deadlines, no moves, no honesty about failures."""

from __future__ import annotations

import os
import threading
from typing import Any

import psycopg2
from flask import Flask, request

app = Flask(__name__)
_local = threading.local()


def _execute(statement: str, *parameters: Any) -> None:
    if not hasattr(_local, "connection"):
        _local.connection = psycopg2.connect(os.environ["NAIVE_DSN"])
        _local.connection.autocommit = True
    with _local.connection.cursor() as cursor:
        cursor.execute(statement, parameters)


def _parts() -> tuple[dict[str, Any], str, str]:
    body = request.get_json()
    parent = body.get("parent") or body["object"]
    metadata = parent["metadata"]
    return parent, f"{metadata['namespace']}/{metadata['name']}", "children" if "parent" in body else "attachments"


def _values(spec: dict[str, Any]) -> dict[str, Any]:
    if "columns" in spec:
        return {column["name"]: column.get("value") for column in spec["columns"]}
    return {name: spec[name] for name in ("name", "age", "country")}


@app.post("/sync")
def sync() -> dict[str, Any]:
    """Write the row."""
    parent, row, children = _parts()
    values, generation = _values(parent["spec"]), parent["metadata"]["generation"]
    marks, updates = ", %s" * len(values), ", ".join(f"{name} = EXCLUDED.{name}" for name in values)
    statement = f"INSERT INTO students (id, {', '.join(values)}) VALUES (%s{marks}) ON CONFLICT (id) DO UPDATE SET "
    _execute(statement + updates, row, *values.values())
    ready = {"type": "Ready", "status": "True", "reason": "RowSynced", "message": "", "observedGeneration": generation}
    ready["lastTransitionTime"] = "2026-01-01T00:00:00Z"
    return {"status": {"observedGeneration": generation, "conditions": [ready]}, children: []}


@app.post("/finalize")
def finalize() -> dict[str, Any]:
    """Delete the row."""
    parent, row, children = _parts()
    _execute("DELETE FROM students WHERE id = %s", row)
    return {"status": parent.get("status"), children: [], "finalized": True}

"""`postgres-writer audit` as a process on a list of resources, for tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.payloads import recorded, resource
from support.postgres import scrubbed_environment
from support.spec_cases import spec_with

if TYPE_CHECKING:
    from support.postgres import Database

PROGRAM = Path(sys.executable).with_name("postgres-writer")
INSERT = "INSERT INTO {} VALUES (%s, 'alex', 23, 'canada')"


def made(name: str, table: str = "students", namespace: str = "default", **changes: Any) -> dict[str, Any]:
    """Return a resource that was synced to the table."""
    fields = {"status": recorded(table), "spec": spec_with(table=table), **changes}
    return resource(fields.pop("spec"), fields.pop("status"), namespace=namespace, name=name, **fields)


def row(database: Database, *ids: str, table: str = "students") -> None:
    """Insert rows as the resource's spec wants them."""
    for about in ids:
        database.query(INSERT.format(table), about)


def audit(
    database: Database, *arguments: str, resources: list[dict[str, Any]] | None = None, text: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command on a list given on standard input."""
    if resources is not None:
        text = json.dumps({"apiVersion": "v1", "items": resources, "kind": "List", "metadata": {}}, indent=4)
    return subprocess.run(
        [str(PROGRAM), "audit", *arguments, *(["-"] if text is not None else [])],
        input=text,
        env={**scrubbed_environment(os.environ), **database.environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def findings(done: subprocess.CompletedProcess[str]) -> list[tuple[str, str, str]]:
    """Return (finding, id, table) of a run with -o json."""
    assert done.returncode in (0, 1), done.stderr
    found = json.loads(done.stdout)["findings"]
    assert done.returncode == int(bool(found))
    return [(one["finding"], one["id"], one["table"]) for one in found]

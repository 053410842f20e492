"""`postgres-writer audit` on a list of resources, for tests."""

from __future__ import annotations

import json
from contextlib import contextmanager
from subprocess import CompletedProcess
from typing import TYPE_CHECKING, Any

from postgres_writer.core.row import relation_name
from support.command import run_here
from support.payloads import recorded, resource
from support.spec_cases import spec_with

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.postgres import Database

INSERT = "INSERT INTO {} VALUES (%s, 'alex', 23, 'canada')"


def synced(*tables: str) -> dict[str, Any]:
    """Return the status after a sync to the tables: it lists relations, and observes spec.table as it is written."""
    return recorded(*(relation_name(table) or table for table in tables), observed=tables[-1])


def made(name: str, table: str = "students", namespace: str = "default", **changes: Any) -> dict[str, Any]:
    """Return a resource that was synced to the table."""
    fields = {"status": synced(table), "spec": spec_with(table=table), **changes}
    return resource(fields.pop("spec"), fields.pop("status"), namespace=namespace, name=name, **fields)


def row(database: Database, *ids: str, table: str = "students") -> None:
    """Insert rows as the resource's spec wants them."""
    for about in ids:
        database.query(INSERT.format(table), about)


@contextmanager
def role(database: Database, name: str, *grants: str) -> Iterator[Database]:
    """Log in as a role of the test's own with these grants."""
    full = f"{name}_{database.name}"
    database.query(f"CREATE ROLE {full} LOGIN")
    try:
        for grant in grants:
            database.query(grant.format(role=full))
        yield type(database)({**database.connect, "user": full})
    finally:
        database.query(f"DROP OWNED BY {full}")
        database.query(f"DROP ROLE {full}")


def audit(
    database: Database,
    *arguments: str,
    resources: list[dict[str, Any]] | None = None,
    text: str | None = None,
    **variables: str,
) -> CompletedProcess[str]:
    """Run the command on a list given on standard input, with these variables besides those of the database."""
    if resources is not None:
        text = json.dumps({"apiVersion": "v1", "items": resources, "kind": "List", "metadata": {}}, indent=4)
    files = ["-"] if text is not None else []
    return run_here("audit", *arguments, *files, given=text or "", environ={**database.environ, **variables})


def findings(done: CompletedProcess[str]) -> list[tuple[str, str, str]]:
    """Return (finding, id, table) of a run with -o json."""
    assert done.returncode in (0, 1), done.stderr
    found = json.loads(done.stdout)["findings"]
    assert done.returncode == int(bool(found))
    return [(one["finding"], one["id"], one["table"]) for one in found]

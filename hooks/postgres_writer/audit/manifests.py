"""What becomes of manifests that are not applied yet, and the manifests for rows that lost theirs.

The former are compared with the database alone; with the latter `kubectl apply` takes the rows over as they are.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from psycopg2 import extensions

from postgres_writer.audit.model import COLUMNS, GROUP, KIND, Finding, Forecast, Row, Tables, differences_of
from postgres_writer.audit.rows import Rows
from postgres_writer.core.audit_result import Kind
from postgres_writer.core.plan import Permits
from postgres_writer.core.request import HookRequest, load_request

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
"""https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-subdomain-names"""


def manifests(
    findings: Iterable[Finding], spelling: Callable[[str], str]
) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Yield (id, manifest) for each row without a resource, or (id, why there is none).

    ``findings`` come in the order of their ids; ``spelling`` gives what spec.table says for a relation's label.
    """
    orphans = (finding for finding in findings if finding.kind is Kind.NO_RESOURCE)
    for about, group in itertools.groupby(orphans, key=lambda finding: finding.id):
        rows = list(group)
        if len(rows) > 1:
            where = ", ".join(dict.fromkeys(row.table for row in rows))
            yield about, f"{len(rows)} rows have this id (in {where}), and a resource has one"
        else:
            yield about, _manifest(rows[0], spelling(rows[0].table))


def _manifest(row: Finding, table: str) -> dict[str, Any] | str:
    namespace, _, name = row.id.partition("/")
    if not _NAME.fullmatch(name):
        return "Kubernetes does not allow this name"
    values = dict(zip(COLUMNS, row.values, strict=True))
    age = values["age"]
    # a numeric column was kept as text
    if isinstance(age, str) and re.fullmatch("[0-9]{1,20}", age):
        values["age"] = int(age)
    manifest = {
        "apiVersion": f"{GROUP}/v1",
        "kind": KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"table": table, **values},
    }
    # the row of another program may hold what no spec can say: no age, an empty name
    return load_request({"parent": manifest}).problem.rstrip(".") or manifest


def forecast(
    requests: list[HookRequest], permits: Permits, connection: extensions.connection, timeout: float
) -> Iterator[Finding]:
    """Yield for each manifest what a sync would find, in their order. ``permits`` is the table policy.

    Raises AuditError when PostgreSQL ends the transaction.
    """
    reader = Rows(connection, timeout)
    reader.resolve(request.table for request in requests if request.table)
    rows = {(row.id, row.relation.oid): row for row in reader.again({request.id for request in requests})}
    for request in requests:
        yield _judge(request, permits, reader.tables, rows)


def _judge(request: HookRequest, permits: Permits, tables: Tables, rows: dict[tuple[str, int], Row]) -> Finding:
    kind, detail = Forecast.WOULD_INSERT, ""
    differences: tuple[tuple[str, object, object], ...] = ()
    home = tables.relations.get(request.table or "")
    spec = request.spec
    if spec is None:
        kind, detail = Forecast.INVALID, request.problem
    elif not permits(request.namespace, spec.table):
        kind, detail = Forecast.NOT_ALLOWED, f"the table policy does not allow namespace {request.namespace} this table"
    elif home is None:
        kind, detail = Forecast.TABLE_MISSING, "the table does not exist, or the role cannot see it"
    elif home.oid in tables.unreadable:
        kind, detail = Forecast.UNREADABLE, tables.unreadable[home.oid]
    else:
        own = rows.get((request.id, home.oid))
        if own is not None:
            differences = differences_of(tuple(value for _, value in spec.values), own.values)
            kind = Forecast.WOULD_TAKE_OVER if differences else Forecast.UNCHANGED
    return Finding(kind, request.id, request.table or "", detail, differences)

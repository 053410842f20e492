"""What would become of manifests that are not applied yet: they are compared with the database alone."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg2 import extensions

from postgres_writer.audit.model import Finding, Forecast, Row, Tables, differences_of
from postgres_writer.audit.rows import Rows
from postgres_writer.core.plan import Permits
from postgres_writer.core.request import HookRequest


def forecast(
    requests: list[HookRequest], permits: Permits, connection: extensions.connection, timeout: float
) -> Iterator[Finding]:
    """Yield for each manifest what a sync would find, in their order. ``permits`` is the table policy.

    Raises AuditError when PostgreSQL ends the transaction.
    """
    reader = Rows(connection, timeout)
    found, relations = reader.resolve(request.table for request in requests if request.table)
    unreadable = {known.oid: f"its column id is of type {known.id_type}" for known in relations if known.id_type}
    by_id: dict[str, list[Row]] = {}
    for row in reader.again(relations, unreadable, sorted({request.id for request in requests})):
        by_id.setdefault(row.id, []).append(row)
    tables = Tables(found.relations, unreadable, found.ambiguous)
    for request in requests:
        yield _judge(request, permits, tables, by_id.get(request.id, []))


def _judge(request: HookRequest, permits: Permits, tables: Tables, rows: list[Row]) -> Finding:
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
        own = next((row for row in rows if row.relation.oid == home.oid), None)
        if own is not None:
            differences = differences_of((spec.name, spec.age, spec.country), own.values)
            kind = Forecast.WOULD_TAKE_OVER if differences else Forecast.UNCHANGED
    return Finding(kind, request.id, request.table or "", detail, differences)

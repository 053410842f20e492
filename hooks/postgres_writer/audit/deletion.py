"""The deletion of single rows: exactly the row that was shown, and only while it is still surplus."""

from __future__ import annotations

from collections.abc import Callable

import psycopg2
from psycopg2 import errors, extensions

from postgres_writer.audit.model import Finding, Relation, Resource, Row, Tables, judge, own_row
from postgres_writer.audit.rows import AT_PLACE, WITH_IDS, about, lookup, rows_where, rows_with
from postgres_writer.core.audit_result import Kind
from postgres_writer.database.qualified import qualified
from postgres_writer.database.statements import FIRE_DEFERRED, SEE_ALL, lock_key

_LIMITS = (
    # whatever the role's defaults are: each statement has to see what was committed before it
    "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE;"
    " SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '30s';"
    # the API is asked while the row is locked: if its answer never comes the locks must not stay
    " SET LOCAL idle_in_transaction_session_timeout = '60s'"
)
_LOCK_ID = qualified("SELECT pg_advisory_xact_lock(%(key)s)")
_BEFORE_LOOK = f"{FIRE_DEFERRED.text}; {SEE_ALL.text}"


class _Kept(Exception):
    """The row is kept; the text says why. Rolls the transaction back."""


def delete(
    connection: extensions.connection, relation: Relation, finding: Finding, resource_now: Callable[[], Resource | None]
) -> str:
    """Delete the row of a finding if it is still the one that was shown; gives why not, or an empty text.

    ``resource_now`` reads the resource from the API. It is asked while the row is locked, so that nothing can change
    between the look and the delete.
    """
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(_LIMITS)
            # first, as the hook server does: what it has sent and not seen answered is over when the lock is ours
            cursor.execute(_LOCK_ID, {"key": lock_key(finding.id)})
            _lock(cursor, relation, finding)
            resource = resource_now()
            own = [] if resource is None else _require_surplus(cursor, resource, relation, finding)
            _delete(cursor, relation, finding, own)
    except _Kept as kept:
        return str(kept)
    except errors.LockNotAvailable:
        return "a write of it is in progress, or its table is locked; try again"
    except psycopg2.Error as error:
        return f"PostgreSQL refuses it (SQLSTATE {error.pgcode})"
    return ""


def _lock(cursor: extensions.cursor, relation: Relation, finding: Finding) -> None:
    """Lock the row where it was shown."""
    found = rows_where(cursor, relation, f"{AT_PLACE} FOR UPDATE", (*finding.place, finding.id))
    # a concurrent update may have moved it while its lock was waited for
    if [row.place for row in found] != [finding.place]:
        raise _Kept("it is gone, or was changed since it was shown")


def _delete(cursor: extensions.cursor, relation: Relation, finding: Finding, own: list[Row]) -> None:
    """Delete the row, and look: that row is gone, and those that share its id are as they were.

    ``own`` are those in spec.table. A rule may delete another row instead, and a trigger may insert or delete more.
    """
    others = [row for row in rows_with(cursor, relation, [finding.id]) if row.place != finding.place]
    cursor.execute(about(relation, f"DELETE {AT_PLACE}"), (*finding.place, finding.id))
    deleted = cursor.rowcount
    cursor.execute(_BEFORE_LOOK)
    left = rows_with(cursor, relation, [finding.id])
    if deleted == 0 or len(left) > len(others):
        raise _Kept("a trigger or a rule keeps it")
    if deleted != 1:
        raise _Kept(f"the statement would delete {deleted} rows")
    if set(left) != set(others):
        raise _Kept("a trigger or a rule would change another row with its id")
    for row in own:
        if row not in rows_with(cursor, row.relation, [row.id]):
            raise _Kept("a trigger would delete the row in spec.table with it")


def _require_surplus(cursor: extensions.cursor, resource: Resource, relation: Relation, finding: Finding) -> list[Row]:
    """Judge the resource again on its rows as they are now; gives those in spec.table, locked so that they stay."""
    tables = Tables(certain={relation.key})
    lookup(cursor, resource.keys, tables)
    rows: list[Row] = []
    for known in {*tables.relations.values(), relation}:
        if known.key in tables.unreadable:
            raise _Kept(f"table {known.name} cannot be read: {tables.unreadable[known.key]}")
        cursor.execute(about(known, f"SELECT {WITH_IDS} FOR SHARE"), {"ids": [finding.id]})
        rows += rows_with(cursor, known, [finding.id])
    judged = judge(resource, rows, own_row(resource, rows, tables), tables)
    if not any(found.prunable and found.place == finding.place for found in judged):
        again = finding.kind is Kind.NO_RESOURCE
        raise _Kept("it has a resource again" if again else "it may be the row that its resource needs")
    return [row for row in rows if row.relation == tables.relations.get(resource.home)]

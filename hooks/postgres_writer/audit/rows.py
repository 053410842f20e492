"""Where the audit reads rows: every table in the order of the id, through cursors on the server.

All tables are read in one snapshot, so that a row which moves from one to the other is seen once.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import psycopg2
from psycopg2 import extensions
from psycopg2.sql import SQL, Composable, Identifier

from postgres_writer.audit.model import Relation, Row, Tables
from postgres_writer.audit.resources import AuditError, is_id
from postgres_writer.config.settings import DatabaseConfig
from postgres_writer.core.request import is_table

_FETCH = 2000
_BATCH = 1000

_RELATION = (
    "SELECT c.oid::bigint, n.nspname || '.' || c.relname, c.relkind::text, greatest(c.reltuples, 0)::float8"
    " FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
)
_NAMED = _RELATION + " WHERE c.oid = to_regclass(%s)"
_SHAPED = _RELATION + (  # noqa: S608 # nothing in it comes from outside
    " WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname !~ '^pg_|^information_schema$'"
    " AND 4 = (SELECT count(*) FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND NOT a.attisdropped"
    "  AND a.attname IN ('id', 'name', 'age', 'country'))"
    " AND EXISTS (SELECT 1 FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid"
    "  AND a.attnum = i.indkey[0] WHERE i.indrelid = c.oid AND i.indisunique AND i.indnatts = 1 AND a.attname = 'id')"
)
_VALUES = "name::text, age, country::text"
_DELETE_LIMITS = "SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '30s'"
_SHAPE = "WHERE id::text COLLATE \"C\" ~ '^[a-z0-9.-]+/[a-z0-9.-]+$'"
_WITHIN = 'AND id::text COLLATE "C" >= %(begin)s AND id::text COLLATE "C" < %(end)s'
_ORDER = 'ORDER BY id::text COLLATE "C"'
_STORED = "tableoid::bigint, ctid::text"

Count = Callable[[int], object]


class Rows:
    """A connection to the database, for reading and, only on demand, for deleting single rows."""

    def __init__(self, config: DatabaseConfig) -> None:
        """Connect. Raises AuditError when that fails."""
        failure: psycopg2.Error | None = None
        names = ",".join(host.name for host in config.hosts)
        reached = {
            "host": names,
            "port": ",".join(str(host.port) for host in config.hosts),
            "connect_timeout": str(math.ceil(config.connect_timeout)),
            **config.connect_arguments(),
        }
        for password in config.passwords():
            try:
                self._connection = psycopg2.connect(**reached, password=password)  # type: ignore[call-overload]
            except psycopg2.Error as error:
                failure = error
            else:
                return
        # without the driver's text: libpq quotes connection strings in some of them
        raise AuditError(f"PostgreSQL at {names} cannot be reached as {config.user}: check PSQL_*.") from failure

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def resolve(self, names: Iterable[str], *, discover: bool = False) -> tuple[dict[str, Relation], list[Relation]]:
        """Find what the spellings stand for, and (``discover``) every other table of the same shape."""
        with self._transaction("READ ONLY"), self._connection.cursor() as cursor:
            known = self.lookup(names)
            unique = {relation.oid: relation for relation in known.values()}
            if discover:
                cursor.execute(_SHAPED)
                shaped = (Relation(*found) for found in cursor.fetchall())
                unique.update({relation.oid: relation for relation in shaped if is_table(relation.label)})
        return known, list(unique.values())

    def lookup(self, names: Iterable[str]) -> dict[str, Relation]:
        """Find what the spellings stand for, in whatever transaction there is."""
        known = {}
        with self._connection.cursor() as cursor:
            for name in sorted(filter(is_table, names)):
                cursor.execute(_NAMED, (".".join(f'"{part}"' for part in name.split(".")),))
                found = cursor.fetchone()
                if found:
                    known[name] = Relation(*found)
        return known

    @contextlib.contextmanager
    def snapshot(
        self, names: dict[str, Relation], relations: list[Relation], namespace: str | None, count: Count
    ) -> Iterator[tuple[Tables, Iterator[Row]]]:
        """Give the tables, and all rows that can be a resource's in the byte order of their ids.

        What cannot be read is in ``Tables.unreadable`` with the reason.
        """
        with self._transaction("ISOLATION LEVEL REPEATABLE READ READ ONLY"):
            self._execute("SET LOCAL statement_timeout = 0")
            unreadable: dict[int, str] = {}
            streams = []
            for number, relation in enumerate(relations):
                cursor = self._open(f"audit_{number}", relation, namespace)
                if isinstance(cursor, str):
                    unreadable[relation.oid] = cursor
                else:
                    streams.append(_stream(relation, cursor, count))
            yield Tables(names, unreadable), heapq.merge(*streams, key=_id)

    def again(self, tables: Tables, relations: list[Relation], ids: Iterable[str]) -> Iterator[Row]:
        """Give the rows with these ids as they are now, in the order of the ids."""
        remaining = iter(ids)
        while batch := list(itertools.islice(remaining, _BATCH)):
            found: list[Row] = []
            with self._transaction("READ ONLY"), self._connection.cursor() as cursor:
                for relation in relations:
                    if relation.oid not in tables.unreadable:
                        cursor.execute(_on(_selection(relation), relation, "WHERE id = ANY(%s)"), (batch,))
                        found += (_row(relation, values) for values in cursor.fetchall())
            yield from sorted(found, key=_id)

    def delete(self, relation: Relation, about: str, shown: tuple[Any, ...], veto: Callable[[], str]) -> str:
        """Delete one row if it is still the one that was shown and nothing vetoes; gives why not, or an empty text.

        ``veto`` is asked while the row is locked, so that nobody can change it between the look and the delete.
        """
        try:
            with self._connection, self._connection.cursor() as cursor:
                cursor.execute(_DELETE_LIMITS)
                cursor.execute(_on(f"SELECT {_VALUES} FROM", relation, "WHERE id = %s FOR UPDATE"), (about,))
                found = cursor.fetchone()
                if found is None:
                    return "it is gone already"
                if _texts(found) != _texts(shown):
                    return "it has changed since it was shown"
                reason = veto()
                if reason:
                    return reason
                cursor.execute(_on("DELETE FROM", relation, "WHERE id = %s"), (about,))
                return "" if cursor.rowcount > 0 else "a trigger, a rule or row-level security keeps it"
        except psycopg2.Error as error:
            return f"PostgreSQL refuses it (SQLSTATE {error.pgcode})"

    def _open(self, name: str, relation: Relation, namespace: str | None) -> Any:
        """Open a cursor on a relation; gives the reason as text when it cannot be read."""
        cursor = self._connection.cursor(name)
        cursor.itersize = _FETCH
        self._execute("SAVEPOINT before")
        try:
            # "0" follows "/"
            bounds = {"begin": f"{namespace}/", "end": f"{namespace}0"}
            condition = f"{_SHAPE} {_WITHIN if namespace else ''} {_ORDER}"
            cursor.execute(_on(_selection(relation), relation, condition), bounds)
        except psycopg2.Error as error:
            self._execute("ROLLBACK TO before")
            return _why_unreadable(error)
        return cursor

    @contextlib.contextmanager
    def _transaction(self, mode: str) -> Iterator[None]:
        """Run a transaction. Raises AuditError with the SQLSTATE when PostgreSQL ends it."""
        try:
            with self._connection:
                self._execute(f"SET TRANSACTION {mode}")
                yield
        except psycopg2.Error as error:
            code = f" (SQLSTATE {error.pgcode})" if error.pgcode else ""
            raise AuditError(f"PostgreSQL ended the audit's transaction{code}: run it again.") from error

    def _execute(self, statement: str) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(statement)


def _selection(relation: Relation) -> str:
    return f"SELECT id::text, {_VALUES}, {_STORED if relation.stores_rows else 'NULL, NULL'} FROM"


def _on(begin: str, relation: Relation, end: str) -> Composable:
    # a name that spec.table can have holds no dot; its schema may
    schema, _, name = relation.label.rpartition(".")
    return SQL("{} {} {}").format(SQL(begin), Identifier(schema, name), SQL(end))


def _texts(values: tuple[Any, ...]) -> list[str | None]:
    # what was shown has been kept as JSON, which knows no numeric
    return [None if value is None else str(value) for value in values]


def _id(row: Row) -> str:
    return row.id


def _row(relation: Relation, values: tuple[Any, ...]) -> Row:
    row, name, age, country, table, place = values
    return Row(row, relation, (table, place) if table is not None else (relation.oid, row), (name, age, country))


def _stream(relation: Relation, cursor: extensions.cursor, count: Count) -> Iterator[Row]:
    for values in cursor:
        count(1)
        if is_id(values[0]):
            yield _row(relation, values)


def _why_unreadable(error: psycopg2.Error) -> str:
    reasons = {
        "42501": "the role may not read it",
        "42703": "it lacks one of the columns id, name, age and country",
        "42809": "it is no table",
    }
    return f"{reasons.get(error.pgcode or '', 'PostgreSQL refuses it')} (SQLSTATE {error.pgcode})"

"""Where the audit reads rows: every table in the order of the id, through cursors on the server.

All tables are read in one snapshot, so that a row which moves from one to the other is seen once. What goes wrong with
one relation (a grant, a numeric id, a foreign server that is down, a timeout) is noted as that relation's.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import psycopg2
from psycopg2 import extensions
from psycopg2.sql import SQL, Composable, Identifier

from postgres_writer.audit.connection import transaction, trouble, trying
from postgres_writer.audit.model import Relation, Row, Tables
from postgres_writer.audit.resources import is_id
from postgres_writer.core.request import is_table

_FETCH = 2000
_BATCH = 1000

_RELATION = (
    "SELECT c.oid::bigint, n.nspname || '.' || c.relname, c.relkind::text, greatest(c.reltuples, 0)::float8,"
    # the type of a column id that is of no string type (category S): no id of a resource fits into it
    " coalesce((SELECT format_type(a.atttypid, NULL) FROM pg_catalog.pg_attribute a"
    "  JOIN pg_catalog.pg_type t ON t.oid = a.atttypid WHERE a.attrelid = c.oid AND a.attname = 'id'"
    "  AND NOT a.attisdropped AND t.typcategory <> 'S'), ''),"
    " row_security_active(c.oid),"
    " (SELECT count(*) FROM pg_catalog.pg_class other JOIN pg_catalog.pg_namespace s ON s.oid = other.relnamespace"
    "  WHERE other.relname = c.relname AND other.relkind IN ('r', 'p', 'v', 'm', 'f')"
    "  AND s.nspname !~ '^pg_|^information_schema$')"
    " FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
)
# to_regclass fails on a schema that the role may not use; the catalog shows it to anyone
_QUALIFIED = _RELATION + " WHERE n.nspname = %s AND c.relname = %s AND c.relkind NOT IN ('i', 'I', 'S', 't', 'c')"
_BARE = _RELATION + " WHERE c.oid = to_regclass(quote_ident(%s))"
_SHAPED = _RELATION + (  # noqa: S608 # nothing in it comes from outside
    " WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname !~ '^pg_|^information_schema$'"
    " AND 4 = (SELECT count(*) FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND NOT a.attisdropped"
    "  AND a.attname IN ('id', 'name', 'age', 'country'))"
    " AND EXISTS (SELECT 1 FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid"
    "  AND a.attnum = i.indkey[0] JOIN pg_catalog.pg_type t ON t.oid = a.atttypid WHERE i.indrelid = c.oid"
    "  AND i.indisunique AND i.indnkeyatts = 1 AND a.attname = 'id' AND t.typcategory = 'S')"
)
_VALUES = "name::text, age, country::text"
# the rows of other programs are left out by the server: a table may hold millions of them
_SHAPE = "WHERE id::text COLLATE \"C\" ~ '^[a-z0-9.-]+/[a-z0-9.-]+$'"
_WITHIN = 'AND id::text COLLATE "C" >= %(begin)s AND id::text COLLATE "C" < %(end)s'
_ORDER = 'ORDER BY id::text COLLATE "C"'
_STORED = "tableoid::bigint, ctid::text"

Count = Callable[[int], object]


class Rows:
    """Reads the rows over a connection. ``timeout`` is the most seconds that one relation may take for one batch."""

    def __init__(self, connection: extensions.connection, timeout: float) -> None:
        self._connection = connection
        milliseconds = max(1, round(timeout * 1000))
        # a table that is locked must not hold up the others for long
        self._limits = f"SET LOCAL statement_timeout = {milliseconds}; SET LOCAL lock_timeout = '5s'"

    def resolve(self, names: Iterable[str], *, discover: bool = False) -> tuple[Tables, list[Relation]]:
        """Find what the spellings mean, and (``discover``) every other table of the same shape."""
        with transaction(self._connection, "READ ONLY") as cursor:
            tables = lookup(cursor, names)
            unique = {relation.oid: relation for relation in tables.relations.values()}
            if discover:
                cursor.execute(_SHAPED)
                shaped = (Relation(*found[:-1]) for found in cursor.fetchall())
                unique.update({relation.oid: relation for relation in shaped if is_table(relation.label)})
        return tables, list(unique.values())

    @contextlib.contextmanager
    def snapshot(
        self, relations: list[Relation], namespace: str | None, unreadable: dict[int, str], count: Count
    ) -> Iterator[Iterator[Row]]:
        """Give all rows that can be a resource's in the byte order of their ids.

        A relation that cannot be read (further) is added to ``unreadable`` with the reason, before any later row is
        given.
        """
        with transaction(self._connection, "ISOLATION LEVEL REPEATABLE READ READ ONLY") as cursor:
            cursor.execute(self._limits)
            for relation in relations:
                if relation.id_type:
                    unreadable[relation.oid] = f"its column id is of type {relation.id_type}, not a text type"
                    continue
                try:
                    with trying(cursor):
                        cursor.execute(*_declaration(relation, namespace))
                except psycopg2.Error as error:
                    unreadable[relation.oid] = trouble(error)
            opened = [relation for relation in relations if relation.oid not in unreadable]
            streams = [self._stream(relation, unreadable, count) for relation in opened]
            yield heapq.merge(*streams, key=_id)

    def again(self, relations: list[Relation], unreadable: dict[int, str], ids: Iterable[str]) -> Iterator[Row]:
        """Give the rows with these ids as they are now, in the order of the ids; fills ``unreadable``."""
        remaining = iter(ids)
        while batch := list(itertools.islice(remaining, _BATCH)):
            found: list[Row] = []
            with transaction(self._connection, "READ ONLY") as cursor:
                cursor.execute(self._limits)
                for relation in relations:
                    if relation.oid in unreadable or relation.id_type:
                        continue
                    try:
                        with trying(cursor):
                            found += rows_with(cursor, relation, batch)
                    except psycopg2.Error as error:
                        unreadable[relation.oid] = trouble(error)
            yield from sorted(found, key=_id)

    def _stream(self, relation: Relation, unreadable: dict[int, str], count: Count) -> Iterator[Row]:
        """Yield the rows of a relation; each fetch in a savepoint, so that its failure leaves the other cursors."""
        with self._connection.cursor() as cursor:
            while True:
                try:
                    with trying(cursor):
                        cursor.execute(f"FETCH FORWARD {_FETCH} FROM {_cursor_name(relation)}")
                        batch = cursor.fetchall()
                except psycopg2.Error as error:
                    unreadable[relation.oid] = trouble(error)
                    return
                if not batch:
                    return
                count(len(batch))
                for values in batch:
                    if is_id(values[0]):
                        yield _row(relation, values)


def lookup(cursor: extensions.cursor, names: Iterable[str]) -> Tables:
    """Find what the spellings mean, in the current transaction."""
    known, ambiguous = {}, set()
    for name in sorted(filter(is_table, names)):
        schema, _, bare = name.rpartition(".")
        if schema:
            cursor.execute(_QUALIFIED, (schema, bare))
        else:
            cursor.execute(_BARE, (bare,))
        found = cursor.fetchone()
        if found:
            known[name] = Relation(*found[:-1])
            if not schema and found[-1] > 1:
                ambiguous.add(name)
    return Tables(known, {}, ambiguous)


def rows_with(cursor: extensions.cursor, relation: Relation, ids: list[str]) -> list[Row]:
    """Return the rows with exactly these ids as a relation shows them now."""
    cursor.execute(on(selection(relation), relation, "WHERE id = ANY(%s)"), (ids,))
    # "=" of citext, or of a collation that takes two spellings for one, finds more
    wanted = set(ids)
    return [_row(relation, values) for values in cursor.fetchall() if values[0] in wanted]


def selection(relation: Relation) -> str:
    """Return the select list and FROM for the rows of a relation."""
    return f"SELECT id::text, {_VALUES}, {_STORED if relation.stores_rows else 'NULL, NULL'} FROM"


def on(begin: str, relation: Relation, end: str) -> Composable:
    """Put a relation's quoted name between two parts of a statement."""
    # a name that spec.table can have holds no dot; its schema may
    schema, _, name = relation.label.rpartition(".")
    return SQL("{} {} {}").format(SQL(begin), Identifier(schema, name), SQL(end))


def _declaration(relation: Relation, namespace: str | None) -> tuple[Composable, dict[str, str]]:
    # "0" follows "/"
    bounds = {"begin": f"{namespace}/", "end": f"{namespace}0"}
    begin = f"DECLARE {_cursor_name(relation)} NO SCROLL CURSOR FOR {selection(relation)}"
    return on(begin, relation, f"{_SHAPE} {_WITHIN if namespace else ''} {_ORDER}"), bounds


def _cursor_name(relation: Relation) -> str:
    return f"audit_{relation.oid}"


def _id(row: Row) -> str:
    return row.id


def _row(relation: Relation, values: tuple[Any, ...]) -> Row:
    row, name, age, country, table, place = values
    return Row(row, relation, (table, place) if table is not None else (relation.oid, row), (name, age, country))

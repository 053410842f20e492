"""Where the audit reads rows: every table in the order of the id, through cursors on the server.

All tables are read in one snapshot, so that a row which moves from one to the other is seen once. What goes wrong with
one relation (a grant, a numeric id, a foreign server that is down, a timeout) is noted as that relation's.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Set
from operator import attrgetter
from typing import Any

import psycopg2
from psycopg2 import extensions

from postgres_writer.audit.model import Difference, Key, Relation, Resource, Row, Tables
from postgres_writer.audit.resources import ID
from postgres_writer.config.settings import DatabaseConfig
from postgres_writer.core.row import ID_COLUMN, KINDS, column_names, is_table
from postgres_writer.database import statements
from postgres_writer.database.qualified import qualified, quoted
from postgres_writer.errors import AuditError

_BATCH = 2000

# by the catalogue, which shows a relation to anyone: to look a name up fails on a schema that the role may not use
_LOOKUP = qualified("""
    SELECT c.oid::int8, w.name, w.id_column,
    ARRAY(SELECT o.attname::text FROM pg_catalog.pg_attribute AS o
        WHERE (o.attrelid = c.oid) AND (o.attnum > 0) AND NOT o.attisdropped ORDER BY o.attnum),
    CASE WHEN NOT ((c.relkind = 'r') OR (c.relkind = 'p')) THEN 'it is not an ordinary or partitioned table'
    WHEN row_security_active(c.oid) THEN 'its row-level security applies to the role, which needs BYPASSRLS'
    WHEN t.typcategory <> 'S' THEN
        concat('its column ', w.id_column, ' is of type ', format_type(a.atttypid, NULL), ', not a text type') END
    FROM ROWS FROM (unnest(%(names)s::text[]), unnest(%(id_columns)s::text[])) AS w (name, id_column)
    JOIN (pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace)
    ON ((n.nspname::text || '.') || c.relname::text) = w.name
    LEFT JOIN (pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid)
    ON (a.attrelid = c.oid) AND (a.attname = w.id_column) AND (a.attnum > 0) AND NOT a.attisdropped
    WHERE (a.attnum IS NOT NULL) OR NOT ((c.relkind = 'r') OR (c.relkind = 'p'))
""")
_DISCOVER = qualified("""
    SELECT (n.nspname::text || '.') || c.relname::text
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE ((c.relkind = 'r') OR (c.relkind = 'p')) AND NOT c.relispartition
    AND (n.nspname !~ '^pg_|^information_schema$')
    AND EXISTS (SELECT FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_attribute AS a ON (a.attrelid = c.oid)
        AND (a.attnum = i.indkey[0]) JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid WHERE (i.indrelid = c.oid)
        AND i.indisunique AND (i.indnkeyatts = 1) AND (a.attname = %(id_column)s) AND (t.typcategory = 'S'))
""")
_SELECT = qualified("SELECT {id}::text, tableoid::int8, ctid::text, xmin::text")
# The rows of other programs are left out by the server: a table may hold millions of them. A namespace at the start of
# an expression can be looked up in an index.
_SHAPE = qualified('{id}::text COLLATE "C" ~ %s')
_IN_ORDER = qualified('ORDER BY {id}::text COLLATE "C"')
WITH_IDS = qualified("FROM {table} WHERE {id} = ANY (%(ids)s::text[])")
AT_PLACE = qualified(
    'FROM {table} WHERE (tableoid = %s::oid) AND (ctid = %s::tid) AND (xmin = %s::xid) AND {id}::text COLLATE "C" = %s'
)
_REASONS = {
    "42501": "the role may not read it",
    "42703": "it was altered meanwhile",
    "42P01": "it was dropped meanwhile",
    "55P03": "it is locked",
    "57014": "reading it took too long",
}
id_of = attrgetter("id")


def connect(config: DatabaseConfig) -> extensions.connection:
    """Connect to PostgreSQL. Raises AuditError when that fails."""
    names = ",".join(host.name for host in config.hosts)
    # libpq takes whole seconds
    reached = {"host": names, "connect_timeout": str(math.ceil(config.connect_timeout)), **config.connect_arguments()}
    reached["port"] = ",".join(str(host.port) for host in config.hosts)
    for password in config.passwords():
        with contextlib.suppress(psycopg2.Error):
            connection: extensions.connection = psycopg2.connect(**reached, password=password)  # type: ignore[call-overload]
            connection.set_client_encoding("UTF8")
            return connection
    # without the driver's text: libpq quotes connection strings in some of them
    raise AuditError(f"PostgreSQL at {names} cannot be reached as {config.user}: check PSQL_*.")


class _Refused(Exception):
    """PostgreSQL refuses a statement, perhaps for a value in it."""


class Rows:
    """Reads rows, and keeps what it learns of ``tables``; ``timeout``: the most seconds for a batch of one relation."""

    def __init__(self, connection: extensions.connection, timeout: float) -> None:
        self.tables = Tables()
        self._connection = connection
        milliseconds = max(1, round(timeout * 1000))
        # a table that is locked must not hold up the others for long, and where rows would be hidden PostgreSQL refuses
        self._limits = (
            f"SET LOCAL statement_timeout = {milliseconds}; SET LOCAL lock_timeout = '5s'; SET LOCAL row_security = off"
            # what is compared is known by its place: a join that reads the whole table for each batch is never better
            "; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"
        )

    def resolve(self, keys: Set[Key], *, discover: bool = False) -> None:
        """Find the relations of these tables, as ``lookup`` does; ``discover``: and others with a unique text id."""
        with self._transaction("READ ONLY") as cursor:
            if discover:
                cursor.execute(_DISCOVER, {"id_column": ID_COLUMN})
                keys |= {(name, ID_COLUMN) for (name,) in cursor.fetchall() if is_table(name)}
            lookup(cursor, keys, self.tables)

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read and compare all rows as they are now."""
        with self._transaction("ISOLATION LEVEL REPEATABLE READ READ ONLY") as cursor:
            cursor.execute(self._limits)
            yield

    def all(self, namespace: str | None) -> Iterator[Row]:
        """Give all rows of the snapshot that can be a resource's in the byte order of their ids.

        A relation that cannot be read (further) is added to ``tables.unreadable`` with the reason, before any later row
        is given.
        """
        shapes = [f"^{kind.prefix}{namespace or '[a-z0-9.-]+'}/[a-z0-9.-]+$" for kind in KINDS.values()]
        where = " OR ".join(f"({_SHAPE})" for _ in shapes)
        streams = []
        for number, relation in enumerate(self._readable()):
            with self._connection.cursor() as cursor, self._attempt(cursor, relation):
                declare = f"DECLARE audit_{number} NO SCROLL CURSOR FOR"
                cursor.execute(about(relation, f"{declare} {_SELECT} FROM {{table}} WHERE {where} {_IN_ORDER}"), shapes)
                streams.append(self._stream(relation, f"FETCH FORWARD {_BATCH} FROM audit_{number}"))
        return heapq.merge(*streams, key=id_of)

    def reread(self, ids: Iterable[str]) -> Iterator[Row]:
        """Give the rows of the snapshot with these ids, in the order of the ids; fills ``tables.unreadable``."""
        remaining = iter(ids)
        while batch := list(itertools.islice(remaining, _BATCH)):
            found: list[Row] = []
            with self._connection.cursor() as cursor:
                for relation in self._readable():
                    with self._attempt(cursor, relation):
                        found += rows_with(cursor, relation, batch)
            yield from sorted(found, key=id_of)

    def compare(self, pairs: Iterable[tuple[Resource, Row]]) -> dict[str, Difference]:
        """Ask PostgreSQL which rows of the snapshot are not as their resources want them; gives how, by id.

        What a relation refuses as a whole is added to ``tables.unreadable``.
        """
        alike = defaultdict(list)
        for resource, row in pairs:
            alike[row.relation, resource.columns].append((resource, row))
        with self._connection.cursor() as cursor:
            found = (self._compare(cursor, *about_same, some) for about_same, some in alike.items())
            return dict(itertools.chain.from_iterable(found))

    def _compare(
        self, cursor: extensions.cursor, relation: Relation, columns: tuple[str, ...], pairs: list[tuple[Resource, Row]]
    ) -> Iterator[tuple[str, Difference]]:
        """Compare rows of one relation by the same columns. A value that is refused is its own row's trouble."""
        there = tuple(column for column in columns if column in relation.columns)
        absent = ", ".join(column for column in columns if column not in there)
        detail = f"the table has no column {absent}" if absent else ""
        differing: dict[str, tuple[str, ...]] = {}
        statement = statements.compare(relation.name, there, relation.id_column)
        docs = ",".join(str(resource.doc) for resource, _ in pairs)
        places = ",".join(f'{{"-part":{row.place[0]},"-place":"{row.place[1]}"}}' for _, row in pairs)
        try:
            with self._attempt(cursor, relation, values=True):
                cursor.execute(statement, {"doc": f"[{docs}]", "places": f"[{places}]"})
                differing = {row: tuple(itertools.compress(there, differs)) for row, *differs in cursor}
        except _Refused:
            if len(pairs) == 1:
                yield pairs[0][0].id, ((), "PostgreSQL refuses a value of the resource")
                return
            for some in (pairs[: len(pairs) // 2], pairs[len(pairs) // 2 :]):
                yield from self._compare(cursor, relation, columns, some)
            return
        for resource, _ in pairs:
            if detail or resource.id in differing:
                yield resource.id, (differing.get(resource.id, ()), detail)

    def _readable(self) -> list[Relation]:
        return [relation for name, relation in self.tables.relations.items() if name not in self.tables.unreadable]

    def _stream(self, relation: Relation, fetch: str) -> Iterator[Row]:
        with self._connection.cursor() as cursor:
            while True:
                batch: list[tuple[Any, ...]] = []
                # each fetch for itself, so that its failure leaves the other cursors
                with self._attempt(cursor, relation):
                    cursor.execute(fetch)
                    batch = cursor.fetchall()
                if not batch:
                    return
                yield from (row for row in _rows(relation, batch) if ID.fullmatch(row.id))

    @contextlib.contextmanager
    def _transaction(self, mode: str) -> Iterator[extensions.cursor]:
        """Run a transaction. Raises AuditError with the SQLSTATE when PostgreSQL ends it."""
        try:
            # leaving the connection's block ends the transaction and keeps the connection
            # https://www.psycopg.org/docs/usage.html#with-statement
            with self._connection, self._connection.cursor() as cursor:
                cursor.execute(f"SET TRANSACTION {mode}")
                yield cursor
        except psycopg2.Error as error:
            code = f" (SQLSTATE {error.pgcode})" if error.pgcode else ""
            raise AuditError(f"PostgreSQL ended the audit's transaction{code}: run it again.") from error

    @contextlib.contextmanager
    def _attempt(self, cursor: extensions.cursor, relation: Relation, *, values: bool = False) -> Iterator[None]:
        """Run statements on a relation; when one fails the relation is unreadable, and the transaction goes on.

        Raises the driver's error when it is about the connection: then no relation can be read. With ``values`` raises
        _Refused when it may be about them.
        """
        cursor.execute("SAVEPOINT audit")
        try:
            yield
        except psycopg2.Error as error:
            code = error.pgcode
            if not code or cursor.connection.closed:
                raise
            cursor.execute("ROLLBACK TO SAVEPOINT audit")
            if values and code not in _REASONS:
                raise _Refused from error
            # in our words: PostgreSQL's own text may hold values of rows
            self.tables.unreadable[relation.key] = f"{_REASONS.get(code, 'PostgreSQL refuses it')} (SQLSTATE {code})"
        cursor.execute("RELEASE SAVEPOINT audit")


def lookup(cursor: extensions.cursor, keys: Collection[Key], tables: Tables) -> None:
    """Add the relations with these names that have that column of ids to ``tables``, in the current transaction.

    What is not a table is added whatever its columns are, as unreadable.
    """
    parameters = {"names": [name for name, _ in keys], "id_columns": [column for _, column in keys]}
    cursor.execute(_LOOKUP, parameters)
    for oid, name, id_column, columns, trouble in cursor.fetchall():
        relation = Relation(oid, name, id_column, column_names(columns))
        tables.relations[relation.key] = relation
        if trouble:
            tables.unreadable[relation.key] = trouble


def rows_where(cursor: extensions.cursor, relation: Relation, condition: str, parameters: Any) -> list[Row]:
    """Return the rows that a relation shows now and that meet a condition, which may lock them."""
    cursor.execute(about(relation, f"{_SELECT} {condition}"), parameters)
    return _rows(relation, cursor.fetchall())


def rows_with(cursor: extensions.cursor, relation: Relation, ids: list[str]) -> list[Row]:
    """Return the rows with exactly these ids as a relation shows them now."""
    # "=" of a collation that takes two spellings for one finds more
    wanted = set(ids)
    return [row for row in rows_where(cursor, relation, WITH_IDS, {"ids": ids}) if row.id in wanted]


def about(relation: Relation, template: str) -> str:
    """Fill a relation into a statement: {table}, by a name that no column has (it would mean the row), and {id}."""
    return template.replace("{table}", f'{quoted(relation.name)} AS "-"').replace("{id}", quoted(relation.id_column))


def _rows(relation: Relation, selected: list[tuple[Any, ...]]) -> list[Row]:
    return [Row(found, relation, (part, place, wrote)) for found, part, place, wrote in selected]

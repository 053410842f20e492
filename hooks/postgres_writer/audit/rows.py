"""Where the audit reads rows: every table in the order of the id, through cursors on the server.

All tables are read in one snapshot, so that a row which moves from one to the other is seen once. What goes wrong with
one relation (a grant, a numeric id, a foreign server that is down, a timeout) is noted as that relation's.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import Any

import psycopg2
from psycopg2 import extensions

from postgres_writer.audit.model import Relation, Row, Tables
from postgres_writer.audit.resources import is_id
from postgres_writer.config.settings import DatabaseConfig
from postgres_writer.core.request import is_table
from postgres_writer.database.qualified import qualified, quoted
from postgres_writer.errors import AuditError

_FETCH = 2000
_BATCH = 1000

# by the catalogue, which shows a relation to anyone: to look a name up fails on a schema that the role may not use
_RELATION = """
    SELECT c.oid::int8, n.nspname::text || '.' || c.relname::text, c.reltuples::float8,
    CASE WHEN NOT ((c.relkind = 'r') OR (c.relkind = 'p')) THEN 'it is not an ordinary or partitioned table'
    WHEN row_security_active(c.oid) THEN 'its row-level security applies to the role, which needs BYPASSRLS'
    ELSE (SELECT 'its column id is of type ' || format_type(a.atttypid, NULL) || ', not a text type'
        FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
        WHERE (a.attrelid = c.oid) AND (a.attname = 'id') AND NOT a.attisdropped AND (t.typcategory <> 'S')) END
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE {}
"""
_NAMED = qualified(_RELATION.format("(n.nspname = %(schema)s) AND (c.relname = %(table)s)"))
_SHAPED = qualified(
    _RELATION.format("""
    ((c.relkind = 'r') OR (c.relkind = 'p')) AND NOT c.relispartition AND (n.nspname !~ '^pg_|^information_schema$')
    AND 4 = (SELECT count(*) FROM pg_catalog.pg_attribute AS a WHERE (a.attrelid = c.oid) AND NOT a.attisdropped
        AND (a.attname = ANY (ARRAY['id', 'name', 'age', 'country'])))
    AND EXISTS (SELECT FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_attribute AS a ON (a.attrelid = c.oid)
        AND (a.attnum = i.indkey[0]) JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid WHERE (i.indrelid = c.oid)
        AND i.indisunique AND (i.indnkeyatts = 1) AND (a.attname = 'id') AND (t.typcategory = 'S'))
    """)
)
# the rows of other programs are left out by the server: a table may hold millions of them
_SHAPE = qualified("WHERE id::text COLLATE \"C\" ~ '^[a-z0-9.-]+/[a-z0-9.-]+$'")
_WITHIN = qualified('AND id::text COLLATE "C" >= %(begin)s AND id::text COLLATE "C" < %(end)s')
_ORDER = qualified('ORDER BY id::text COLLATE "C"')
WITH_IDS = qualified("WHERE id = ANY (%(ids)s::text[])")
# Not {}::text: the owner of a type decides what that cast runs. Only char(n) has blanks that are not part of the value.
_TEXT = (
    "CASE WHEN {0} IS NULL THEN NULL WHEN pg_typeof({0}) = 'pg_catalog.bpchar'::regtype THEN rtrim(concat({0}))"
    " ELSE concat({0}) END"
)
_SELECTION = qualified(
    f"SELECT id::text, {_TEXT.format('name')}, age, {_TEXT.format('country')}, tableoid::int8, ctid::text FROM"
)
_REASONS = {
    "42501": "the role may not read it",
    "42703": "it lacks one of the columns id, name, age and country",
    "42P01": "it was dropped meanwhile",
    "55P03": "it is locked",
    "57014": "reading it took too long",
}
id_of = attrgetter("id")

# A column age that is not ours may hold what Python or JSON has not (the year 99999, NaN): only a number is read as
# one, a float as a Decimal, and all else as PostgreSQL writes it.
_KEPT = (extensions.INTEGER, extensions.LONGINTEGER, extensions.DECIMAL, extensions.BOOLEAN, extensions.UNICODE)
_OTHERS = extensions.string_types.keys() - {oid for kind in (*_KEPT, extensions.FLOAT) for oid in kind.values}
_TYPES = (
    extensions.new_type(extensions.FLOAT.values, "FLOAT", extensions.DECIMAL),
    extensions.new_type(tuple(_OTHERS), "TEXT", lambda value, _cursor: value),
)


def connect(config: DatabaseConfig) -> extensions.connection:
    """Connect to PostgreSQL. Raises AuditError when that fails."""
    failure: psycopg2.Error | None = None
    names = ",".join(host.name for host in config.hosts)
    reached = {
        "host": names,
        "port": ",".join(str(host.port) for host in config.hosts),
        # libpq takes whole seconds
        "connect_timeout": str(math.ceil(config.connect_timeout)),
        **config.connect_arguments(),
    }
    for password in config.passwords():
        try:
            connection: extensions.connection = psycopg2.connect(**reached, password=password)  # type: ignore[call-overload]
        except psycopg2.Error as error:
            failure = error
        else:
            for kind in _TYPES:
                extensions.register_type(kind, connection)
            return connection
    # without the driver's text: libpq quotes connection strings in some of them
    raise AuditError(f"PostgreSQL at {names} cannot be reached as {config.user}: check PSQL_*.") from failure


class Rows:
    """Reads the rows over a connection, and keeps what is known of the tables that it was asked for.

    ``timeout`` is the most seconds that one relation may take for one batch.
    """

    def __init__(self, connection: extensions.connection, timeout: float) -> None:
        self.tables = Tables()
        self.relations: dict[int, Relation] = {}
        self._connection = connection
        milliseconds = max(1, round(timeout * 1000))
        # a table that is locked must not hold up the others for long, and where rows would be hidden PostgreSQL refuses
        self._limits = (
            f"SET LOCAL statement_timeout = {milliseconds}; SET LOCAL lock_timeout = '5s'; SET LOCAL row_security = off"
        )

    def resolve(self, names: Iterable[str], *, discover: bool = False) -> None:
        """Find the relations of these names, and (``discover``) every other table of the same shape."""
        with self._transaction("READ ONLY") as cursor:
            lookup(cursor, names, self.tables)
            relations = list(self.tables.relations.values())
            if discover:
                cursor.execute(_SHAPED)
                relations += (_relation(found, self.tables) for found in cursor.fetchall() if is_table(found[1]))
        self.relations.update((relation.oid, relation) for relation in relations)

    @contextlib.contextmanager
    def snapshot(self, namespace: str | None, count: Callable[[int], object]) -> Iterator[Iterator[Row]]:
        """Give all rows that can be a resource's in the byte order of their ids.

        A relation that cannot be read (further) is added to ``tables.unreadable`` with the reason, before any later row
        is given.
        """
        # "0" follows "/"
        bounds = {"begin": f"{namespace}/", "end": f"{namespace}0"}
        condition = f"{_SHAPE} {_WITHIN if namespace else ''} {_ORDER}"
        with self._transaction("ISOLATION LEVEL REPEATABLE READ READ ONLY") as cursor:
            cursor.execute(self._limits)
            for relation in self._readable():
                declaration = f"DECLARE audit_{relation.oid} NO SCROLL CURSOR FOR {selection(relation)} {condition}"
                with self._attempt(cursor, relation):
                    cursor.execute(declaration, bounds)
            yield heapq.merge(*(self._stream(relation, count) for relation in self._readable()), key=id_of)

    def again(self, ids: Iterable[str]) -> Iterator[Row]:
        """Give the rows with these ids as they are now, in the order of the ids; fills ``tables.unreadable``."""
        remaining = iter(ids)
        while batch := list(itertools.islice(remaining, _BATCH)):
            found: list[Row] = []
            with self._transaction("READ ONLY") as cursor:
                cursor.execute(self._limits)
                for relation in self._readable():
                    with self._attempt(cursor, relation):
                        found += rows_with(cursor, relation, batch)
            yield from sorted(found, key=id_of)

    def _readable(self) -> list[Relation]:
        return [relation for oid, relation in self.relations.items() if oid not in self.tables.unreadable]

    def _stream(self, relation: Relation, count: Callable[[int], object]) -> Iterator[Row]:
        with self._connection.cursor() as cursor:
            while True:
                batch: list[tuple[Any, ...]] = []
                # each fetch for itself, so that its failure leaves the other cursors
                with self._attempt(cursor, relation):
                    cursor.execute(f"FETCH FORWARD {_FETCH} FROM audit_{relation.oid}")
                    batch = cursor.fetchall()
                if not batch:
                    return
                count(len(batch))
                for values in batch:
                    if is_id(values[0]):
                        yield _row(relation, values)

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
    def _attempt(self, cursor: extensions.cursor, relation: Relation) -> Iterator[None]:
        """Run statements on a relation; when one fails the relation is unreadable, and the transaction goes on.

        Raises the driver's error when it is about the connection: then no relation can be read.
        """
        cursor.execute("SAVEPOINT audit")
        try:
            yield
        except psycopg2.Error as error:
            code = error.pgcode
            if not code or cursor.connection.closed:
                raise
            cursor.execute("ROLLBACK TO SAVEPOINT audit")
            # in our words: PostgreSQL's own text may hold values of rows
            self.tables.unreadable[relation.oid] = f"{_REASONS.get(code, 'PostgreSQL refuses it')} (SQLSTATE {code})"
        cursor.execute("RELEASE SAVEPOINT audit")


def lookup(cursor: extensions.cursor, names: Iterable[str], tables: Tables) -> None:
    """Find the relations of these names (schema.table), in the current transaction, and add them to ``tables``."""
    for name in sorted(filter(None, names)):
        schema, _, table = name.partition(".")
        cursor.execute(_NAMED, {"schema": schema, "table": table})
        found = cursor.fetchone()
        if found:
            tables.relations[name] = _relation(found, tables)


def rows_with(cursor: extensions.cursor, relation: Relation, ids: list[str]) -> list[Row]:
    """Return the rows with exactly these ids as a relation shows them now."""
    cursor.execute(f"{selection(relation)} {WITH_IDS}", {"ids": ids})
    # "=" of a collation that takes two spellings for one finds more
    wanted = set(ids)
    return [_row(relation, values) for values in cursor.fetchall() if values[0] in wanted]


def selection(relation: Relation) -> str:
    """Return the select list and FROM for the rows of a relation."""
    return f"{_SELECTION} {quoted(relation.name)}"


def _relation(found: tuple[Any, ...], tables: Tables) -> Relation:
    oid, name, estimate, trouble = found
    if trouble:
        tables.unreadable[oid] = trouble
    # -1: it was never counted
    return Relation(oid, name, max(0.0, float(estimate)))


def _row(relation: Relation, values: tuple[Any, ...]) -> Row:
    row, name, age, country, table, place = values
    return Row(row, relation, (table, place), (name, age, country))

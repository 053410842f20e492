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
from postgres_writer.audit.resources import ID
from postgres_writer.config.settings import DatabaseConfig
from postgres_writer.core.row import is_table
from postgres_writer.database.qualified import qualified, quoted
from postgres_writer.errors import AuditError

_BATCH = 2000

# by the catalogue, which shows a relation to anyone: to look a name up fails on a schema that the role may not use
_LOOKUP = qualified("""
    SELECT c.oid::int8, n.nspname::text || '.' || c.relname::text,
    CASE WHEN NOT ((c.relkind = 'r') OR (c.relkind = 'p')) THEN 'it is not an ordinary or partitioned table'
    WHEN row_security_active(c.oid) THEN 'its row-level security applies to the role, which needs BYPASSRLS'
    ELSE (SELECT 'its column id is of type ' || format_type(a.atttypid, NULL) || ', not a text type'
        FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
        WHERE (a.attrelid = c.oid) AND (a.attname = 'id') AND NOT a.attisdropped AND (t.typcategory <> 'S')) END
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE (((n.nspname::text || '.') || c.relname::text) = ANY (%(names)s::text[])) OR %(discover)s
    AND ((c.relkind = 'r') OR (c.relkind = 'p')) AND NOT c.relispartition AND (n.nspname !~ '^pg_|^information_schema$')
    AND 4 = (SELECT count(*) FROM pg_catalog.pg_attribute AS a WHERE (a.attrelid = c.oid) AND NOT a.attisdropped
        AND (a.attname = ANY (ARRAY['id', 'name', 'age', 'country'])))
    AND EXISTS (SELECT FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_attribute AS a ON (a.attrelid = c.oid)
        AND (a.attnum = i.indkey[0]) JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid WHERE (i.indrelid = c.oid)
        AND i.indisunique AND (i.indnkeyatts = 1) AND (a.attname = 'id') AND (t.typcategory = 'S'))
""")
# The rows of other programs are left out by the server: a table may hold millions of them. A namespace at the start of
# the expression can be looked up in an index.
_SHAPE = qualified('WHERE id::text COLLATE "C" ~ %(shape)s ORDER BY id::text COLLATE "C"')
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
_TYPES = (
    extensions.new_type(tuple(extensions.string_types), "TEXT", lambda value, _cursor: value),
    extensions.new_type(extensions.FLOAT.values, "FLOAT", extensions.DECIMAL),
    *(extensions.INTEGER, extensions.LONGINTEGER, extensions.DECIMAL, extensions.BOOLEAN),
)


def connect(config: DatabaseConfig) -> extensions.connection:
    """Connect to PostgreSQL. Raises AuditError when that fails."""
    names = ",".join(host.name for host in config.hosts)
    reached = {
        "host": names,
        "port": ",".join(str(host.port) for host in config.hosts),
        # libpq takes whole seconds
        "connect_timeout": str(math.ceil(config.connect_timeout)),
        **config.connect_arguments(),
    }
    for password in config.passwords():
        with contextlib.suppress(psycopg2.Error):
            connection: extensions.connection = psycopg2.connect(**reached, password=password)  # type: ignore[call-overload]
            for kind in _TYPES:
                extensions.register_type(kind, connection)
            return connection
    # without the driver's text: libpq quotes connection strings in some of them
    raise AuditError(f"PostgreSQL at {names} cannot be reached as {config.user}: check PSQL_*.")


class Rows:
    """Reads rows, and keeps what it learns of ``tables``; ``timeout``: the most seconds for a batch of one relation."""

    def __init__(self, connection: extensions.connection, timeout: float) -> None:
        self.tables = Tables()
        self._connection = connection
        milliseconds = max(1, round(timeout * 1000))
        # a table that is locked must not hold up the others for long, and where rows would be hidden PostgreSQL refuses
        self._limits = (
            f"SET LOCAL statement_timeout = {milliseconds}; SET LOCAL lock_timeout = '5s'; SET LOCAL row_security = off"
        )

    def resolve(self, names: Iterable[str], *, discover: bool = False) -> None:
        """Find the relations of these names, as ``lookup`` does."""
        with self._transaction("READ ONLY") as cursor:
            lookup(cursor, names, self.tables, discover=discover)

    @contextlib.contextmanager
    def snapshot(self, namespace: str | None, count: Callable[[int], object]) -> Iterator[Iterator[Row]]:
        """Give all rows that can be a resource's in the byte order of their ids.

        A relation that cannot be read (further) is added to ``tables.unreadable`` with the reason, before any later row
        is given.
        """
        shape = {"shape": f"^{namespace or '[a-z0-9.-]+'}/[a-z0-9.-]+$"}
        with self._transaction("ISOLATION LEVEL REPEATABLE READ READ ONLY") as cursor:
            cursor.execute(self._limits)
            for relation in self._readable():
                declare = f"DECLARE audit_{relation.oid} NO SCROLL CURSOR FOR"
                with self._attempt(cursor, relation):
                    cursor.execute(f"{declare} {_SELECTION} {quoted(relation.name)} {_SHAPE}", shape)
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
        return [relation for name, relation in self.tables.relations.items() if name not in self.tables.unreadable]

    def _stream(self, relation: Relation, count: Callable[[int], object]) -> Iterator[Row]:
        with self._connection.cursor() as cursor:
            while True:
                batch: list[tuple[Any, ...]] = []
                # each fetch for itself, so that its failure leaves the other cursors
                with self._attempt(cursor, relation):
                    cursor.execute(f"FETCH FORWARD {_BATCH} FROM audit_{relation.oid}")
                    batch = cursor.fetchall()
                if not batch:
                    return
                count(len(batch))
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
            self.tables.unreadable[relation.name] = f"{_REASONS.get(code, 'PostgreSQL refuses it')} (SQLSTATE {code})"
        cursor.execute("RELEASE SAVEPOINT audit")


def lookup(cursor: extensions.cursor, names: Iterable[str], tables: Tables, *, discover: bool = False) -> None:
    """Add the relations of these names (schema.table), in the current transaction, to ``tables``.

    ``discover``: and every other table of the same shape, with a name that a resource can give.
    """
    wanted = set(filter(None, names))
    cursor.execute(_LOOKUP, {"names": sorted(wanted), "discover": discover})
    for oid, name, trouble in cursor.fetchall():
        if name in wanted or is_table(name):
            tables.relations[name] = Relation(oid, name)
            if trouble:
                tables.unreadable[name] = trouble


def rows_where(cursor: extensions.cursor, relation: Relation, condition: str, parameters: Any) -> list[Row]:
    """Return the rows that a relation shows now and that meet a condition, which may lock them."""
    cursor.execute(f"{_SELECTION} {quoted(relation.name)} {condition}", parameters)
    return _rows(relation, cursor.fetchall())


def rows_with(cursor: extensions.cursor, relation: Relation, ids: list[str]) -> list[Row]:
    """Return the rows with exactly these ids as a relation shows them now."""
    # "=" of a collation that takes two spellings for one finds more
    wanted = set(ids)
    return [row for row in rows_where(cursor, relation, WITH_IDS, {"ids": ids}) if row.id in wanted]


def _rows(relation: Relation, selected: list[tuple[Any, ...]]) -> list[Row]:
    return [Row(about, relation, (table, place), tuple(values)) for about, *values, table, place in selected]

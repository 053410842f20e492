"""The statements as values: text with named parameters. Table names go through Identifier, values are never part of it.

Every statement that writes carries its own deadline, compared with the database's clock, and is sent together with
its commit in one message: an abandoned request can then not write later, wherever its process was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

from psycopg2.sql import SQL, Composable, Composed, Identifier, Literal

from postgres_writer.deadlines import LOCK_SHARE


@dataclass(frozen=True, eq=False)
class Statement:
    """One message for the server.

    ``parameters`` are the names of its parameters, in order, if it is to be prepared; otherwise empty. ``tables`` are
    those that it names, ``writes`` says whether it inserts, updates or deletes rows. A statement to be prepared is the
    same object each time for the same table, so that a session finds what it prepared.
    """

    text: Composed
    parameters: tuple[str, ...] = ()
    tables: frozenset[str] = frozenset()
    writes: bool = False


# IS TRUE: a row with a NULL must compare as different; a NULL here would look like a row that was not found
SAME = SQL('(name::text COLLATE "C" = {name} AND age = {age} AND country::text COLLATE "C" = {country}) IS TRUE')
"""Byte-wise, so that a collation or a citext column which takes two spellings for one hides no difference."""

OWN = SQL('(id = {id} AND id::text COLLATE "C" = {id})')
"""The first half lets the unique index find the row, the second excludes another row whose id merely compares equal."""

_WRITE = SQL(
    "WITH cur AS MATERIALIZED (SELECT {same} AS same FROM {table} WHERE {own}), "
    "put AS (INSERT INTO {table} AS held (id, name, age, country) SELECT {id}, {name}, {age}, {country} "
    # compared before the insert: ON CONFLICT DO UPDATE ... WHERE would lock the row and write WAL for nothing
    "WHERE NOT EXISTS (SELECT 1 FROM cur WHERE same) AND clock_timestamp() < to_timestamp({until}) "
    "ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name, age = EXCLUDED.age, country = EXCLUDED.country "
    # a row whose id merely compares equal is not ours: nothing is updated then, and nothing returned
    'WHERE held.id::text COLLATE "C" = {id} '
    # under another id, set by a trigger, the row would belong to no resource
    'RETURNING CASE WHEN id::text COLLATE "C" = {id} THEN {same} '
    "ELSE ('postgres-writer:renamed ' || clock_timestamp()::text)::boolean END AS same) "
    "SELECT (SELECT same FROM cur), (SELECT same FROM put), clock_timestamp() < to_timestamp({until})"
)
_TAKES_ROWS = SQL(
    # 8 is 1 << CMD_INSERT; a view takes rows if it is simple or has a trigger. A table is not asked, because the
    # question waits for its lock, nor a foreign one, whose wrapper may fail to answer.
    "CASE WHEN c.relkind IN ('r', 'p', 'f') THEN true"
    " WHEN c.relkind = 'v' THEN pg_relation_is_updatable(c.oid, true) & 8 = 8 ELSE false END"
)
_HIDES = SQL(
    "(SELECT row_security_active(c.oid)"
    # a simple view shows only what its condition, and the policies for its owner, let through
    " OR CASE WHEN c.relkind = 'v' THEN pg_relation_is_updatable(c.oid, false) & 8 = 8 ELSE false END"
    " FROM pg_catalog.pg_class c WHERE c.oid = {regclass}::regclass)"
)
# The same without a look into the catalogue, since each delete asks. It takes in partitioned tables, which have no file
# as views have none: where nothing was deleted, the index of those is asked in vain.
_MAY_HIDE = SQL("row_security_active({regclass}::regclass) OR pg_relation_filenode({regclass}::regclass) IS NULL")

# clock_timestamp() throughout: now() stays at the moment the message began, however long a lock was waited for
_REMOVE = SQL(
    "WITH gone AS (DELETE FROM {table} WHERE {own} AND clock_timestamp() < to_timestamp({until}) RETURNING 1) "
    # one snapshot for the whole statement: the second EXISTS still sees the row that the first part deletes, so a row
    # that was seen, in time, and not deleted was kept by a trigger, a rule or row-level security
    "SELECT EXISTS (SELECT 1 FROM gone), EXISTS (SELECT 1 FROM {table} WHERE {own}), {hidden}, "
    "clock_timestamp() < to_timestamp({until})"
)
# for a move: a row that policies hide would be left behind as a second one, so the whole message fails
_NEVER_UNSEEN = SQL(
    "CASE WHEN ({may_hide}) AND NOT EXISTS (SELECT 1 FROM {table} WHERE {own}) "
    "AND clock_timestamp() < to_timestamp({until}) "
    "THEN ('postgres-writer:unseen ' || clock_timestamp()::text)::boolean END"
)
# such a table cannot hold a row of ours, and its foreign server or rules must not hold up the deletion
_UNFIT = SQL(
    "SELECT ('postgres-writer:unfit ' || clock_timestamp()::text)::integer FROM pg_catalog.pg_class c "
    "WHERE c.oid = {regclass}::regclass AND (c.relkind = 'f' OR NOT {takes_rows})"
)

_PRESENT = SQL(
    # whether a row may be hidden costs a look into the catalogue, so it is asked only if none is seen
    "WITH seen AS MATERIALIZED (SELECT 1 FROM {table} WHERE {own}) "
    "SELECT EXISTS (SELECT 1 FROM seen), CASE WHEN EXISTS (SELECT 1 FROM seen) THEN false ELSE {hides} END"
)
_PROBE = SQL(
    "WITH put AS (INSERT INTO {table} (id, name, age, country) VALUES ({id}, {name}, {age}, {country}) "
    "ON CONFLICT (id) DO NOTHING RETURNING id) "
    # an insert that a trigger swallows reads as taken: it proves nothing, and doubt must keep the finalizer
    "SELECT ('postgres-writer:' || CASE WHEN EXISTS (SELECT 1 FROM put WHERE id::text COLLATE \"C\" = {id}) "
    "THEN 'free ' ELSE 'taken ' END || clock_timestamp()::text)::integer"
)
# without a cast the value takes the column's type, as it did for the unique index
_EQUAL = SQL("SELECT EXISTS (SELECT 1 FROM {table} WHERE id = %(id)s AND NOT {own})")

GUARD = "postgres-writer:"
"""A guard makes the server fail with this word in its message, which rolls the whole message back.

The cast hangs on a value of the row or the clock: a constant would be folded, and so fail, when it is planned.
"""
_UNDELETED = SQL(
    "SELECT ('postgres-writer:undeleted ' || id::text)::integer FROM {table} WHERE {own} "
    # a row that is left only because the deadline has passed is reported by the guard _LATE, as late and not as kept
    "AND clock_timestamp() < to_timestamp({until})"
)
_LATE = SQL(
    # the deletes of the move have run by now: if the deadline passed meanwhile, the write did nothing, and they must
    # be rolled back
    "SELECT ('postgres-writer:late ' || clock_timestamp()::text)::integer "
    "WHERE clock_timestamp() >= to_timestamp({until})"
)
_SWALLOWED = SQL(
    # the write reports this itself, but the driver gives only the last result of a message
    "SELECT ('postgres-writer:swallowed ' || clock_timestamp()::text)::integer "
    "WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE {own} AND {same})"
)

BUSY_GUARD, READ_ONLY_GUARD = "busy", "readonly"
LOCK = Statement(
    SQL(
        "SELECT CASE "
        # a standby shows what the primary was some time ago, and gives its locks to no one but its own sessions
        "WHEN current_setting('transaction_read_only')::boolean "
        "THEN ('postgres-writer:readonly ' || clock_timestamp()::text)::integer "
        "WHEN NOT pg_try_advisory_xact_lock(%(key)s::bigint) "
        "THEN ('postgres-writer:busy ' || clock_timestamp()::text)::integer END"
    ).format(),
    ("key",),
)
"""Take the advisory lock of an id until the transaction ends, or fail, so that nothing of the message is run.

It is a statement of its own before all others: a statement sees what was committed when it began, so one that took
the lock itself could miss what the transaction that held the lock until then has written.
"""

FUNCTIONS = (
    "pg_try_advisory_xact_lock",
    "to_timestamp",
    "row_security_active",
    "pg_relation_filenode",
    "pg_relation_is_updatable",
)
"""The functions of PostgreSQL without which a message cannot be run; what a new connection asks needs some more."""

_TYPES = {
    "key": "bigint",
    "id": "text",
    "name": "text",
    "age": "integer",
    "country": "text",
    "until": "double precision",
}

_SURVEY = SQL(
    "SELECT c.oid IS NOT NULL,"
    " coalesce(g.used AND g.reads AND g.writes, false),"
    # a DELETE reads the id in its condition, for which it needs SELECT besides
    # https://www.postgresql.org/docs/current/sql-delete.html
    " coalesce(g.used AND g.finds AND has_table_privilege(c.oid, 'DELETE'), false),"
    " c.oid IS NULL OR {takes_rows},"
    # ON CONFLICT fails on a deferrable constraint, also beside another one
    " CASE WHEN c.relkind IN ('r', 'p') THEN (SELECT CASE WHEN bool_or(NOT i.indimmediate) THEN 'deferrable'"
    " WHEN count(*) > 0 THEN 'usable' ELSE 'missing' END"
    " FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]"
    # the indexes from which ON CONFLICT (id) can infer its constraint: valid, on id alone, not partial
    " WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indnkeyatts = 1 AND i.indpred IS NULL"
    " AND a.attname = 'id') WHEN c.relkind = 'f' THEN 'foreign' ELSE 'unknown' END,"
    " coalesce(row_security_active(c.oid), false)"
    " FROM (SELECT %(schema)s::text AS schema, %(name)s::text AS name, %(quoted)s::text AS quoted) w"
    # joined from the left: a table that does not exist gives a row too, which says so
    " LEFT JOIN pg_catalog.pg_class c ON c.oid = CASE WHEN w.schema IS NULL THEN coalesce("
    " to_regclass(w.quoted)::oid,"
    # A schema of the search path without USAGE is skipped silently: its table looks dropped, but is not.
    " (SELECT h.oid FROM pg_catalog.pg_class h JOIN pg_catalog.pg_namespace n ON n.oid = h.relnamespace"
    "  WHERE h.relname = w.name AND NOT has_schema_privilege(n.oid, 'USAGE')"
    "  AND n.nspname = ANY (string_to_array(replace(replace(replace("
    "   current_setting('search_path'), '\"', ''), ' ', ''), '$user', current_user), ','))"
    "  LIMIT 1))"
    # by the catalogue: to_regclass fails on a schema that the role may not use
    " ELSE (SELECT q.oid FROM pg_catalog.pg_class q JOIN pg_catalog.pg_namespace n ON n.oid = q.relnamespace"
    "  WHERE q.relname = w.name AND n.nspname = w.schema LIMIT 1) END"
    # Column by column, since a grant may be given by column; of a table with other columns the grant as a whole.
    " LEFT JOIN LATERAL (SELECT has_schema_privilege(c.relnamespace, 'USAGE') AS used,"
    " coalesce(bool_and(has_column_privilege(c.oid, a.attnum, 'SELECT')) FILTER (WHERE a.attname = 'id'),"
    " has_table_privilege(c.oid, 'SELECT')) AS finds,"
    " coalesce(bool_and(has_column_privilege(c.oid, a.attnum, 'SELECT')), has_table_privilege(c.oid, 'SELECT'))"
    " AS reads,"
    " coalesce(bool_and(has_column_privilege(c.oid, a.attnum, 'INSERT')"
    " AND (a.attname = 'id' OR has_column_privilege(c.oid, a.attnum, 'UPDATE'))),"
    " has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE')) AS writes"
    " FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attname IN ('id', 'name', 'age', 'country')"
    ") g ON true"
)

HELLO = (
    "SELECT extract(epoch FROM clock_timestamp())::double precision, current_schemas(false)::text[], "
    "pg_catalog.current_setting('transaction_read_only')::boolean"
)
"""What a new connection asks: the server's clock, the schemas in which it looks for tables, whether it is read-only."""


_COMMIT = "synchronous_commit"
_CHECK = "client_connection_check_interval"
_CHECK_MILLISECONDS = 20
"""Longer than nearly every statement runs, and far shorter than Metacontroller needs to call again."""


def settings(statement_timeout: float, *, local: bool) -> str:
    """Set all that must not be left to the role (``statement_timeout`` in seconds); ``local``: for one transaction.

    A transaction that takes the lock of an id must see everything committed until then, hence read committed. Commits
    wait for the disk even if the role says ``off``: a crash would bring back a row whose resource is gone.

    The server looks, while a statement runs, whether its client is still there, and ends the statement if not. The
    setting came with PostgreSQL 14; on Windows the server refuses it.
    https://www.postgresql.org/docs/current/runtime-config-connection.html
    """
    milliseconds, scope = int(statement_timeout * 1000), str(local).lower()
    known = f"current_setting('{_CHECK}', true) IS NOT NULL AND version() !~* '(visual c|mingw|windows)'"
    values = {
        # before the first SELECT, after which a transaction's isolation cannot be changed any more
        "transaction_isolation" if local else "default_transaction_isolation": "'read committed'",
        "statement_timeout": milliseconds,
        "lock_timeout": int(milliseconds * LOCK_SHARE),
        # planning is most of a short statement's cost, and the plan never depends on the values
        **({} if local else {"plan_cache_mode": "force_generic_plan"}),
    }
    sets = "; ".join(f"SET {'LOCAL ' if local else ''}{name} = {value}" for name, value in values.items())
    return (
        f"{sets}; SELECT CASE WHEN {known} THEN set_config('{_CHECK}', '{_CHECK_MILLISECONDS}', {scope}) END, "
        f"CASE current_setting('{_COMMIT}') WHEN 'off' THEN set_config('{_COMMIT}', 'on', {scope}) END"
    )


def lock_key(row: str) -> int:
    """Give the key of the advisory lock of a row's id: the first 8 bytes of its BLAKE2b, signed, big-endian.

    Never change it: servers of two releases run side by side during an upgrade, and both must take the same lock.
    """
    return int.from_bytes(blake2b(row.encode()).digest()[:8], "big", signed=True)


def identifier(table: str) -> Identifier:
    """Quote ``table`` or ``schema.table``, in exact case."""
    return Identifier(*table.split("."))


@lru_cache(maxsize=4096)
def write(table: str) -> Statement:
    """Write the row to ``table``: gives (was the same before, is the same after a write, was in time)."""
    return Statement(_typed(_WRITE, table), ("id", "name", "age", "country", "until"), frozenset({table}), writes=True)


@lru_cache(maxsize=4096)
def remove(table: str) -> Statement:
    """Delete the row from ``table``: gives (deleted, was seen, one that was not seen may be hidden, was in time)."""
    return Statement(_typed(_REMOVE, table), ("id", "until"), frozenset({table}), writes=True)


def remove_unlisted(table: str) -> Statement:
    """Do the same for a table that may never have held the row; a guard excludes what cannot take rows of ours."""
    text = SQL("; ").join([_typed(_UNFIT, table), _typed(_REMOVE, table)])
    return Statement(text, tables=frozenset({table}), writes=True)


def present(table: str) -> Statement:
    """Ask whether the row is in ``table``: gives (seen, not seen but may be hidden)."""
    return Statement(_typed(_PRESENT, table), tables=frozenset({table}))


def probe(table: str) -> Statement:
    """Ask the unique index, from which nothing is hidden, whether the row could be inserted into ``table``.

    Never inserts it: the guard says ``free`` or ``taken`` and rolls back.
    """
    return Statement(_typed(_PROBE, table), tables=frozenset({table}), writes=True)


def equal(table: str) -> Statement:
    """Ask whether ``table`` has another row whose id merely compares equal: gives (found,)."""
    return Statement(_typed(_EQUAL, table), tables=frozenset({table}))


def survey(table: str) -> Statement:
    """Ask whether a table exists and what the role can do with it: gives the fields of Access."""
    return Statement(_SURVEY.format(takes_rows=_TAKES_ROWS), tables=frozenset({table}))


def move(table: str, vacate: tuple[str, ...]) -> Statement:
    """Delete the row from every table of ``vacate``, then write it to ``table``; all in one message or nothing.

    In this order, because two spellings (``students``, ``public.students``) may be one table. The guards fail, and so
    roll back, when a delete or the write was swallowed or the deadline has passed on the way.
    """
    deletes = [_typed(part, old, _NEVER_UNSEEN) for old in vacate for part in (_REMOVE, _UNDELETED)]
    writes = [_typed(part, table) for part in (_WRITE, _LATE, _SWALLOWED)]
    text = SQL("; ").join([*deletes, *writes, SQL("SELECT true")])
    return Statement(text, tables=frozenset({table, *vacate}), writes=True)


def _typed(text: SQL, table: str, hidden: SQL = _MAY_HIDE) -> Composed:
    """Fill a statement in for a table; ``hidden`` is what a delete is to say of a row that it did not see."""
    parts: dict[str, Composable] = {name: SQL(f"%({name})s::{kind}") for name, kind in _TYPES.items()}
    quoted = Literal(".".join(f'"{part}"' for part in table.split(".")))
    parts |= {
        "table": identifier(table),
        "regclass": quoted,
        "takes_rows": _TAKES_ROWS,
        "own": OWN.format(**parts),
        "same": SAME.format(**parts),
        "hides": _HIDES.format(regclass=quoted),
        "may_hide": _MAY_HIDE.format(regclass=quoted),
    }
    return text.format(hidden=hidden.format(**parts), **parts)


def prepared(text: str, parameters: tuple[str, ...], name: str) -> tuple[str, str]:
    """Turn a statement with named parameters into its PREPARE and its EXECUTE (with the same named parameters)."""
    body = text % {parameter: f"${number}" for number, parameter in enumerate(parameters, 1)}
    types = ", ".join(_TYPES[parameter] for parameter in parameters)
    values = ", ".join(f"%({parameter})s" for parameter in parameters)
    return f"PREPARE {name} ({types}) AS {body}", f"EXECUTE {name} ({values})"

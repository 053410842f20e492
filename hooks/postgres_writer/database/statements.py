"""The messages as values: lock, act, look.

A message is sent together with its commit. The first statement takes the lock of the id, the act changes what differs,
and the last one, the look, asks the tables what is true now: what is not as it must be fails a guard, and the whole
message is rolled back. So neither a trigger nor a rule, a cascade, a deferred constraint or a child of the table can
make the answer wrong. Act and look carry deadlines, compared with the database's clock: an abandoned request can then
not write later, wherever its process was stopped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from secrets import token_hex

from postgres_writer.core.refusals import Guard
from postgres_writer.core.row import ID_COLUMN
from postgres_writer.database.qualified import qualified, quoted

WORD = token_hex(8)
"""A guard fails with this word in its message. Random in every process, so that no value can imitate a guard."""

Names = tuple[str, ...]
_TYPES = {"by": "float8", "columns": "text[]", "doc": "jsonb", "key": "int8", "places": "jsonb", "until": "float8"}
_TYPES |= {"update": "bool", **dict.fromkeys(("id", "id_column", "name", "schema", "word"), "text")}
"""The parameters: ``doc`` holds the values by column, ``until`` and ``by`` are Unix times (start-by and write-by)."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement with named parameters; ``often``: it is worth preparing. Equal where the text is equal."""

    text: str
    often: bool = False

    def direct(self) -> str:
        """Return the text to be sent as it is."""
        return self.text % {name: f"(%({name})s)::pg_catalog.{kind}" for name, kind in _TYPES.items()}

    def prepared(self) -> tuple[str, str]:
        """Return its PREPARE and its EXECUTE, with the same named parameters."""
        names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", self.text)))
        body = self.text % {name: f"${number}" for number, name in enumerate(names, 1)}
        # a hash: behind a pooler a number would run what another client prepared under it, maybe for another table
        called = f"pgw_{blake2b(body.encode(), digest_size=12).hexdigest()}"
        types = ", ".join(f"pg_catalog.{_TYPES[name]}" for name in names)
        values = ", ".join(f"%({name})s" for name in names)
        return f"PREPARE {called} ({types}) AS {body}", f"EXECUTE {called} ({values})"


@dataclass(frozen=True, slots=True)
class Message:
    """Statements that are sent together with their commit; the last one gives the result.

    It names ``tables``; ``writes``: it may change rows; ``locks``: it takes the lock of the id.
    """

    parts: tuple[Statement, ...]
    tables: frozenset[str]
    writes: bool = False
    locks: bool = True


def _guard(otherwise: Guard, *cases: tuple[str, Guard], detail: str = "clock_timestamp()") -> str:
    """Give an expression that fails with the word and the guard of the first case that holds in its message."""
    whens = " ".join(f"WHEN {when} THEN ' {guard.value} '" for when, guard in cases)
    name = f"CASE {whens} ELSE ' {otherwise.value} ' END" if cases else f"' {otherwise.value} '"
    # it hangs on a row or the clock: a constant would fail when it is planned
    return f"(%(word)s || {name} || {detail}::text)::int4"


# a wrong look after the start-by is late: the act may have done nothing
_UNSOUND = (("NOT {in_time}", Guard.LATE), ("NOT {is_table}", Guard.KIND))
_WRONG = (("l.n = 0", Guard.MISSING), ("l.n > 1", Guard.DOUBLE), ("NOT l.same", Guard.ALTERED))

# ordinary and partitioned tables: a view has no file, and neither has a foreign table, be it a partition
_IS_TABLE = (
    "(pg_relation_filenode({regclass}::regclass) IS NOT NULL OR pg_get_partkeydef({regclass}::regclass) IS NOT NULL)"
)
_FRAGMENTS = {
    "read_only": _guard(Guard.READ_ONLY),
    "busy": _guard(Guard.BUSY),
    "no_table": _guard(Guard.KIND),
    "kept": _guard(Guard.KEPT, *_UNSOUND),
    "wrong": _guard(Guard.KEPT, *_UNSOUND, *_WRONG, detail="l.n"),
    # x.{id} would call a function id(x) where the table lacks the column; no column is called "-"
    "row": '(SELECT {columns} FROM {table} AS "-" WHERE {own}) AS x',
    # the first half lets the index find the row, the second excludes another row whose id merely compares equal
    "own": '({id} = %(id)s AND {id}::text COLLATE "C" = %(id)s)',
    # clock_timestamp(): now() stays at the moment the message began, however long a lock was waited for
    "in_time": "clock_timestamp() < to_timestamp(%(until)s)",
    "written_in_time": "clock_timestamp() < to_timestamp(%(by)s)",
    "is_table": _IS_TABLE,
    "was_table": _IS_TABLE.replace("regclass}", "old_regclass}"),
    # by image: no collation, type or setting takes two values for one, and what has no equality (json) can be compared
    "same": "(ROW({current})::record *= ROW({wanted})::record)",
    "doc": "jsonb_populate_record(NULL::{table}, %(doc)s) AS d",
    # a crash must not bring back a row whose resource is gone; a stronger setting of the role stays
    "durable": (
        "CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', true) END"
    ),
}


def _template(text: str) -> str:
    """Put the fragments into a statement, each of which may hold later ones; what speaks of a table stays."""
    for name, fragment in _FRAGMENTS.items():
        text = text.replace(f"{{{name}}}", fragment)
    return qualified(text)


_LOCK = _template("""
    SELECT CASE WHEN current_setting('transaction_read_only')::bool THEN {read_only}
    WHEN NOT pg_try_advisory_xact_lock(%(key)s) THEN {busy} END
""")
LOCK = Statement(_LOCK, often=True)
"""Take the advisory lock of an id until the transaction ends, or fail, so that nothing of the message is run.

It is a statement of its own: one sees what was committed when it began, so one that took the lock itself could miss
what its last holder has written. A standby is refused: it shows the past, and gives its locks only to its own sessions.
"""
SEE_ALL = Statement("SET LOCAL row_security = off; SET LOCAL transaction_read_only = on")
"""PostgreSQL then refuses to look where policies apply, instead of hiding rows (before the act it would break triggers
that use side tables with policies), and nothing can change what the look sees: not a function that it calls, such as
the check of a domain, and not a trigger that was deferred again until the commit."""
FIRE_DEFERRED = Statement("SET CONSTRAINTS ALL IMMEDIATE")  # deferred triggers run before the look and not after it

_DELETE = _template('DELETE FROM {table} AS "-" WHERE {own} AND {in_time}')
# Compared first, so that an unchanged row costs no WAL. INSERT only where the row is not there: ON CONFLICT alone would
# fire BEFORE INSERT triggers and use up serials at each update.
_WRITE = _template("""
    WITH d AS MATERIALIZED (SELECT {wanted} FROM {doc}),
    cur AS MATERIALIZED (SELECT {same} AS same FROM {row}, d), {update}
    put AS (
        INSERT INTO {table} AS x ({columns}) SELECT {values} FROM d WHERE NOT EXISTS (SELECT FROM cur) AND {in_time}
        ON CONFLICT ({id}) DO {conflict}
    )
    SELECT set_config('pgw.was', CASE WHEN NOT EXISTS (SELECT FROM cur) THEN 'inserted'
    WHEN {differs} THEN 'updated' ELSE 'unchanged' END, true)
""")
_UPDATE = _template("upd AS (UPDATE {table} AS x SET {updates} FROM d WHERE {own} AND {differs} AND {in_time}),")
_CONFLICT = _template("""UPDATE SET {excluded} WHERE x.{id}::text COLLATE "C" = %(id)s""")
# no subplan in the branch that fails: it would be started in any case
_LOOK = _template("""
    SELECT CASE WHEN l.n = 1 AND l.same AND {is_table} AND {written_in_time}{vacated}
    THEN current_setting('pgw.was', true) ELSE {wrong}::text END, {durable}
    FROM (SELECT count(*) AS n, bool_and({same}) AS same FROM {row}, {doc}) AS l
""")
# A table and one that inherits from it (a partition, too) show the same row. By the catalogue: ctid and tableoid need
# more than grants on the columns.
_VACATED = _template("""
    AND {was_table} AND (SELECT count(*) FROM {old} AS "-" WHERE {own}) <= (
        WITH RECURSIVE kin AS (
            SELECT i.inhrelid AS child, i.inhparent AS parent FROM pg_catalog.pg_inherits AS i
            WHERE i.inhrelid = ANY (ARRAY[{old_regclass}::regclass, {regclass}::regclass])
            UNION SELECT k.child, i.inhparent FROM kin AS k JOIN pg_catalog.pg_inherits AS i ON i.inhrelid = k.parent)
        SELECT count(*) FROM kin AS k WHERE k.parent = ANY (ARRAY[{old_regclass}::regclass, {regclass}::regclass]))
""")
_LOOK_DELETED = _template("""
    SELECT CASE WHEN NOT EXISTS (SELECT FROM {table} AS "-" WHERE {own}) AND {is_table} AND {written_in_time}
    THEN pg_current_xact_id_if_assigned() IS NOT NULL ELSE {kept}::bool END, {durable}
""")
# on a record of NULLs, not on NULL: PostgreSQL then looks at the given columns alone, and not at those of other domains
_CONVERT = _template("""
    SELECT FROM (SELECT) AS one LEFT JOIN jsonb_populate_recordset(NULL::{table}, '[]'::jsonb) AS x ON true,
    jsonb_populate_record(ROW(x.*)::{table}, %(doc)s) AS d
""")
# -part and -place are where the row is: compared only there, because a plan may try every document with every row
_COMPARE = _template("""
    SELECT x.{id}::text{differences} FROM ROWS FROM (jsonb_populate_recordset(NULL::{table}, %(doc)s),
        jsonb_to_recordset(%(places)s) AS ("-part" pg_catalog.oid, "-place" pg_catalog.tid)) AS d,
    (SELECT tableoid, ctid, {columns} FROM {table} AS "-") AS x WHERE (x.tableoid = d."-part")
    AND (x.ctid = d."-place") AND (x.{id} = d.{id}::text) AND CASE WHEN x.ctid = d."-place" THEN NOT {same} END
""")
_DIFFERS = _template(", NOT (ROW(x.{column})::record *= ROW(d.{column})::record)")
# by the kind, because a materialised view, which nothing else can delete from, has a file
_PRESENT = _template("""
    SELECT CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_class AS c
        WHERE (c.oid = {regclass}::regclass) AND ((c.relkind = 'r') OR (c.relkind = 'p')))
    THEN EXISTS (SELECT FROM {table} AS "-" WHERE {own}) ELSE {no_table}::bool END
""")
_MATCHES = _template("""
    SELECT CASE WHEN current_setting('transaction_read_only')::bool THEN {read_only}::bool
    ELSE count(*) = 1 AND bool_and({same}) AND {is_table} END FROM {row}, {doc}
""")

# by the catalogue, which everyone may read: to look a name up fails on a schema without USAGE
_SURVEY = qualified("""
    SELECT c.oid IS NOT NULL,
    COALESCE((c.relkind = 'r') OR (c.relkind = 'p'), false),
    COALESCE(has_schema_privilege(c.relnamespace, 'USAGE'), false),
    COALESCE(has_table_privilege(c.oid, 'DELETE'), false),
    COALESCE(row_security_active(c.oid), false),
    ARRAY(SELECT w.name FROM unnest(%(columns)s) AS w (name) WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_attribute AS a
        WHERE (a.attrelid = c.oid) AND (a.attname = w.name) AND (a.attnum > 0) AND NOT a.attisdropped)),
    ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute AS a
        WHERE (a.attrelid = c.oid) AND (a.attname = ANY (%(columns)s)) AND (a.attnum > 0) AND NOT a.attisdropped AND NOT
        ((%(update)s OR has_column_privilege(c.oid, a.attnum, 'SELECT') AND has_column_privilege(c.oid, a.attnum,
        'INSERT')) AND ((a.attname = %(id_column)s) OR has_column_privilege(c.oid, a.attnum, 'UPDATE')))),
    COALESCE((SELECT has_column_privilege(c.oid, a.attnum, 'SELECT') FROM pg_catalog.pg_attribute AS a
        WHERE (a.attrelid = c.oid) AND (a.attname = %(id_column)s) AND NOT a.attisdropped), true),
    COALESCE((SELECT CASE WHEN t.typcategory <> 'S' THEN 'type' WHEN bool_or(NOT i.indimmediate) THEN 'deferrable'
        WHEN count(i.indexrelid) > 0 THEN 'usable' ELSE 'missing' END
        FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
        LEFT JOIN pg_catalog.pg_index AS i ON (i.indrelid = a.attrelid) AND (i.indkey[0] = a.attnum)
        AND i.indisunique AND i.indisvalid AND (i.indnkeyatts = 1) AND i.indpred IS NULL
        WHERE (a.attrelid = c.oid) AND (a.attname = %(id_column)s) AND NOT a.attisdropped
        GROUP BY t.typcategory), 'absent'),
    current_user::text, current_database()::text,
    COALESCE((SELECT (%(schema)s || '.') || s.relname::text FROM pg_catalog.pg_class AS s
        JOIN pg_catalog.pg_namespace AS m ON m.oid = s.relnamespace
        WHERE (m.nspname = %(schema)s) AND (lower(s.relname::text COLLATE "C") = lower(%(name)s COLLATE "C"))
        AND ((s.relkind = 'r') OR (s.relkind = 'p')) ORDER BY s.relname LIMIT 1), '')
    FROM (SELECT) AS one
    LEFT JOIN (pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace)
    ON (c.relname = %(name)s) AND (n.nspname = %(schema)s)
""")

_ABOUT = qualified("""
    SELECT current_setting('server_version'), current_user::text, current_database()::text,
    COALESCE(has_schema_privilege((SELECT n.oid FROM pg_catalog.pg_namespace AS n WHERE n.nspname = %(schema)s),
        'USAGE'), false)
""")
_TRIGGERS = qualified("""
    SELECT ARRAY(SELECT t.tgname::text FROM pg_catalog.pg_trigger AS t JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid
    JOIN (pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace) ON c.oid = t.tgrelid
    WHERE (c.relname = %(name)s) AND (n.nspname = %(schema)s) AND NOT t.tgisinternal AND NOT p.prosecdef
    ORDER BY t.tgname)
""")

HELLO = qualified("SELECT date_part('epoch', clock_timestamp()), current_setting('transaction_read_only')::bool")
"""What a new connection asks: the server's clock, as Unix time, and whether it is read-only."""


# every message sends it, and nearly all of them the same
@lru_cache(maxsize=64)
def limits(statement_timeout: float, lock_timeout: float, *, local: bool = True) -> str:
    """Set what a message depends on, whatever was left in the session; ``local``: for one transaction.

    The timeouts are in seconds. Read committed: after the lock of an id all that was committed until then is seen.
    """
    values = {
        # first, because it cannot be changed after a transaction's first query
        "transaction_isolation" if local else "default_transaction_isolation": "'read committed'",
        "statement_timeout": int(statement_timeout * 1000),
        "lock_timeout": int(lock_timeout * 1000),
        # planning is most of a short statement's cost, and the plan never depends on the values
        **({"role": "DEFAULT"} if local else {"plan_cache_mode": "force_generic_plan"}),
    }
    return "; ".join(f"SET {'LOCAL ' if local else ''}{name} = {value}" for name, value in values.items())


@lru_cache
def session_settings(*, local: bool) -> str:
    """Set all else that must not be left to the role; ``local``: for one transaction.

    The server then ends a statement whose client has gone (since PostgreSQL 14, and not on Windows).
    transaction_timeout came with PostgreSQL 17. https://www.postgresql.org/docs/current/runtime-config-connection.html
    """
    scope = str(local).lower()
    return qualified(
        "SELECT CASE WHEN current_setting('client_connection_check_interval', true) IS NOT NULL"
        " AND NOT (version() ~* 'visual c|mingw|windows')"
        # in milliseconds: longer than nearly every statement runs, far shorter than Metacontroller needs to call again
        f" THEN set_config('client_connection_check_interval', '20', {scope}) END,"
        " CASE WHEN current_setting('transaction_timeout', true) IS NOT NULL"
        f" THEN set_config('transaction_timeout', '0', {scope}) END"
    )


def lock_key(row_id: str) -> int:
    """Give the key of the advisory lock of a row's id: the first 8 bytes of its BLAKE2b, signed, big-endian.

    Never change it: servers of two releases run side by side during an upgrade, and both must take the same lock.
    """
    return int.from_bytes(blake2b(row_id.encode()).digest()[:8], "big", signed=True)


@lru_cache(maxsize=1024)
def write(table: str, columns: Names, vacate: Names = (), id_column: str = ID_COLUMN, released: Names = ()) -> Message:
    """Delete the row from every table of ``vacate``, then write it to ``table``; gives what the row was before.

    The columns ``released`` get their defaults. What the row was is ``inserted``, ``updated`` or ``unchanged``.
    Parameters: id, doc, key, until, by, word.
    """
    act, look = _filled(_WRITE, table, id_column, columns, released), _filled(_LOOK, table, id_column, columns)
    kin = _filled(_VACATED, table, id_column)
    names = ((quoted(old), f"'{quoted(old)}'") for old in vacate)
    vacated = "".join(f" {kin}".replace("{old}", old).replace("{old_regclass}", literal) for old, literal in names)
    deletes = (Statement(_filled(_DELETE, old, id_column)) for old in vacate)
    seen = Statement(look.replace("{vacated}", vacated), often=not vacate)
    parts = (LOCK, *deletes, Statement(act, often=not released), FIRE_DEFERRED, SEE_ALL, seen)
    return Message(parts, frozenset({table, *vacate}), writes=True)


@lru_cache(maxsize=1024)
def remove(table: str, id_column: str = ID_COLUMN) -> Message:
    """Delete the row from ``table``: gives whether there was one. Parameters: id, key, until, by, word."""
    act, look = (Statement(_filled(text, table, id_column), often=True) for text in (_DELETE, _LOOK_DELETED))
    return Message((LOCK, act, FIRE_DEFERRED, SEE_ALL, look), frozenset({table}), writes=True)


@lru_cache(maxsize=1024)
def matches(table: str, columns: Names, id_column: str = ID_COLUMN) -> Message:
    """Ask, without the lock of the id, whether the row is there as it must be. Parameters: id, doc, word."""
    look = Statement(_filled(_MATCHES, table, id_column, columns), often=True)
    return Message((look,), frozenset({table}), locks=False)


def present(table: str, id_column: str = ID_COLUMN) -> Message:
    """Ask under the lock of the id whether the row is in ``table``. Parameters: id, key, word."""
    return Message((LOCK, SEE_ALL, Statement(_filled(_PRESENT, table, id_column))), frozenset({table}))


SURVEY = Message((LOCK, Statement(_SURVEY)), frozenset())
"""Ask the catalogue, under the guard of the lock, whether a table exists and what the role can do with it.

Gives found, is a table, USAGE on its schema, DELETE, policies apply, columns that it lacks, columns without a grant,
SELECT on the id, state of the key; role, database, and a table whose name differs only in case.
Parameters: schema, name, columns, update (no other grant), id_column, key, word.
"""


ABOUT = Message((Statement(_ABOUT),), frozenset(), locks=False)
"""Ask where the session is: version, role, database, whether the schema may be used. Parameters: schema."""
TRIGGERS = Message((Statement(_TRIGGERS),), frozenset(), locks=False)
"""Ask for the triggers of a table that run with the rights of the role that writes it. Parameters: schema, name."""


def convert(table: str) -> Message:
    """Ask whether the values of ``doc`` can be values of the table's columns. Parameters: doc."""
    return Message((SEE_ALL, Statement(_filled(_CONVERT, table, ID_COLUMN))), frozenset({table}), locks=False)


@lru_cache(maxsize=1024)
def compare(table: str, columns: Names, id_column: str) -> str:
    """Ask which rows differ: gives the id and, by column, whether it does. Parameters: doc, places (lists)."""
    return Statement(_filled(_COMPARE, table, id_column, columns)).direct()


def _filled(template: str, table: str, id_column: str, columns: Names = (), released: Names = ()) -> str:
    """Fill a template in for a table, its column for the id and the columns of the values; what is left stays."""
    named, defaults = [quoted(column) for column in columns], [f"{quoted(column)} = DEFAULT" for column in released]
    parts = {
        # a row may have no column but its id
        "update": _UPDATE if named or defaults else "",
        "conflict": _CONFLICT if named or defaults else "NOTHING",
        "table": quoted(table),
        "regclass": f"'{quoted(table)}'",
        "id": quoted(id_column),
        "columns": ", ".join([quoted(id_column), *named]),
        "values": ", ".join(["%(id)s", *(f"d.{name}" for name in named)]),
        "current": ", ".join(f"x.{name}" for name in named),
        "wanted": ", ".join(f"d.{name}" for name in named),
        "updates": ", ".join([*(f"{name} = d.{name}" for name in named), *defaults]),
        "differences": "".join(_DIFFERS.replace("{column}", name) for name in named),
        "excluded": ", ".join([*(f"{name} = EXCLUDED.{name}" for name in named), *defaults]),
        # what was released is written in any case: no look shows whether it has its default
        "differs": "EXISTS (SELECT FROM cur)" if released else "EXISTS (SELECT FROM cur WHERE NOT same)",
    }
    for name, part in parts.items():
        template = template.replace(f"{{{name}}}", part)
    return template

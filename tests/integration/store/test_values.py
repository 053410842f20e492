"""A PostgresRow's values as PostgreSQL reads them: written, found equal without a write, refused by the column."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from postgres_writer.core.plan import Operation
from postgres_writer.core.row import POSTGRES_ROW
from postgres_writer.database.store import Store
from support.postgres import Database
from support.subject import Subject

ID = "row/default/sample"
NONE_WRONG = "none"
TYPES: list[tuple[str, Any, str, Any]] = [
    # type, value, what PostgreSQL shows as text, a value that it refuses
    ("text", "O'Brien \U0001f680 {x}", "O'Brien \U0001f680 {x}", NONE_WRONG),
    ("varchar(5)", "alex", "alex", "zanzibar-4711"),
    ("char(5)", "al", "al", "zanzibar-4711"),
    ("smallint", 7, "7", 70000),
    ("int", -7, "-7", "zanzibar-4711"),
    ("bigint", 9223372036854775807, "9223372036854775807", 9223372036854775808),
    ("numeric(30,20)", "0.12345678901234567890", "0.12345678901234567890", "zanzibar-4711"),
    ("numeric", 19.9, "19.9", {"a": 1}),
    ("real", 0.5, "0.5", "zanzibar-4711"),
    ("double precision", 0.1, "0.1", "zanzibar-4711"),
    ("boolean", True, "true", "zanzibar-4711"),
    ("date", "2026-11-30", "2026-11-30", "2026-02-30"),
    ("timestamp", "2026-11-30T12:00:00", "2026-11-30 12:00:00", "zanzibar-4711"),
    ("timestamptz", "2026-11-30T12:00:00Z", "2026-11-30 12:00:00+00", "zanzibar-4711"),
    ("time", "12:00", "12:00:00", "25:00"),
    ("interval", "1 day 02:00", "1 day 02:00:00", "zanzibar-4711"),
    ("uuid", "7c9f3c6e-2a51-4f34-9a4e-0d3b8f5c1a10", "7c9f3c6e-2a51-4f34-9a4e-0d3b8f5c1a10", "zanzibar-4711"),
    ("bytea", "\\xdeadbeef", "\\xdeadbeef", "\\xzz"),
    ("json", {"b": 1, "a": [1, None, "x"]}, '{"a": [1, null, "x"], "b": 1}', NONE_WRONG),
    ("jsonb", {"cpu": 4, "deep": [{"a": None}]}, '{"cpu": 4, "deep": [{"a": null}]}', NONE_WRONG),
    ("text[]", ["a", "b,c", None], '{a,"b,c",NULL}', {"a": 1}),
    ("int[]", [[1, 2], [3, 4]], "{{1,2},{3,4}}", [1, [2]]),
    ("mood", "happy", "happy", "zanzibar-4711"),
    ("positive", 3, "3", -3),
    ("pair", {"x": 1, "y": "b"}, "(1,b)", "zanzibar-4711"),
    ("inet", "10.0.0.0/8", "10.0.0.0/8", "zanzibar-4711"),
    ("int4range", "[1,5)", "[1,5)", "[5,1)"),
    ("money", "12.50", "$12.50", "zanzibar-4711"),
    ("point", "(1,2)", "(1,2)", "zanzibar-4711"),
    ("tsvector", "a b", "'a' 'b'", NONE_WRONG),
    ("bit(3)", "101", "101", "10"),
]  # fmt: skip
SETUP = """
    CREATE TYPE mood AS ENUM ('happy', 'sad');
    CREATE DOMAIN positive AS int CHECK (value > 0);
    CREATE TYPE pair AS (x int, y text);
"""


@pytest.fixture
def row(database: Database, store: Store) -> Iterator[Subject]:
    """Make a PostgresRow of the table things, which the test makes."""
    database.query(SETUP)
    subject = Subject(store, {"table": "things", "columns": []}, kind=POSTGRES_ROW)
    yield subject
    database.query("DROP TABLE IF EXISTS things; DROP TYPE pair; DROP DOMAIN positive; DROP TYPE mood")


def columns(**values: Any) -> list[dict[str, Any]]:
    """Return the columns of a spec."""
    return [{"name": name, "value": value} for name, value in values.items()]


def shown(database: Database, column: str = "v") -> list[Any]:
    """Return what the table holds, as text."""
    return database.query(f"SET TIME ZONE 'UTC'; SELECT id, {column}::text FROM things ORDER BY id")


@pytest.mark.parametrize("case", TYPES, ids=[case[0] for case in TYPES])
def test_a_value_is_written_found_equal_and_refused_by_its_column(
    database: Database, row: Subject, case: tuple[str, Any, str, Any]
) -> None:
    kind, value, text, wrong = case
    database.query(f"CREATE TABLE things (id text PRIMARY KEY, a int, v {kind}, z text)")
    row.edit(columns=columns(a=1, v=value, z="end"))
    assert row.sync() is Operation.INSERTED
    assert (row.ready, row.tables, row.status["columns"]) == ("True RowSynced", ["public.things"], ["a", "v", "z"])
    assert shown(database) == [(ID, text)]
    assert row.sync() is Operation.UNCHANGED, "the steady state"
    assert row.sync(lost=True) is Operation.UNCHANGED
    row.generation += 1
    assert row.sync() is Operation.UNCHANGED, "under the lock"
    row.edit(columns=columns(a=2, v=None, z="end"))
    assert row.sync() is Operation.UPDATED
    assert shown(database) == [(ID, None)]
    assert row.sync() is Operation.UNCHANGED
    if wrong is not NONE_WRONG:
        row.edit(columns=columns(a=1, v=wrong, z="end")).sync()
        assert row.ready == "False RowRejected"
        assert "column v" in row.message
        assert "zanzibar" not in str(row.answer)
        assert shown(database) == [(ID, None)]
    assert row.finalize()
    assert shown(database) == []


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_wrong_value_is_found_beside_columns_that_need_one(database: Database, row: Subject, count: int) -> None:
    """A column of a domain that takes no NULL is refused where it is left out, which must not hide the wrong one."""
    needed = [f"n{number}" for number in range(count)]
    database.query("CREATE DOMAIN needed AS int NOT NULL")
    try:
        database.query(f"CREATE TABLE things (id text PRIMARY KEY, {' needed, '.join(needed)} needed, v int)")
        row.edit(columns=columns(**dict.fromkeys(needed, 1), v="zanzibar-4711")).sync()
        assert row.ready == "False RowRejected"
        assert "column v)" in row.message
        row.edit(columns=columns(**dict.fromkeys(needed[1:], 1), v=1)).sync()
        assert "a column needs a value that spec does not give" in row.message
        row.edit(columns=columns(**dict.fromkeys(needed, None), v=1)).sync()
        assert "column n0)" in row.message
    finally:
        database.query("DROP TABLE things; DROP DOMAIN needed")


def test_the_search_for_a_wrong_value_writes_nothing(database: Database, row: Subject) -> None:
    database.query("""
        CREATE TABLE looks (at text);
        CREATE FUNCTION note(value int) RETURNS bool LANGUAGE plpgsql
            AS 'BEGIN INSERT INTO looks VALUES (value); RETURN true; END';
        CREATE DOMAIN noted AS int CHECK (note(value));
        CREATE TABLE things (id text PRIMARY KEY, v noted, w int)
    """)
    try:
        row.edit(columns=columns(v=1, w="zanzibar-4711")).sync()
        assert row.ready == "False RowRejected"
        assert database.query("SELECT * FROM looks") == []
    finally:
        database.query("DROP TABLE things, looks; DROP DOMAIN noted; DROP FUNCTION note")


@pytest.mark.parametrize(("kind", "value"), [("citext", "Alex"), ("hstore", {"a": "1", "b": None}), ("hstore", "a=>1")])
def test_a_value_of_an_extension(contrib: Database, kind: str, value: Any) -> None:
    contrib.query(f"CREATE EXTENSION {kind}; CREATE TABLE things (id text PRIMARY KEY, v {kind})")
    store = Store(contrib.config())
    row = Subject(store, {"table": "things", "columns": columns(v=value)}, kind=POSTGRES_ROW)
    row.sync()
    if isinstance(value, dict):
        assert row.ready == "False RowRejected"
        assert "column v" in row.message
    else:
        assert row.ready == "True RowSynced"
        assert row.sync() is Operation.UNCHANGED
    if kind == "citext":
        row.edit(columns=columns(v="alex"))
        assert row.sync() is Operation.UPDATED, "the column takes both for equal, the spec does not"
    store.close()

"""The columns of a PostgresRow: which are written, released, refused and kept; and the column that holds the id."""

from __future__ import annotations

from typing import Any

import pytest

from postgres_writer.core.plan import Operation
from postgres_writer.core.row import MAX_CHARACTERS, MAX_DEPTH, POSTGRES_ROW, POSTGRES_WRITER
from postgres_writer.database.store import Store
from support.postgres import Database
from support.subject import Limited, Subject, fresh_call

ID = "row/default/sample"


def columns(**values: Any) -> list[dict[str, Any]]:
    """Return the columns of a spec."""
    return [{"name": name, "value": value} for name, value in values.items()]


@pytest.fixture
def row(database: Database, store: Store) -> Subject:
    """Make a PostgresRow of the table tenants."""
    database.query(
        "CREATE TABLE tenants (id text PRIMARY KEY, plan text DEFAULT 'free', seats int DEFAULT 1, note text)"
    )
    return Subject(store, {"table": "tenants", "columns": columns(plan="gold", seats=5)}, kind=POSTGRES_ROW)


def rows(database: Database) -> list[Any]:
    """Return the rows of the table."""
    return database.query("SELECT id, plan, seats, note FROM tenants ORDER BY id")


def test_two_resources_of_one_name_are_two_rows(database: Database, row: Subject) -> None:
    writer = Subject(row.store, {"table": "tenants", "name": "a", "age": 1, "country": "c"}, kind=POSTGRES_WRITER)
    database.query("ALTER TABLE tenants ADD name text, ADD age int, ADD country text")
    writer.sync()
    row.sync()
    assert [found[0] for found in rows(database)] == ["default/sample", ID]
    assert writer.finalize()
    assert [found[0] for found in rows(database)] == [ID]


def test_a_column_that_is_removed_gets_its_default_and_others_are_never_touched(
    database: Database, row: Subject
) -> None:
    row.sync()
    database.query("UPDATE tenants SET note = 'theirs'")
    row.edit(columns=columns(plan="gold"))
    assert row.sync() is Operation.UPDATED
    assert rows(database) == [(ID, "gold", 1, "theirs")]
    assert row.status["columns"] == ["plan"]
    assert row.sync() is Operation.UNCHANGED
    database.query("UPDATE tenants SET seats = 9")
    assert row.sync() is Operation.UNCHANGED, "it belongs to others now"


def test_a_removal_is_repeated_until_its_answer_arrives(database: Database, row: Subject) -> None:
    row.sync()
    row.edit(columns=columns(plan="gold")).sync(lost=True)
    assert row.status["columns"] == ["plan", "seats"]
    database.query("UPDATE tenants SET seats = 9")
    row.sync()
    assert rows(database) == [(ID, "gold", 1, None)]
    assert row.status["columns"] == ["plan"]


def test_a_row_may_have_no_column_but_its_id(database: Database, row: Subject) -> None:
    row.edit(columns=[])
    assert row.sync() is Operation.INSERTED
    assert rows(database) == [(ID, "free", 1, None)]
    assert row.sync() is Operation.UNCHANGED
    row.edit(columns=columns(seats=3)).sync()
    row.edit(columns=[])
    assert row.sync() is Operation.UPDATED
    assert rows(database) == [(ID, "free", 1, None)]
    row.edit(table="others")
    database.query("CREATE TABLE others (LIKE tenants INCLUDING ALL)")
    assert row.sync() is Operation.MOVED
    assert row.finalize()
    assert database.query("SELECT count(*) FROM others") == [(0,)]


def test_a_released_column_that_the_table_lacks_leaves_the_list_with_the_next_ready(
    database: Database, row: Subject
) -> None:
    row.sync()
    database.query("ALTER TABLE tenants DROP seats")
    row.edit(columns=columns(plan="gold", none=1)).sync()
    assert row.ready == "False RowRejected"
    assert "no column none" in row.message
    assert row.status["columns"] == ["none", "plan", "seats"]
    row.edit(columns=columns(plan="gold")).sync()
    assert (row.ready, row.status["columns"]) == ("True RowSynced", ["plan"])


def test_absent_and_null_are_null(database: Database, row: Subject) -> None:
    row.edit(columns=[{"name": "plan"}, {"name": "seats", "value": None}]).sync()
    assert rows(database) == [(ID, None, None, None)]


def test_an_unnamed_column_that_needs_a_value_is_named(database: Database, row: Subject) -> None:
    database.query("ALTER TABLE tenants ADD must int NOT NULL")
    row.sync()
    assert row.ready == "False RowRejected"
    assert "a column needs a value that spec does not give (SQLSTATE 23502, column must)" in row.message


def test_the_id_may_be_in_another_column(database: Database, store: Store) -> None:
    number = "no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
    database.query(f"CREATE DOMAIN key AS text; CREATE TABLE things ({number}, ref key UNIQUE, v int)")
    row = Subject(store, {"table": "things", "idColumn": "ref", "columns": columns(v=1)}, kind=POSTGRES_ROW)
    assert row.sync() is Operation.INSERTED
    row.edit(columns=columns(v=2))
    assert row.sync() is Operation.UPDATED
    assert database.query("SELECT no, ref, v FROM things") == [(1, ID, 2)]
    assert row.sync() is Operation.UNCHANGED
    assert row.finalize()
    assert database.query("SELECT count(*) FROM things") == [(0,)]
    database.query("DROP TABLE things; DROP DOMAIN key")


@pytest.mark.parametrize("kind", ["bigint", "uuid"])
def test_a_column_that_cannot_hold_an_id_takes_no_part(database: Database, store: Store, kind: str) -> None:
    database.query(f"CREATE TABLE things (id {kind} PRIMARY KEY, v int)")
    row = Subject(store, {"table": "things", "columns": columns(v=1)}, kind=POSTGRES_ROW)
    row.sync()
    assert (row.ready, row.tables) == ("False RowRejected", [])
    assert "text column" in row.message
    assert row.finalize()


DEEP: Any = 1
for _ in range(MAX_DEPTH + 1):
    DEEP = [DEEP]
MALFORMED: list[tuple[str, Any, str]] = [
    ("no list", {"plan": 1}, "must be a list"),
    ("null", None, "must be a list"),
    ("no objects", ["plan"], "must be a list of objects"),
    ("no name", [{"value": 1}], "columns[0].name"),
    ("a name that is too long", [{"name": "c" * 64}], "columns[0].name"),
    ("a name with a blank", [{"name": "a b"}], "columns[0].name"),
    ("the id", columns(id="x"), "must not name id"),
    ("a name twice", columns(plan=1) + columns(plan=1), "once"),
    ("101 columns", [{"name": f"c{n}"} for n in range(101)], "at most 100"),
    ("NUL", columns(plan="a\0"), "value of column plan"),
    ("NUL deep inside", columns(plan={"a": ["\0"]}), "value of column plan"),
    ("NUL in a key", columns(plan={"\0": 1}), "value of column plan"),
    ("a lone surrogate", columns(plan="\ud800"), "value of column plan"),
    ("too deep", columns(plan=DEEP), "nested deeper"),
    ("too large", columns(plan="x" * MAX_CHARACTERS), "characters long"),
]


@pytest.mark.parametrize(("value", "sentence"), [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED])
def test_a_malformed_list_is_an_invalid_spec_before_any_statement(row: Subject, value: Any, sentence: str) -> None:
    row.edit(columns=value).sync()
    assert row.ready == "False InvalidSpec"
    assert sentence in row.message
    assert row.finalize()


def test_grants_by_column_are_enough_and_a_missing_one_is_named(limited: Limited) -> None:
    limited.database.query("CREATE TABLE tenants (id text PRIMARY KEY, plan text, seats int)")
    limited.grant("SELECT (id, plan), INSERT (id, plan), UPDATE (plan), DELETE", "tenants")
    row = Subject(limited.subject.store, {"table": "tenants", "columns": columns(plan="gold")}, kind=POSTGRES_ROW)
    assert row.sync() is Operation.INSERTED
    assert row.sync() is Operation.UNCHANGED
    row.edit(columns=columns(plan="gold", seats=1)).sync()
    assert row.ready == "False AccessDenied"
    assert "(column seats)" in row.message
    row.edit(columns=columns(plan="silver"))
    assert row.sync() is Operation.UPDATED
    assert row.status["columns"] == ["plan"], "seats was never granted, so it is left out of the release"
    assert row.finalize()


@pytest.mark.parametrize("lost", ["SELECT", "INSERT"])
def test_a_column_is_released_by_the_grant_for_update_alone(limited: Limited, lost: str) -> None:
    limited.database.query("CREATE TABLE tenants (id text PRIMARY KEY, plan text, seats int DEFAULT 1)")
    for grant in ("SELECT", "INSERT", "UPDATE"):
        limited.grant(f"{grant} (id, plan, seats)", "tenants")
    limited.grant("DELETE", "tenants")
    row = Subject(limited.subject.store, {"table": "tenants", "columns": columns(plan="a", seats=5)}, kind=POSTGRES_ROW)
    row.sync()
    limited.revoke(f"{lost} (seats)", "tenants")
    row.edit(columns=columns(plan="a"))
    assert row.sync() is Operation.UPDATED
    assert limited.database.query("SELECT plan, seats FROM tenants") == [("a", 1)]


def test_a_row_whose_answer_was_lost_stays_listed_though_a_column_without_a_grant_is_added(limited: Limited) -> None:
    limited.database.query("CREATE TABLE tenants (id text PRIMARY KEY, plan text, seats int)")
    limited.database.query("CREATE TABLE others (id text PRIMARY KEY, plan text)")
    for table in ("tenants", "others"):
        limited.grant("SELECT (id, plan), INSERT (id, plan), UPDATE (plan), DELETE", table)
    row = Subject(limited.subject.store, {"table": "tenants", "columns": columns(plan="gold")}, kind=POSTGRES_ROW)
    row.sync(lost=True)
    row.edit(columns=columns(plan="gold", seats=1)).sync()
    assert (row.ready, row.tables) == ("False AccessDenied", ["public.tenants"])
    row.edit(table="others", columns=columns(plan="gold"))
    assert row.sync() is Operation.MOVED
    assert limited.database.query("SELECT count(*) FROM tenants") == [(0,)]


def test_a_table_with_a_column_without_a_grant_is_not_listed_where_the_row_is_not_in_it(limited: Limited) -> None:
    limited.database.query("CREATE TABLE tenants (id text PRIMARY KEY, plan text, seats int)")
    limited.grant("SELECT (id, plan), INSERT (id, plan), UPDATE (plan)", "tenants")
    row = Subject(limited.subject.store, {"table": "tenants", "columns": columns(seats=1)}, kind=POSTGRES_ROW)
    row.sync()
    assert (row.ready, row.tables) == ("False AccessDenied", [])
    assert row.finalize(), "without DELETE, too"


def test_with_grants_by_column_a_column_that_the_table_lacks_is_named(limited: Limited) -> None:
    limited.database.query("CREATE TABLE tenants (id text PRIMARY KEY, plan text)")
    limited.grant("SELECT (id, plan), INSERT (id, plan), UPDATE (plan), DELETE", "tenants")
    row = Subject(limited.subject.store, {"table": "tenants", "columns": columns(plann="gold")}, kind=POSTGRES_ROW)
    row.sync()
    assert row.ready == "False RowRejected"
    assert "no column plann" in row.message


def test_the_policy_forbids_a_column_by_its_name(database: Database, row: Subject) -> None:
    row.permits = lambda _namespace, _table, column: column != "seats"
    row.sync(fresh_call())
    assert row.ready == "False TableNotAllowed"
    assert "column seats of table public.tenants" in row.message
    assert rows(database) == []
    row.edit(columns=columns(plan="gold")).sync()
    assert row.ready in {"True RowSynced", "False TableRecorded"}
    row.sync()
    assert row.ready == "True RowSynced"


def test_a_function_of_a_column_that_was_dropped_is_not_taken_for_it(database: Database, row: Subject) -> None:
    """PostgreSQL reads x.plan as plan(x) where x has no such column."""
    row.edit(columns=columns(plan="gold", note="mine")).sync()
    database.query("""
        ALTER TABLE tenants DROP note;
        CREATE FUNCTION note(tenants) RETURNS text LANGUAGE sql AS 'SELECT upper($1.plan)'
    """)
    row.sync()
    assert row.ready == "False RowRejected"
    assert "no column note" in row.message
    database.query("DROP FUNCTION note(tenants)")


@pytest.mark.parametrize("column", ["ref", "x", "v"])
@pytest.mark.parametrize("argument", ["things", "record", "anyelement"])
def test_a_function_of_the_column_for_the_id_proves_nothing(
    database: Database, store: Store, column: str, argument: str
) -> None:
    database.query(f"CREATE TABLE things ({column} text UNIQUE, n int)")
    row = Subject(store, {"table": "things", "idColumn": column, "columns": columns(n=1)}, kind=POSTGRES_ROW)
    row.sync()
    assert row.ready == "True RowSynced"
    database.query(f"""
        ALTER TABLE things RENAME {column} TO other;
        CREATE FUNCTION {column}({argument}) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN 'no id'; END $$
    """)
    row.sync()
    assert row.ready == "False RowRejected"
    assert not row.finalize()
    assert row.tables == ["public.things"]
    database.query(f"ALTER TABLE things RENAME other TO {column}")
    assert row.finalize()
    assert database.query("SELECT * FROM things") == []
    database.query(f"DROP FUNCTION {column}({argument}); DROP TABLE things")


def test_the_id_may_be_of_a_domain_that_takes_no_null(database: Database, store: Store) -> None:
    database.query("CREATE DOMAIN key AS text NOT NULL; CREATE TABLE things (ref key UNIQUE, n int)")
    row = Subject(store, {"table": "things", "idColumn": "ref", "columns": columns(n=1)}, kind=POSTGRES_ROW)
    assert row.sync() is Operation.INSERTED
    assert row.sync() is Operation.UNCHANGED
    row.edit(columns=columns(n="zanzibar-4711")).sync()
    assert "column n)" in row.message
    row.edit(columns=columns(n=2))
    assert row.sync() is Operation.UPDATED
    assert row.finalize()
    database.query("DROP TABLE things; DROP DOMAIN key")

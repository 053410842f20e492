"""Exactly one row, on a real PostgreSQL: every plan against every state of the database."""

from __future__ import annotations

import threading

import pytest

from postgres_writer.core.plan import Operation
from postgres_writer.core.request import MAX_TABLES
from postgres_writer.core.row import relation_name
from postgres_writer.database.store import Store
from support.postgres import Database
from support.spec_cases import VALID_SPECS, SpecCase
from support.subject import ROW, Subject

KEPT = [case for case in VALID_SPECS if isinstance(case.spec, dict) and case.spec["table"] == "students"]
NAMES = [
    "t",
    "STUDENTS",
    "Students",
    "order",
    "user",
    "select",
    "students$old",
    "public.students2",
    "Team.Order",
    "team$.user",
    "t" * 63,
    f"{'s' * 63}.{'t' * 63}",
]


def create(database: Database, table: str) -> None:
    schema, _, _ = table.rpartition(".")
    if schema:
        database.query(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
    database.create_table(table)


# One table


def test_a_missing_row_is_inserted(database: Database, subject: Subject) -> None:
    assert subject.sync() is Operation.INSERTED
    assert database.rows() == [ROW]
    assert (subject.ready, subject.tables) == ("True RowSynced", ["public.students"])


def test_a_row_that_was_there_before_is_adopted(database: Database, subject: Subject) -> None:
    database.query("INSERT INTO students VALUES ('default/sample', 'bob', 1, 'chile'), ('default/other', 'x', 1, 'y')")
    assert subject.sync() is Operation.UPDATED
    assert database.rows() == [("default/other", "x", 1, "y"), ROW]


def test_an_equal_row_is_adopted_without_a_write(database: Database, subject: Subject) -> None:
    database.query("INSERT INTO students VALUES ('default/sample', 'alex', 23, 'canada')")
    assert subject.sync() is Operation.UNCHANGED
    assert subject.ready == "True RowSynced"


@pytest.mark.parametrize(("field", "value"), [("name", "bob"), ("age", 0), ("country", "chile")])
def test_each_field_is_updated(database: Database, subject: Subject, field: str, value: object) -> None:
    subject.sync()
    assert subject.edit(**{field: value}).sync() is Operation.UPDATED
    spec = subject.spec
    assert database.rows() == [("default/sample", spec["name"], spec["age"], spec["country"])]


@pytest.mark.parametrize(
    ("change", "operation"),
    [
        pytest.param("UPDATE students SET age = 99", Operation.UPDATED, id="another value"),
        pytest.param("UPDATE students SET name = NULL", Operation.UPDATED, id="NULL"),
        pytest.param("UPDATE students SET name = NULL, age = NULL, country = NULL", Operation.UPDATED, id="all NULL"),
        pytest.param("DELETE FROM students", Operation.INSERTED, id="row deleted"),
        pytest.param("TRUNCATE students", Operation.INSERTED, id="table truncated"),
        pytest.param("UPDATE students SET id = 'default/x'", Operation.INSERTED, id="id changed"),
    ],
)
def test_drift_is_put_right(database: Database, subject: Subject, change: str, operation: Operation) -> None:
    subject.sync()
    database.query(change)
    assert subject.sync() is operation
    assert ROW in database.rows()


def test_a_table_that_was_dropped_and_made_anew_gets_its_row_again(database: Database, subject: Subject) -> None:
    subject.sync()
    database.query("DROP TABLE students")
    subject.sync()
    assert (subject.ready, subject.tables) == ("False TableNotFound", ["public.students"])
    database.create_table("students")
    assert subject.sync() is Operation.INSERTED


def test_other_columns_keep_their_values(database: Database, subject: Subject) -> None:
    database.query("ALTER TABLE students ADD grade int DEFAULT 7")
    subject.sync()
    database.query("UPDATE students SET grade = 9")
    subject.edit(age=24).sync()
    assert database.query("SELECT age, grade FROM students") == [(24, 9)]


@pytest.mark.parametrize("prepared", [True, False], ids=["prepared", "plain"])
def test_values_are_kept_exactly(database: Database, prepared: bool) -> None:
    """Every valid text, one after the other in one row."""
    store = Store(database.config(prepared_statements=prepared))
    subject = Subject(store)
    case: SpecCase
    for case in KEPT:
        subject.edit(**case.spec).sync()
        assert subject.ready == "True RowSynced", case.sentence
        assert database.rows() == [("default/sample", case.spec["name"], case.spec["age"], case.spec["country"])]
        assert subject.sync() is Operation.UNCHANGED, case.sentence
    store.close()


def test_table_names_are_taken_in_exact_case_and_quoted(database: Database, subject: Subject) -> None:
    """The row moves through all the awkward names and back, always alone."""
    for table in NAMES:
        create(database, table)
    for table in [*NAMES, "students"]:
        subject.edit(table=table).sync()
        assert (subject.ready, subject.tables) == ("True RowSynced", [relation_name(table)])
        holders = [name for name in [*NAMES, "students"] if database.rows(name)]
        assert holders == [table]


def test_a_name_in_another_case_is_another_table(database: Database, subject: Subject) -> None:
    subject.edit(table="Students").sync()
    assert subject.ready == "False TableNotFound"
    assert database.rows() == []


@pytest.mark.parametrize("kind", ["varchar(20)", "varchar", "char(4)", "name", "json", "jsonb"])
def test_other_text_types_hold_the_row(database: Database, subject: Subject, kind: str) -> None:
    database.query(f"ALTER TABLE students ALTER name TYPE {kind} USING NULL")
    assert subject.sync() is Operation.INSERTED
    assert subject.sync() is Operation.UNCHANGED


@pytest.mark.parametrize("kind", ["bigint", "smallint", "numeric", "real", "text"])
def test_other_number_types_hold_the_row(database: Database, subject: Subject, kind: str) -> None:
    database.query(f"ALTER TABLE students ALTER age TYPE {kind}")
    assert subject.sync() is Operation.INSERTED
    assert subject.sync() is Operation.UNCHANGED


def test_a_partitioned_table_holds_the_row(database: Database, subject: Subject) -> None:
    database.query(
        "CREATE TABLE parts (LIKE students INCLUDING ALL) PARTITION BY HASH (id);"
        "CREATE TABLE parts_0 PARTITION OF parts FOR VALUES WITH (MODULUS 1, REMAINDER 0)"
    )
    subject.edit(table="parts").sync()
    assert database.rows("parts") == [ROW]
    assert subject.finalize()
    assert database.rows("parts") == []


# Moves


def test_a_move_takes_the_row_along(database: Database, subject: Subject) -> None:
    database.create_table("pupils")
    subject.sync()
    assert subject.edit(table="pupils", age=24).sync() is Operation.MOVED
    assert (database.rows(), database.rows("pupils")) == ([], [("default/sample", "alex", 24, "canada")])
    assert (subject.ready, subject.tables) == ("True RowSynced", ["public.pupils"])


def test_a_move_whose_answer_got_lost_is_made_again(database: Database, subject: Subject) -> None:
    database.create_table("pupils")
    subject.sync()
    subject.edit(table="pupils").sync(lost=True)
    assert subject.sync() is Operation.MOVED
    assert (database.rows(), database.rows("pupils")) == ([], [ROW])


def test_a_move_out_of_a_dropped_table_goes_on(database: Database, subject: Subject) -> None:
    subject.sync()
    database.query("DROP TABLE students")
    database.create_table("pupils")
    subject.edit(table="pupils").sync()
    assert (subject.ready, subject.tables) == ("True RowSynced", ["public.pupils"])
    assert database.rows("pupils") == [ROW]


def test_a_move_out_of_a_dropped_schema_goes_on(database: Database, subject: Subject) -> None:
    create(database, "team.students")
    subject.edit(table="team.students").sync()
    database.query("DROP SCHEMA team CASCADE")
    subject.edit(table="students").sync()
    assert (subject.ready, subject.tables) == ("True RowSynced", ["public.students"])


def test_a_move_to_a_missing_table_leaves_the_row_where_it_is(database: Database, subject: Subject) -> None:
    subject.sync()
    subject.edit(table="nowhere").sync()
    assert subject.ready == "False TableNotFound"
    assert "nowhere" in subject.message
    assert subject.tables == ["public.students", "public.nowhere"]
    assert database.rows() == [ROW]
    database.create_table("nowhere")
    assert subject.sync() is Operation.MOVED
    assert (database.rows(), subject.tables) == ([], ["public.nowhere"])


def test_after_a_missing_table_the_next_choice_is_free(database: Database, subject: Subject) -> None:
    database.create_table("pupils")
    subject.sync()
    subject.edit(table="nowhere").sync()
    subject.edit(table="pupils").sync()
    assert (subject.ready, subject.tables) == ("True RowSynced", ["public.pupils"])
    assert (database.rows(), database.rows("pupils")) == ([], [ROW])


def test_a_dropped_table_is_forgotten_while_the_new_one_is_missing(database: Database, subject: Subject) -> None:
    subject.sync()
    database.query("DROP TABLE students")
    subject.edit(table="nowhere").sync()
    assert (subject.ready, subject.tables) == ("False TableNotFound", ["public.nowhere"])


def test_rows_in_several_tables_become_one(database: Database, subject: Subject) -> None:
    listed = [f"public.t{number}" for number in range(MAX_TABLES)]
    for table in listed:
        database.create_table(table)
        database.query(f"INSERT INTO {table} VALUES ('default/sample', 'old', 1, 'x'), ('default/other', 'o', 1, 'x')")
    subject.status = {"tables": listed, "observedTable": "t3"}
    subject.sync()
    assert (subject.ready, subject.tables) == ("True RowSynced", ["public.students"])
    assert database.rows() == [ROW]
    assert all(database.rows(table) == [("default/other", "o", 1, "x")] for table in listed)


def test_at_the_cap_a_failed_move_is_not_observed(database: Database, subject: Subject) -> None:
    listed = [f"public.t{number}" for number in range(MAX_TABLES)]
    for table in listed:
        database.create_table(table)
        database.query(f"INSERT INTO {table} VALUES ('default/sample', 'old', 1, 'x')")
    subject.status = {"tables": listed, "observedTable": "t3"}
    subject.edit(table="nowhere").sync()
    assert (subject.tables, subject.status["observedTable"]) == (listed, "t3")


# Refused specs


def test_an_invalid_spec_changes_nothing(database: Database, subject: Subject) -> None:
    subject.sync()
    subject.edit(age="x", table="pupils").sync()
    assert (subject.ready, subject.tables) == ("False InvalidSpec", ["public.students", "public.pupils"])
    assert database.rows() == [ROW]


def test_a_refused_table_drops_what_does_not_hold_the_row(database: Database, subject: Subject) -> None:
    subject.sync()
    database.query("DELETE FROM students")
    subject.permits = lambda _namespace, table, _column: table != "public.secrets"
    subject.edit(table="secrets").sync()
    assert (subject.ready, subject.tables) == ("False TableNotAllowed", [])
    assert subject.status["observedTable"] == "secrets"


def test_a_table_that_the_policy_allows_now_is_recorded_first(database: Database, subject: Subject) -> None:
    database.create_table("secrets")
    subject.sync()
    subject.permits = lambda _namespace, table, _column: table != "public.secrets"
    subject.edit(table="secrets").sync()
    assert (subject.ready, subject.tables) == ("False TableNotAllowed", ["public.students"])
    subject.permits = lambda _namespace, _table, _column: True
    assert subject.sync() is Operation.NONE
    assert (subject.ready, subject.tables) == ("False TableRecorded", ["public.students", "public.secrets"])
    assert (database.rows(), database.rows("secrets")) == ([ROW], [])
    assert subject.answer["resyncAfterSeconds"] <= 2
    assert subject.sync() is Operation.MOVED
    assert (subject.ready, subject.tables) == ("True RowSynced", ["public.secrets"])


def test_a_table_to_be_recorded_that_does_not_exist_is_listed(subject: Subject) -> None:
    subject.status = {"tables": [], "observedTable": "nowhere"}
    subject.edit(table="nowhere").sync()
    assert (subject.ready, subject.tables) == ("False TableNotFound", ["public.nowhere"])


def test_of_many_workers_at_once_one_writes_the_row(database: Database) -> None:
    """Several stores, as processes have, all with the first sync of the same resource: those in its way try again."""
    barrier = threading.Barrier(8)
    found: list[str] = []

    def sync() -> None:
        store = Store(database.config())
        subject = Subject(store)
        barrier.wait()
        subject.sync()
        found.append(subject.ready)
        while subject.ready != "True RowSynced":
            subject.sync()
        store.close()

    threads = [threading.Thread(target=sync) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {"True RowSynced"} <= set(found) <= {"True RowSynced", "False DatabaseBusy"}
    assert database.rows() == [ROW]

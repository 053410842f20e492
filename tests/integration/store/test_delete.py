"""Deletion, and calls that come too late, on a real PostgreSQL."""

from __future__ import annotations

import time

import pytest

from postgres_writer.core.plan import Operation
from postgres_writer.database.store import Store
from postgres_writer.deadlines import WRITE_BY_SECONDS, Call
from postgres_writer.errors import RequestExpired
from support.postgres import Database
from support.spec_cases import spec_with
from support.subject import ROW, Subject

# Deletion


def test_the_row_goes_and_stays_gone(database: Database, subject: Subject) -> None:
    database.query("INSERT INTO students VALUES ('default/other', 'x', 1, 'y')")
    subject.sync()
    assert subject.finalize()
    assert subject.done() is Operation.DELETED
    assert database.rows() == [("default/other", "x", 1, "y")]
    assert subject.finalize()
    assert subject.done() is Operation.ABSENT
    assert (subject.ready, subject.tables) == ("False RowDeleted", [])


def test_the_row_of_a_sync_whose_answer_got_lost_goes(database: Database, subject: Subject) -> None:
    subject.sync(lost=True)
    assert subject.finalize()
    assert database.rows() == []


def test_both_tables_of_an_unfinished_move_are_cleared(database: Database, subject: Subject) -> None:
    database.create_table("pupils")
    subject.sync()
    database.query("INSERT INTO pupils SELECT * FROM students")
    subject.edit(table="pupils")
    assert subject.finalize()
    assert (database.rows(), database.rows("pupils")) == ([], [])


@pytest.mark.parametrize("spec", [spec_with(age="x"), spec_with(table="x; y"), {}, "gone", spec_with(table="nowhere")])
def test_no_spec_keeps_the_row_from_going(database: Database, subject: Subject, spec: dict[str, object]) -> None:
    subject.sync()
    subject.spec = spec
    assert subject.finalize()
    assert database.rows() == []


def test_dropped_tables_count_as_done(database: Database, subject: Subject) -> None:
    subject.sync()
    database.query("DROP TABLE students")
    assert subject.finalize()


def test_a_dropped_schema_counts_as_done(database: Database, subject: Subject) -> None:
    database.query("CREATE SCHEMA team")
    database.create_table("team.students")
    subject.edit(table="team.students").sync()
    database.query("DROP SCHEMA team CASCADE")
    assert subject.finalize()


def test_retain_leaves_the_row(database: Database, subject: Subject) -> None:
    subject.edit(deletionPolicy="Retain").sync()
    assert subject.finalize()
    assert database.rows() == [ROW]


# An error is no proof that there is no row


UNREADABLE = {
    "its id column renamed": ("RENAME id TO key", "RENAME key TO id", "has no column id"),
    "its id of another type": ("ALTER id TYPE bytea USING id::bytea", "ALTER id TYPE text USING encode(id, 'escape')",
                               "must be a text column"),
}  # fmt: skip
"""What a table may suffer while it is listed, how it heals, and what the message says."""


@pytest.mark.parametrize(("broken", "healed", "cause"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_table_that_cannot_be_asked_may_hold_the_row(
    database: Database, subject: Subject, broken: str, healed: str, cause: str
) -> None:
    database.create_table("pupils")
    subject.sync()
    database.query(f"ALTER TABLE students {broken}")
    subject.edit(table="pupils").sync()
    assert (subject.ready, subject.tables) == ("False RowRejected", ["public.students", "public.pupils"])
    subject.edit(age=-1).sync()
    assert subject.tables == ["public.students", "public.pupils"]
    for _ in range(2):
        assert not subject.finalize()
        assert (subject.ready, subject.tables) == ("False DeleteFailed", ["public.students"])
        assert cause in subject.message
        assert "Retain" in subject.message
    database.query(f"ALTER TABLE students {healed}")
    assert database.rows() == [ROW]
    assert subject.finalize()
    assert database.rows() == []


def test_the_other_columns_take_no_part_in_a_deletion(database: Database, subject: Subject) -> None:
    subject.sync()
    database.query("ALTER TABLE students DROP name; ALTER TABLE students RENAME age TO years")
    assert subject.finalize()
    assert database.query("SELECT * FROM students") == []


# Calls that come too late


@pytest.mark.parametrize(
    "late",
    [
        pytest.param(Call(time.monotonic() - WRITE_BY_SECONDS - 3600, lambda: False), id="too old"),
        pytest.param(Call(time.monotonic() + 3600, lambda: True), id="hung up"),
    ],
)
def test_a_late_call_does_nothing(database: Database, subject: Subject, late: Call) -> None:
    subject.sync(late)
    assert isinstance(subject.outcome.error, RequestExpired)
    assert database.rows() == []
    subject.sync()
    database.create_table("pupils")
    subject.edit(table="pupils").sync(late)
    assert subject.tables == ["public.students", "public.pupils"]
    assert not subject.finalize(late)
    assert (database.rows(), database.rows("pupils")) == ([ROW], [])


@pytest.mark.parametrize("seconds_left", [-3600.0, 0.001, 0.003])
def test_a_late_call_without_a_connection_does_not_make_others_fail(
    store: Store, database: Database, seconds_left: float
) -> None:
    """Also one that leaves less time than a healthy server needs for a connection: it is the call that is late."""
    late, subject = Subject(store), Subject(store)
    late.sync(Call(time.monotonic() + seconds_left - (WRITE_BY_SECONDS - database.config().statement_timeout)))
    assert isinstance(late.outcome.error, RequestExpired)
    assert subject.sync() is Operation.INSERTED
    assert database.rows() == [ROW]

"""What the role may not do: a missing grant is named, and never lets a mistyped table block the deletion."""

from __future__ import annotations

import pytest

from postgres_writer.core.plan import Operation
from postgres_writer.database.store import Store
from support.ports import free_port
from support.subject import ROW, Limited

EVERY = "SELECT, INSERT, UPDATE, DELETE"
WITHOUT = {
    "any grant": "",
    "SELECT": "INSERT, UPDATE, DELETE",
    "INSERT": "SELECT, UPDATE, DELETE",
    "UPDATE": "SELECT, INSERT, DELETE",
    "UPDATE of a column": "SELECT, INSERT, DELETE, UPDATE (name, age)",
    "INSERT of a column": "SELECT, UPDATE, DELETE, INSERT (id, name, age)",
    "SELECT of a column": "INSERT, UPDATE, DELETE, SELECT (id, name, age)",
}


@pytest.mark.parametrize("privileges", WITHOUT.values(), ids=[f"without {what}" for what in WITHOUT])
def test_a_table_that_may_not_be_written_is_not_listed_and_blocks_nothing(limited: Limited, privileges: str) -> None:
    if privileges:
        limited.grant(privileges)
    subject = limited.subject
    subject.sync()
    assert (subject.ready, subject.tables) == ("False AccessDenied", [])
    assert subject.status["observedTable"] == "students"
    assert "needs SELECT, INSERT, UPDATE and DELETE on it" in subject.message
    assert limited.database.rows() == []
    assert subject.finalize()


def test_grants_on_the_columns_are_enough(limited: Limited) -> None:
    limited.database.create_table("pupils")
    for table in ("students", "pupils"):
        columns = "SELECT (id, name, age, country), INSERT (id, name, age, country), UPDATE (name, age, country)"
        limited.grant(f"{columns}, DELETE", table)
    subject = limited.subject
    for table in ("students", "pupils", "students"):
        subject.edit(table=table, age=subject.generation).sync()
        assert (subject.ready, subject.tables) == ("True RowSynced", [f"public.{table}"])
    assert subject.finalize()
    assert limited.database.rows() == limited.database.rows("pupils") == []


@pytest.mark.parametrize("privileges", WITHOUT.values(), ids=[f"without {what}" for what in WITHOUT])
def test_a_table_that_may_not_be_written_any_more_stays_listed(limited: Limited, privileges: str) -> None:
    limited.grant(EVERY)
    subject = limited.subject
    subject.sync()
    limited.revoke("ALL")
    if privileges:
        limited.grant(privileges)
    subject.edit(age=24).sync()
    assert (subject.ready, subject.tables) == ("False AccessDenied", ["public.students"])
    assert limited.database.rows() == [ROW]


def test_an_outage_during_the_deletion_does_not_list_a_table_that_was_refused(limited: Limited) -> None:
    """Listed, it would count as one that held the row, and the missing grant would block the deletion for good."""
    subject = limited.subject
    subject.sync()
    unreachable = limited.database.config(host_names=("127.0.0.1",), ports=(free_port(),))
    working, subject.store = subject.store, Store(unreachable)
    assert not subject.finalize()
    assert (subject.ready, subject.tables) == ("False DatabaseUnavailable", [])
    subject.store = working
    assert subject.finalize()


def test_a_grant_that_comes_later_is_recorded_first(limited: Limited) -> None:
    subject = limited.subject
    subject.sync()
    limited.grant(EVERY)
    subject.sync()
    assert (subject.ready, subject.tables) == ("False TableRecorded", ["public.students"])
    assert limited.database.rows() == []
    assert subject.sync() is Operation.INSERTED
    assert subject.ready == "True RowSynced"


def test_a_grant_by_column_is_enough(limited: Limited) -> None:
    limited.grant("SELECT (id, name, age, country), INSERT (id, name, age, country), UPDATE (name, age, country)")
    limited.grant("DELETE")
    subject = limited.subject
    subject.status = {"tables": [], "observedTable": "students"}
    subject.sync()
    assert subject.ready == "False TableRecorded"
    assert subject.sync() is Operation.INSERTED
    assert subject.edit(age=24).sync() is Operation.UPDATED
    assert subject.finalize()


@pytest.mark.parametrize("missing", ["DELETE", "SELECT", "ALL"])
def test_a_delete_that_may_not_be_done_names_the_two_ways_out(limited: Limited, missing: str) -> None:
    limited.grant(EVERY)
    subject = limited.subject
    subject.sync()
    limited.revoke(missing)
    assert not subject.finalize()
    assert (subject.ready, subject.tables) == ("False DeleteFailed", ["public.students"])
    assert "needs SELECT and DELETE on it" in subject.message
    assert "Retain" in subject.message
    limited.grant("SELECT, DELETE")
    assert subject.finalize()
    assert limited.database.rows() == []


def test_retain_is_a_way_out(limited: Limited) -> None:
    limited.grant("SELECT, INSERT, UPDATE")
    subject = limited.subject
    assert subject.sync() is Operation.INSERTED
    assert not subject.finalize()
    subject.edit(deletionPolicy="Retain")
    assert subject.finalize()
    assert limited.database.rows() == [ROW]


def test_a_move_to_a_denied_table_leaves_the_row_and_lists_nothing_new(limited: Limited) -> None:
    limited.grant(EVERY)
    limited.database.create_table("pupils")
    subject = limited.subject
    subject.sync()
    subject.edit(table="pupils").sync()
    assert (subject.ready, subject.tables) == ("False AccessDenied", ["public.students"])
    assert limited.database.rows() == [ROW]
    limited.grant(EVERY, "pupils")
    subject.sync()
    assert (subject.ready, subject.tables) == ("False TableRecorded", ["public.students", "public.pupils"])
    assert subject.sync() is Operation.MOVED
    assert (subject.ready, subject.tables) == ("True RowSynced", ["public.pupils"])
    assert limited.database.rows() == []


def test_after_a_denied_table_the_deletion_clears_the_old_one(limited: Limited) -> None:
    limited.grant(EVERY)
    limited.database.create_table("pupils")
    subject = limited.subject
    subject.sync()
    subject.edit(table="pupils").sync()
    assert subject.finalize()
    assert limited.database.rows() == []


@pytest.mark.parametrize("missing", ["DELETE", "SELECT"])
def test_a_move_out_of_a_denied_table_names_the_old_one(limited: Limited, missing: str) -> None:
    limited.database.create_table("pupils")
    limited.grant(EVERY)
    limited.grant(EVERY, "pupils")
    subject = limited.subject
    subject.sync()
    limited.revoke(missing)
    subject.edit(table="pupils").sync()
    assert (subject.ready, subject.tables) == ("False AccessDenied", ["public.students", "public.pupils"])
    assert "cannot be moved from table public.students" in subject.message
    assert (limited.database.rows(), limited.database.rows("pupils")) == ([ROW], [])


def test_an_old_table_that_does_not_hold_the_row_needs_no_grant_to_delete(limited: Limited) -> None:
    limited.database.create_table("pupils")
    limited.grant("SELECT")
    limited.grant(EVERY, "pupils")
    subject = limited.subject
    subject.status = {"tables": ["public.students"], "observedTable": "students"}
    subject.edit(table="pupils").sync()
    assert (subject.ready, subject.tables) == ("True RowSynced", ["public.pupils"])


def test_a_schema_without_usage_does_not_make_its_table_look_dropped(limited: Limited) -> None:
    limited.run("CREATE SCHEMA team; GRANT USAGE ON SCHEMA team TO LIMITED")
    limited.database.create_table("team.pupils")
    limited.grant(EVERY, "team.pupils")
    subject = limited.subject
    assert subject.edit(table="team.pupils").sync() is Operation.INSERTED
    limited.run("REVOKE USAGE ON SCHEMA team FROM LIMITED")
    subject.edit(age=24).sync()
    assert (subject.ready, subject.tables) == ("False AccessDenied", ["team.pupils"])
    assert not subject.finalize()
    assert (subject.ready, subject.tables) == ("False DeleteFailed", ["team.pupils"])
    assert limited.database.rows("team.pupils") == [ROW]
    limited.run("GRANT USAGE ON SCHEMA team TO LIMITED")
    assert subject.finalize()
    assert limited.database.rows("team.pupils") == []


def test_a_schema_without_usage_that_was_never_listed_blocks_nothing(limited: Limited) -> None:
    limited.run("CREATE SCHEMA team")
    limited.database.create_table("team.pupils")
    subject = limited.subject
    subject.edit(table="team.pupils").sync()
    assert (subject.ready, subject.tables) == ("False AccessDenied", [])
    assert subject.finalize()


def test_an_invalid_spec_does_not_list_a_denied_table(limited: Limited) -> None:
    subject = limited.subject
    subject.edit(age=-1).sync()
    assert (subject.ready, subject.tables) == ("False InvalidSpec", [])
    assert subject.finalize()

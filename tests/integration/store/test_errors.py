"""An error whose connection survives says something about the table or the row, whatever its SQLSTATE."""

from __future__ import annotations

import pytest

from postgres_writer.core.plan import Operation, Write
from postgres_writer.core.response import keeps_status
from postgres_writer.core.row import Spec
from postgres_writer.database.store import Store
from postgres_writer.errors import DatabaseUnavailable, Retry
from support.payloads import recorded
from support.postgres import Database
from support.subject import ROW, Limited, Subject, fresh_call, next_session
from support.waiting import wait_until

CODES = (
    "08000 08001 08006 08P01",  # as a foreign server that is down raises them
    "57P01 57P02 57P03 57P04 57P05",
    "58000 58030 XX000 XX001 XX002",
    # as what is missing, or of another type, raises them: no proof that there is no row
    "42P01 3F000 42703 42883 42809 42501 22P02 0A000 21000 55000",
    "28000 28P01 3D000 25001 25006 25P02 26000 42P05 HV000",
)
OUT_OF_RESOURCES = ("53000", "53100", "53200", "53300", "53400")


def raising(database: Database, event: str, code: str) -> None:
    """Make a trigger of students that raises an error of that code."""
    database.query(
        "CREATE OR REPLACE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION 'secret' USING ERRCODE = '{code}'; END $$;"
        f"CREATE OR REPLACE TRIGGER act BEFORE {event} ON students FOR EACH ROW EXECUTE FUNCTION act()"
    )


def sessions(database: Database) -> set[int]:
    """Return the process ids of the store's connections."""
    found = database.query(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'postgres-writer' AND datname = current_database()"
    )
    return {pid for (pid,) in found}


@pytest.mark.parametrize("codes", CODES)
def test_a_trigger_that_raises_concerns_only_its_table(database: Database, store: Store, codes: str) -> None:
    database.create_table("pupils")
    Subject(store).sync()
    before = sessions(database)
    assert len(before) == 1
    for code in codes.split():
        raising(database, "UPDATE OR DELETE", code)
        subject = Subject(store, status=recorded("students"))
        for age in (24, 25):
            subject.edit(age=age).sync()
            assert (subject.ready, subject.tables) == ("False RowRejected", ["public.students"]), code
            assert f"SQLSTATE {code}" in subject.message
            other = Subject(store, {**subject.spec, "table": "pupils"})
            assert other.sync() in (Operation.INSERTED, Operation.UPDATED), "the circuit must stay closed"
        subject.edit(table="pupils").sync()
        assert (subject.ready, subject.tables) == ("False RowRejected", ["public.students", "public.pupils"]), code
        assert not subject.finalize()
        assert (subject.ready, subject.tables) == ("False DeleteFailed", ["public.students"]), code
        assert f"SQLSTATE {code}" in subject.message
        assert "Retain" in subject.message
        assert sessions(database) == before, "the connection must be kept"
        assert database.rows() == [ROW]


@pytest.mark.parametrize("code", OUT_OF_RESOURCES)
def test_a_lack_of_resources_passes(database: Database, subject: Subject, code: str) -> None:
    subject.sync()
    before = sessions(database)
    raising(database, "UPDATE OR DELETE", code)
    subject.edit(age=24).sync()
    assert (subject.ready, subject.tables) == ("False DatabaseUnavailable", ["public.students"])
    assert "out of disk space, memory or connections" in subject.message
    assert f"SQLSTATE {code}" in subject.message
    assert subject.outcome.error is not None
    assert subject.outcome.error.retry is Retry.TRANSIENT
    assert not subject.finalize()
    assert subject.ready == "False DatabaseUnavailable"
    database.query("DROP TRIGGER act ON students")
    assert subject.finalize(), "nothing may fail fast now"
    assert sessions(database) == before


@pytest.mark.parametrize(
    "function",
    ["pg_try_advisory_xact_lock(bigint)", "to_timestamp(double precision)", "pg_relation_filenode(regclass)"],
)
def test_a_role_that_may_not_call_what_every_message_calls_is_told_so(
    database: Database, limited: Limited, function: str
) -> None:
    """By default PUBLIC may; hardened databases take that away."""
    limited.grant("SELECT, INSERT, UPDATE, DELETE")
    subject = limited.subject
    subject.sync()
    database.query(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")
    try:
        subject.edit(age=24)
        for told in ("sync", "finalize"):
            assert getattr(subject, told)() in (Operation.NONE, False)
            assert (subject.ready, subject.tables) == ("False DatabaseUnavailable", ["public.students"])
            assert f"PostgreSQL's function {function.partition('(')[0]}," in subject.message
            assert "grant it EXECUTE" in subject.message
        assert database.rows() == [ROW]
    finally:
        database.query(f"GRANT EXECUTE ON FUNCTION {function} TO PUBLIC")
    assert subject.finalize(), "nothing may fail fast now"
    assert database.rows() == []


@pytest.mark.parametrize("code", ["40001", "40P01", "55P03", "57014"])
def test_what_is_busy_passes(database: Database, subject: Subject, code: str) -> None:
    subject.sync()
    before = sessions(database)
    raising(database, "UPDATE", code)
    subject.edit(age=24).sync()
    assert subject.ready == "False DatabaseBusy"
    assert sessions(database) == before


def test_a_session_that_is_stuck_in_a_failed_transaction_is_replaced(database: Database, subject: Subject) -> None:
    subject.sync()
    before = sessions(database)
    next_session(subject.store)._run("BEGIN", None)
    with pytest.raises(Exception, match="42P01"):
        next_session(subject.store)._run("SELECT * FROM nothing", None)
    assert subject.edit(age=24).sync() is Operation.UPDATED
    assert database.rows() == [("default/sample", "alex", 24, "canada")]
    wait_until(lambda: not sessions(database) & before, "the end of the old connection")


def test_a_read_only_session_is_looked_for_another_server(database: Database, subject: Subject) -> None:
    subject.sync()
    before = sessions(database)
    next_session(subject.store)._run("SET default_transaction_read_only = on", None)
    assert subject.edit(age=24).sync() is Operation.UPDATED
    wait_until(lambda: not sessions(database) & before, "the end of the old connection")


def test_a_transaction_timeout_that_a_trigger_left_behind_is_neither_an_outage_nor_the_tables_trouble(
    database: Database, subject: Subject
) -> None:
    """It ends the connection, and may have come while a row was waited for."""
    ((version,),) = database.query("SELECT current_setting('server_version_num')::integer")
    if version < 170000:
        pytest.skip("transaction_timeout came with PostgreSQL 17")
    database.create_table("pupils")
    other = Subject(subject.store, {**subject.spec, "table": "pupils"})
    waiting = [Subject(subject.store, metadata={"name": name}) for name in ("first", "second", "third")]
    for each in (other, *waiting):
        assert each.sync() is Operation.INSERTED
    with database.connection() as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN; SELECT FROM students FOR UPDATE")
        for each in waiting:
            # the connection of the one before has ended, which is seen before anything is sent on it
            assert other.sync() is Operation.UNCHANGED
            next_session(subject.store)._run("SET transaction_timeout = '200ms'", None)
            each.edit(age=24).sync()
            assert each.ready == "False DatabaseBusy"
        cursor.execute("ROLLBACK")
    for each in waiting:
        assert each.sync() is Operation.UPDATED, "nothing may fail fast now"


@pytest.mark.parametrize("differs", [False, True])
def test_the_status_stays_for_a_while_unless_the_row_was_seen_to_differ(database: Database, *, differs: bool) -> None:
    store = Store(Database({**database.connect, "port": "1"}).config())
    if differs:
        # the server goes between the look and the write
        store._matches = lambda _plan, _call: False  # type: ignore[method-assign, assignment]
    plan = Write(ROW[0], Spec("public.students", ()), (), listed=True, steady=True)
    outcome = store.apply(plan, fresh_call())
    assert isinstance(outcome.error, DatabaseUnavailable)
    assert keeps_status(plan, outcome) is not differs


def test_a_missing_table_names_the_database_and_the_one_that_differs_in_case(
    subject: Subject, database: Database
) -> None:
    subject.edit(table="Students").sync()
    assert subject.message.startswith(
        f"Table public.Students does not exist in database {database.name}, but public.students does; create it"
    )
    other = Subject(subject.store, {**subject.spec, "table": "pupils"}, metadata={"name": "other"})
    other.sync()
    assert other.message.startswith(f"Table public.pupils does not exist in database {database.name}; create it")


def test_a_missing_grant_names_the_role(limited: Limited) -> None:
    limited.subject.sync()
    assert limited.subject.ready == "False AccessDenied"
    assert f"the role {limited.role} needs SELECT, INSERT, UPDATE and DELETE on it" in limited.subject.message

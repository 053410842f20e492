"""The advisory lock of an id: what holds it, what may be believed without it, and the settings that it relies on."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg2.extensions
import pytest

from postgres_writer.core.plan import Operation
from postgres_writer.database.session import Session
from postgres_writer.database.sharing import Circuit
from postgres_writer.database.statements import LOCK, WORD, Message, Statement, lock_key, write
from postgres_writer.database.store import Store
from postgres_writer.deadlines import CIRCUIT_SECONDS
from postgres_writer.errors import IN_FLIGHT, DatabaseUnavailable
from postgres_writer.telemetry.metrics import OfDatabase
from support.postgres import Database
from support.subject import ROW, Subject, fresh_call
from support.ways import both_ways, is_prepared

BUSY = "False DatabaseBusy"
SYNCED = "True RowSynced"


@pytest.fixture
def subject(request: pytest.FixtureRequest, database: Database) -> Iterator[Subject]:
    """Make a resource whose row is in pupils, although its table is students by now: a move is due."""
    database.create_table("pupils")
    store = Store(database.config(prepared_statements=is_prepared(request)))
    subject = Subject(store)
    subject.edit(table="pupils").sync()
    subject.edit(table="students")
    yield subject
    store.close()


@pytest.fixture
def database(database: Database) -> Iterator[Database]:
    """Take back what a test has set for the database, which is used again."""
    yield database
    with database.connection(options="-c default_transaction_read_only=off") as own, own.cursor() as cursor:
        cursor.execute(f"ALTER DATABASE {database.name} RESET ALL")


@pytest.fixture
def other(database: Database, subject: Subject) -> Iterator[psycopg2.extensions.connection]:
    """Hold the lock of the resource's id in another transaction, once its row is in pupils."""
    assert subject.tables == ["public.pupils"]
    with database.connection() as connection:
        connection.autocommit = False
        connection.cursor().execute("SELECT pg_advisory_xact_lock(%s)", (lock_key(ROW[0]),))
        yield connection
        connection.rollback()


@both_ways("subject")
@pytest.mark.usefixtures("other")
def test_nothing_is_claimed_while_another_transaction_holds_the_lock(database: Database, subject: Subject) -> None:
    subject.sync()
    assert (subject.ready, subject.message) == (BUSY, IN_FLIGHT)
    assert sorted(subject.tables) == ["public.pupils", "public.students"]
    assert not subject.finalize()
    assert (subject.ready, sorted(subject.tables)) == (BUSY, ["public.pupils", "public.students"])
    assert (database.rows(), database.rows("pupils")) == ([], [ROW])


@pytest.mark.usefixtures("other")
def test_a_look_drops_no_table_without_the_lock(database: Database, subject: Subject) -> None:
    database.query("DELETE FROM pupils")
    subject.edit(age=-1).sync()
    assert subject.ready == "False InvalidSpec"
    assert sorted(subject.tables) == ["public.pupils", "public.students"]


@both_ways("subject")
@pytest.mark.usefixtures("other")
def test_a_table_is_not_recorded_without_the_lock(subject: Subject) -> None:
    subject.status["observedTable"] = "students"
    subject.sync()
    assert (subject.ready, subject.tables) == (BUSY, ["public.pupils"])


def test_the_lock_ends_with_its_message(subject: Subject, other: psycopg2.extensions.connection) -> None:
    other.rollback()
    for _ in range(2):
        subject.sync()
        assert subject.ready == SYNCED
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", (lock_key(ROW[0]),))
            assert cursor.fetchall() == [(True,)]
            cursor.execute("SELECT pg_advisory_unlock_all()")


def test_the_lock_of_one_id_holds_up_no_other(
    subject: Subject, database: Database, other: psycopg2.extensions.connection
) -> None:
    subject.metadata["name"] = "another"
    subject.sync()
    assert subject.ready == SYNCED
    assert [row[0] for row in database.rows()] == ["default/another"]
    assert other.status == psycopg2.extensions.STATUS_IN_TRANSACTION


@both_ways("subject")
def test_the_steady_state_asks_for_no_lock_but_writes_under_it(
    subject: Subject, database: Database, other: psycopg2.extensions.connection
) -> None:
    other.rollback()
    subject.sync()
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (lock_key(ROW[0]),))
        assert subject.sync() is Operation.UNCHANGED
        database.query("UPDATE students SET age = 99")
        subject.sync()
        assert subject.ready == BUSY
        assert database.rows() == [(ROW[0], "alex", 99, "canada")]
        database.query("UPDATE students SET age = 23")
        subject.sync()
        assert subject.ready == BUSY, "not Ready before, and without the lock"
    other.rollback()
    assert subject.sync() is Operation.UNCHANGED


def test_a_read_only_server_is_not_believed(subject: Subject, database: Database) -> None:
    """A standby shows what the primary was: a row that is not there may be there by now."""
    database.query("DELETE FROM pupils")
    database.query(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
    subject.store = Store(database.config())
    subject.edit(age=-1).sync()
    assert sorted(subject.tables) == ["public.pupils", "public.students"]
    subject.edit(age=23).status["observedTable"] = "students"
    subject.status["tables"] = ["public.pupils"]
    subject.sync()
    assert (subject.ready, subject.tables) == ("False DatabaseUnavailable", ["public.pupils"])
    assert "read-only" in subject.message
    subject.store.close()


def test_a_read_only_server_is_not_believed_in_the_steady_state_either(subject: Subject, database: Database) -> None:
    assert subject.sync() is Operation.MOVED
    database.query(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
    for prepared in (True, False):
        subject.store = Store(database.config(prepared_statements=prepared))
        subject.sync(lost=True)
        assert isinstance(subject.outcome.error, DatabaseUnavailable)
        assert "read-only" in str(subject.outcome.error)
        subject.store.close()


@pytest.mark.parametrize("prepared", [True, False], ids=["prepared", "plain"])
@pytest.mark.parametrize(
    ("commit", "expected"), [("off", "on"), ("local", "local"), ("on", "on"), ("remote_apply", "remote_apply")]
)
def test_settings_of_the_role_that_would_break_the_promise_are_not_left_to_it(
    database: Database, prepared: bool, commit: str, expected: str
) -> None:
    """Another isolation sees what was committed before the lock was asked for; commits must survive a crash."""
    database.query(f"ALTER DATABASE {database.name} SET default_transaction_isolation = serializable")
    database.query(f"ALTER DATABASE {database.name} SET synchronous_commit = {commit}")
    config, circuit = database.config(prepared_statements=prepared), Circuit(CIRCUIT_SECONDS)
    session = Session(config, circuit, OfDatabase("default"), lambda: None)
    asked = Statement("SELECT current_setting('transaction_isolation'), current_setting('synchronous_commit')")
    written = write("public.students", ("name", "age", "country"))
    parameters = {
        "id": ROW[0],
        "doc": {"name": "alex", "age": 23, "country": "canada"},
        "key": lock_key(ROW[0]),
        "word": WORD,
    }
    for message in (
        Message((asked,), frozenset(), locks=False),
        Message((LOCK, asked), frozenset()),
        Message((*written.parts, asked), written.tables, writes=True),
    ):
        isolation, durable = session.execute(fresh_call(), message, parameters)
        assert isolation == "read committed"
    assert durable == expected, "at the end of what writes"
    session.close()

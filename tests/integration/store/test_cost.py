"""What a sync costs: an unchanged row one round trip and no write-ahead log, everything else little more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from integration.relay import Relay, relayed
from postgres_writer.core.plan import Operation
from postgres_writer.database import session, statements
from postgres_writer.database.store import Store
from support.postgres import Database
from support.spec_cases import ABSENT
from support.subject import ROW, Subject, next_session

REPEATS = 100


@pytest.mark.parametrize("steady", [True, False], ids=["steady", "locked"])
@pytest.mark.parametrize("prepared", [True, False], ids=["prepared", "plain"])
def test_an_unchanged_row_writes_nothing(database: Database, prepared: bool, steady: bool) -> None:
    store = Store(database.config(prepared_statements=prepared))
    subject = Subject(store)
    # without the answer the status stays empty, and every sync takes the lock
    subject.sync(lost=not steady)
    with database.connection() as connection, connection.cursor() as cursor:

        def state() -> tuple[str, str]:
            cursor.execute("SELECT xmin::text || ' ' || xmax::text || ' ' || ctid::text FROM students")
            [(row,)] = cursor.fetchall()
            cursor.execute("SELECT pg_current_wal_insert_lsn()::text")
            [(lsn,)] = cursor.fetchall()
            return row, lsn

        subject.sync(lost=not steady)
        row, lsn = state()
        assert all(subject.sync(lost=not steady) is Operation.UNCHANGED for _ in range(REPEATS))
        later_row, later_lsn = state()
        cursor.execute("SELECT pg_wal_lsn_diff(%s, %s)", (later_lsn, lsn))
        [(written,)] = cursor.fetchall()
    assert later_row == row
    # ON CONFLICT DO UPDATE ... WHERE would write 96 bytes each; the server itself writes a record now and then
    assert written < REPEATS * 10, f"{written} bytes of write-ahead log"
    store.close()


@pytest.fixture(params=[True, False], ids=["prepared", "plain"])
def relay(request: pytest.FixtureRequest, database: Database) -> Iterator[tuple[Relay, Subject]]:
    """Make a resource whose database is reached through a relay, over a connection that has served its tables."""
    database.create_table("pupils")
    with relayed(database) as (relay, reached):
        store = Store(reached.config(prepared_statements=request.param))
        for table in ("pupils", "students"):
            another = Subject(store, metadata={"name": "another"}).edit(table=table)
            assert (another.sync(), another.sync()) == (Operation.INSERTED, Operation.UNCHANGED)
            assert another.finalize()
        subject = Subject(store)
        subject.sync()
        relay.take()
        yield relay, subject
        store.close()


def test_every_usual_sync_is_one_round_trip(relay: tuple[Relay, Subject], database: Database) -> None:
    counter, subject = relay
    assert subject.sync() is Operation.UNCHANGED
    assert counter.take() == ["Q"]
    assert subject.edit(age=24).sync(lost=True) is Operation.UPDATED
    assert counter.take() == ["Q"]
    assert subject.sync() is Operation.UNCHANGED
    assert counter.take() == ["Q"]
    subject.status = ABSENT
    database.query("DELETE FROM students")
    assert subject.sync() is Operation.INSERTED
    assert counter.take() == ["Q"]
    assert subject.edit(table="pupils").sync() is Operation.MOVED
    assert counter.take() == ["Q"]


def test_only_drift_takes_two_round_trips(relay: tuple[Relay, Subject], database: Database) -> None:
    """What differs is found without the lock, and repaired with it."""
    counter, subject = relay
    database.query("UPDATE students SET age = 99")
    assert subject.sync() is Operation.UPDATED
    assert counter.take() == ["Q", "Q"]
    assert database.rows() == [ROW]


def test_what_needs_no_database_does_not_ask_it(relay: tuple[Relay, Subject]) -> None:
    counter, subject = relay
    subject.edit(age=-1).sync()
    subject.edit(age=1, deletionPolicy="Retain").finalize()
    assert counter.take() == []


def test_a_delete_is_one_round_trip(relay: tuple[Relay, Subject], database: Database) -> None:
    counter, subject = relay
    assert subject.finalize()
    assert counter.take() == ["Q"]
    assert database.rows() == []
    assert subject.finalize()
    assert counter.take() == ["Q"], "nor does it take more to say that there is no row"


def test_a_dead_connection_is_replaced_without_the_user_seeing_it(database: Database, subject: Subject) -> None:
    subject.sync()
    killed = database.query(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE application_name = 'postgres-writer' AND datname = current_database()"
    )
    assert killed == [(1,)]
    assert subject.edit(age=24).sync() is Operation.UPDATED
    assert subject.ready == "True RowSynced"


def test_prepared_statements_that_a_pooler_lost_are_prepared_again(database: Database, subject: Subject) -> None:
    subject.sync()
    next_session(subject.store)._run("DEALLOCATE ALL", None)
    assert subject.edit(age=24).sync() is Operation.UPDATED


def test_prepared_statements_that_a_pooler_kept_are_used(relay: tuple[Relay, Subject], database: Database) -> None:
    """A session pool hands the session of a server that has ended to the next one, with all that it prepared."""
    counter, subject = relay
    next_session(subject.store)._texts.clear()
    assert subject.edit(age=24).sync() is Operation.UPDATED
    assert subject.sync() is Operation.UNCHANGED
    assert subject.finalize()
    assert database.rows() == []
    counter.take()


def test_what_is_prepared_is_found_after_the_statements_were_forgotten(
    relay: tuple[Relay, Subject], database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    counter, subject = relay
    for age in (24, 25):
        statements.write.cache_clear()
        statements.matches.cache_clear()
        assert subject.edit(age=age).sync() is Operation.UPDATED
        assert subject.sync() is Operation.UNCHANGED
        assert counter.take() == ["Q", "Q"]
    statements.remove.cache_clear()
    assert subject.finalize()
    assert counter.take() == ["Q"]
    assert "lost prepared statements" not in caplog.text


def test_more_tables_than_are_kept_prepared(database: Database, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The statements of all tables work, also of those whose prepared form was given up in between."""
    monkeypatch.setattr(session, "_MAX_TEXTS", 20)
    tables = [f"t{number}" for number in range(15)]
    database.query(";".join(f"CREATE TABLE {table} (LIKE students INCLUDING ALL)" for table in tables))
    for _ in range(2):
        for table in tables:
            subject = Subject(store, {"table": table, "name": "alex", "age": 23, "country": "canada"})
            assert subject.sync() is Operation.INSERTED
            assert subject.finalize()

"""Through a real PgBouncer: both pool modes, and the setting for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from faults.load import steady_load
from postgres_writer.config.settings import Config
from support.callers import ask, ask_all, body
from support.payloads import DELETED, payload, resource
from support.pgbouncer import PgBouncer, running_pgbouncer
from support.postgres import Database, PostgresInstance
from support.server import ServerProcess, running_server

USERS = {"hook": "hook", "postgres": "first"}
SYNCED = "True RowSynced"
IDLE = "usename = 'hook' AND state = 'idle'"


POOL = 2 * Config.connections
"""Server connections for all that two workers open: with fewer, session pooling lets the others wait."""


@pytest.fixture(params=["transaction", "session"])
def pooler(instance: PostgresInstance, request: pytest.FixtureRequest) -> Iterator[PgBouncer]:
    with running_pgbouncer(instance, request.param, USERS, pool_size=POOL) as pooler:
        yield pooler


@pytest.fixture
def table(instance: PostgresInstance) -> Iterator[Database]:
    """Give the tables students and pupils, empty, as their owner sees them."""
    database = instance.maintenance
    database.query("TRUNCATE students")
    database.create_table("pupils")
    database.query("GRANT SELECT, INSERT, UPDATE, DELETE ON pupils TO hook")
    yield database
    database.query("DROP TABLE pupils")


@pytest.fixture
def server(instance: PostgresInstance, pooler: PgBouncer, table: Database) -> Iterator[ServerProcess]:
    """Run a server that sends no prepared statements."""
    database = pooler.database(instance, "hook", "hook")
    with running_server(database, PSQL_PREPARED_STATEMENTS="false") as server:
        yield server


def test_a_row_comes_changes_moves_heals_and_goes(server: ServerProcess, table: Database) -> None:
    def sync(status: object, **spec: object) -> dict[str, object]:
        wanted = {"table": "students", "name": "alex", "age": 23, "country": "canada", **spec}
        answer = server.post("sync", payload(resource(wanted, status))).json()
        assert answer["status"]["conditions"][0]["reason"] == "RowSynced", answer
        found: dict[str, object] = answer["status"]
        return found

    status = sync(None)
    assert table.rows() == [("default/sample", "alex", 23, "canada")]
    status = sync(status, age=24)
    table.query("DELETE FROM students")
    status = sync(status, age=24)
    assert table.rows() == [("default/sample", "alex", 24, "canada")]
    status = sync(status, age=24, table="pupils")
    assert (table.rows(), table.rows("pupils")) == ([], [("default/sample", "alex", 24, "canada")])
    spec = {"table": "pupils", "name": "alex", "age": 24, "country": "canada"}
    answer = server.post("finalize", payload(resource(spec, status, **DELETED), finalizing=True)).json()
    assert answer["finalized"] is True
    assert table.rows("pupils") == []


def test_many_callers_share_the_pool(server: ServerProcess, table: Database) -> None:
    for age in (1, 2):
        answers = ask_all(server.port, (body(f"r{number}", age) for number in range(48)))
        assert {answer.ready for answer in answers} == {SYNCED}
        assert [row[2] for row in table.rows()] == [age] * 48


def test_statement_limits_hold_and_stay_with_their_transaction(
    server: ServerProcess, pooler: PgBouncer, instance: PostgresInstance, table: Database
) -> None:
    with table.connection() as locker:
        locker.autocommit = False
        locker.cursor().execute("LOCK TABLE students")
        # the answer comes while the lock is held: the limit of the statement is what ends the wait
        assert ask(server.port, body("locked"), patience=60).ready == "False DatabaseBusy"
        locker.rollback()
    assert ask(server.port, body("locked")).ready == SYNCED
    # another client gets the same server connections and must not find our limits on them
    other = pooler.database(instance, "hook", "hook")
    assert {row for _ in range(8) for row in other.query("SHOW statement_timeout")} == {("0",)}


def test_connections_that_the_pooler_closes_are_replaced_unseen(
    server: ServerProcess, table: Database, instance: PostgresInstance
) -> None:
    with steady_load(server.url) as load:
        for _ in range(3):
            load.wait_for(50)
            table.query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'hook' AND state = 'idle'"
            )
    # one that dies in the midst of a statement is told; nothing else is
    assert set(load.failures) <= {"200 False DatabaseUnavailable", "200 False RequestExpired"}, load.answers
    assert load.answers["200 True RowSynced"] >= 150


def test_prepared_statements_work_with_pooled_sessions(instance: PostgresInstance, table: Database) -> None:
    with running_pgbouncer(instance, "session", USERS, pool_size=POOL) as pooler:
        database = pooler.database(instance, "hook", "hook")
        with running_server(database) as server, steady_load(server.url) as load:
            load.wait_for(200)
        assert not load.failures, load.answers


def test_a_restart_finds_what_it_prepared_in_sessions_that_the_pooler_does_not_reset(
    instance: PostgresInstance, table: Database
) -> None:
    """The next server is handed the session of the last one, and would prepare under names that are taken."""
    with running_pgbouncer(instance, "session", USERS, pool_size=1, server_reset_query="") as pooler:
        database = pooler.database(instance, "hook", "hook")
        for age in (1, 2, 3):
            with running_server(database) as server:
                for _ in range(2):
                    assert ask(server.port, body("r0", age)).ready == SYNCED
                assert table.rows() == [("default/r0", "alex", age, "canada")]
                assert "lost prepared statements" not in server.logs


def test_prepared_statements_left_on_with_pooled_transactions_are_an_honest_state(
    instance: PostgresInstance, table: Database
) -> None:
    """Every answer is true, no row is wrong, and the log names the setting."""
    with running_pgbouncer(instance, "transaction", USERS, pool_size=3) as pooler:
        database = pooler.database(instance, "hook", "hook")
        with running_server(database) as server:
            for age in range(1, 6):
                # in a new session of the pooler's nothing is prepared, and ours believe that it is
                table.query(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {IDLE}")
                # both tables: a statement that was prepared for one must never be run for the other
                tables = [("students", "pupils")[number % 2] for number in range(24)]
                answers = ask_all(server.port, (body(f"r{n}", age, found) for n, found in enumerate(tables)))
                assert {answer.status for answer in answers} == {200}
                assert {answer.ready for answer in answers} <= {SYNCED, "False DatabaseUnavailable"}
                rows = {name: {row[0]: row[2] for row in table.rows(name)} for name in set(tables)}
                for number, answer in enumerate(answers):
                    assert f"default/r{number}" not in rows[tables[number - 1]]
                    if answer.ready == SYNCED:
                        assert rows[tables[number]][f"default/r{number}"] == age
            assert "PSQL_PREPARED_STATEMENTS=false" in server.logs
            assert "pgw_" not in "".join(str(answer.body) for answer in answers)

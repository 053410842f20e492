"""Whatever is wrong with PostgreSQL: the answer comes in time and is true, and afterwards everything recovers."""

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from faults.site import Site
from postgres_writer.deadlines import CIRCUIT_SECONDS, TABLE_SECONDS
from support.callers import ask, body
from support.waiting import wait_until

UNAVAILABLE = "False DatabaseUnavailable"
BUSY = "False DatabaseBusy"
EXPIRED = "False RequestExpired"
SYNCED = "True RowSynced"


@contextlib.contextmanager
def stopped(site: Site) -> Iterator[None]:
    site.instance.stop()
    try:
        yield
    finally:
        site.instance.start()


@contextlib.contextmanager
def killed(site: Site) -> Iterator[None]:
    site.instance.kill()
    try:
        yield
    finally:
        site.instance.start()


@contextlib.contextmanager
def hanging(site: Site) -> Iterator[None]:
    site.instance.freeze()
    try:
        yield
    finally:
        site.instance.thaw()


@contextlib.contextmanager
def refusing_the_password(site: Site) -> Iterator[None]:
    site.database.query("ALTER ROLE hook PASSWORD 'another'")
    site.end_connections()
    try:
        yield
    finally:
        site.database.query("ALTER ROLE hook PASSWORD 'hook'")


@contextlib.contextmanager
def read_only(site: Site) -> Iterator[None]:
    def switch(value: str) -> None:
        with site.database.connection(options="-c default_transaction_read_only=off") as own, own.cursor() as cursor:
            cursor.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
            cursor.execute("SELECT pg_reload_conf()")
        # what a new connection finds the postmaster has passed on to the others
        shown = "SHOW default_transaction_read_only"
        wait_until(lambda: site.database.query(shown) == [(value,)], f"the server to be read-only: {value}")

    switch("on")
    try:
        yield
    finally:
        switch("off")


@contextlib.contextmanager
def locked_table(site: Site) -> Iterator[None]:
    with site.database.connection() as own, own.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE students")
        yield


@contextlib.contextmanager
def out_of_connections(site: Site) -> Iterator[None]:
    site.database.query("ALTER ROLE hook CONNECTION LIMIT 2")
    site.end_connections()
    try:
        yield
    finally:
        site.database.query("ALTER ROLE hook CONNECTION LIMIT -1")


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        pytest.param(stopped, {UNAVAILABLE}, id="stopped"),
        pytest.param(killed, {UNAVAILABLE}, id="killed"),
        pytest.param(hanging, {UNAVAILABLE, EXPIRED}, id="hanging"),
        pytest.param(refusing_the_password, {UNAVAILABLE}, id="refusing the password"),
        pytest.param(read_only, {UNAVAILABLE}, id="read-only"),
        pytest.param(locked_table, {BUSY, EXPIRED}, id="table locked"),
        pytest.param(out_of_connections, {UNAVAILABLE, SYNCED}, id="out of connections"),
    ],
)
def test_a_fault_is_answered_in_time_and_honestly_and_passes(
    site: Site, fault: Callable[[Site], contextlib.AbstractContextManager[None]], expected: set[str]
) -> None:
    site.check_healthy(1)
    with fault(site):
        answers = site.sync_all(2)
        assert {answer.ready for answer in answers} <= expected
        assert site.server.get("/healthz").status_code == 200
    site.check_recovered(3, TABLE_SECONDS if fault is locked_table else CIRCUIT_SECONDS)


def test_behind_a_hanging_server_most_are_told_at_once(site: Site) -> None:
    """The first ones wait until it is known; then one at a time tries, and none on a connection that would hang."""
    site.check_healthy(1)
    with hanging(site):
        known = max(answer.seconds for answer in site.sync_all(2))
        answers = [ask(site.server.port, body(f"r{number}", 2)) for number in range(40)]
        assert {answer.ready for answer in answers} <= {UNAVAILABLE, EXPIRED}
        slow = [answer for answer in answers if answer.seconds > known / 4]
        print(f"{len(slow)} of {len(answers)} waited, for {known:.1f} s at first")
        assert len(slow) < len(answers) / 4
    site.check_recovered(3)


def test_one_locked_row_holds_up_nobody_else(site: Site) -> None:
    site.check_healthy(1)
    with site.database.connection() as own, own.cursor() as cursor, ThreadPoolExecutor() as pool:
        cursor.execute("BEGIN; UPDATE students SET age = 5 WHERE id = 'default/r0'")
        locked = pool.submit(ask, site.server.port, body("r0", 2))
        others = [ask(site.server.port, body(f"r{number}", 2)) for number in range(1, 9)]
        assert locked.result().ready == BUSY
        assert {answer.ready for answer in others} == {SYNCED}
        assert max(answer.seconds for answer in others) < locked.result().seconds
        cursor.execute("ROLLBACK")
    assert ask(site.server.port, body("r0", 2)).ready == SYNCED


def test_a_finalizer_stays_while_the_database_is_away(site: Site) -> None:
    site.check_healthy(1)
    request = body("r0")
    request["parent"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    with stopped(site):
        answer = ask(site.server.port, request, "finalize")
        assert (answer.body["finalized"], answer.ready, answer.tables) == (False, UNAVAILABLE, ["public.students"])
    time.sleep(CIRCUIT_SECONDS + 0.5)
    assert ask(site.server.port, request, "finalize").body["finalized"] is True
    assert "default/r0" not in [row[0] for row in site.database.rows()]
    site.check_recovered(2)


def test_a_restart_under_load(site: Site) -> None:
    site.check_healthy(1)
    end = time.monotonic() + 5

    def caller(number: int) -> list[tuple[int, float, str]]:
        found = []
        while time.monotonic() < end:
            answer = ask(site.server.port, body(f"r{number}", 2), patience=20)
            found.append((answer.status, answer.seconds, answer.ready))
            time.sleep(0.05)
        return found

    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(caller, number) for number in range(8)]
        for restart in (site.instance.stop, site.instance.kill):
            time.sleep(0.5)
            restart()
            site.instance.start()
        answers = [answer for future in running for answer in future.result()]
    assert {status for status, _, _ in answers} == {200}
    assert max(seconds for _, seconds, _ in answers) < 10
    assert {ready for _, _, ready in answers} <= {SYNCED, UNAVAILABLE, EXPIRED}
    site.check_recovered(3)


def test_idle_connections_that_die_are_replaced_unseen(site: Site) -> None:
    site.check_healthy(1)
    for age in (2, 3):
        site.end_connections()
        site.check_healthy(age)


def test_prepared_statements_outlive_what_happens_to_the_table(site: Site) -> None:
    site.check_healthy(1)
    site.database.query("ALTER TABLE students ALTER COLUMN age TYPE bigint, ALTER COLUMN name TYPE varchar(50)")
    site.check_healthy(2)
    site.database.query("ALTER TABLE students ADD COLUMN note text DEFAULT '-'")
    site.check_healthy(3)
    site.database.query("CREATE TABLE fresh (id text PRIMARY KEY, name text, age int, country text)")
    site.database.query("GRANT SELECT, INSERT, UPDATE, DELETE ON fresh TO hook")
    site.database.query("DROP TABLE students; ALTER TABLE fresh RENAME TO students")
    site.check_healthy(4)

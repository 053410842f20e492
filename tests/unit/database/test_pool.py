"""The pool: a bounded number of sessions, the last used one first, idle ones closed, no wait past the deadline."""

from __future__ import annotations

import threading
import time
from typing import cast

import psycopg2
import pytest

from postgres_writer.core.refusals import Refused
from postgres_writer.database import statements
from postgres_writer.database.pool import Pool
from postgres_writer.database.session import Session, Stuck
from postgres_writer.database.sharing import Waiter
from postgres_writer.deadlines import LOADED_LOCK_SECONDS
from postgres_writer.errors import BUSY, UNAVAILABLE, DatabaseBusy, DatabaseUnavailable, RequestExpired, ResourceError
from support.fake_sessions import LOCK, LONG, SOON, lend, pool_of, soon, waiting_for

TABLE = frozenset({"students"})
WRITE = statements.write("students", ("name",))


def test_one_after_the_other_share_a_session() -> None:
    pool, made = pool_of(4)
    for _ in range(5):
        with lend(pool, soon()):
            pass
    assert len(made) == 1


def test_the_session_that_was_used_last_is_lent_first() -> None:
    pool, _ = pool_of(4)
    with lend(pool, soon()) as first, lend(pool, soon()) as second:
        pass
    with lend(pool, soon()) as again:
        assert again is first
        with lend(pool, soon()) as below:
            assert below is second


def test_who_finds_none_free_waits_until_one_is_given_back() -> None:
    pool, made = pool_of(1)
    with lend(pool, soon()) as lent:
        waiting, got = waiting_for(pool, pool._queue)
        assert not got
    waiting.join(LONG)
    assert got == [lent]
    assert len(made) == 1


def test_who_waits_gives_up_in_time_and_leaves_no_trace() -> None:
    pool, _ = pool_of(1)
    with lend(pool, soon()):
        with pytest.raises(RequestExpired), lend(pool, soon(SOON)):
            pass
        assert not pool._queue._waiting
    with lend(pool, soon()):
        pass


def test_a_time_that_is_over_does_not_keep_from_a_free_session() -> None:
    """The session itself refuses to send in vain; a wait of no length must not fail before."""
    pool, _ = pool_of(1)
    with lend(pool, soon(-1.0)):
        pass


def test_a_refused_statement_leaves_the_connection_and_an_interruption_ends_it() -> None:
    pool, made = pool_of(1)
    with pytest.raises(DatabaseBusy), lend(pool, soon()):
        raise DatabaseBusy
    assert made[0].is_connected
    with pytest.raises(KeyboardInterrupt), lend(pool, soon()):
        raise KeyboardInterrupt
    assert [session.is_connected for session in made] == [False]
    with lend(pool, soon()):
        assert len(made) == 2


def test_a_connection_that_is_too_old_is_not_used_again() -> None:
    pool, made = pool_of(1)
    with lend(pool, soon()):
        made[0].young = False
    assert made[0].closed.is_set()


def test_what_is_idle_for_too_long_is_closed_without_anybody_coming() -> None:
    pool, made = pool_of(2, idle_seconds=SOON)
    for _ in range(2):
        with lend(pool, soon()), lend(pool, soon()):
            pass
        assert all(session.closed.wait(LONG) for session in made)
    assert len(made) == 4, "each was closed, and the pool went on"


def test_an_idle_connection_is_not_trusted_when_the_closing_is_late() -> None:
    pool, made = pool_of(1, idle_seconds=LONG)
    with lend(pool, soon()):
        pass
    made[0].idle_since -= 2 * LONG
    with lend(pool, soon()):
        assert not made[0].is_connected, "it connects again"


def test_closing_closes_what_is_idle_and_the_pool_goes_on() -> None:
    pool, made = pool_of(2)
    with lend(pool, soon()) as lent, lend(pool, soon()):
        pass
    pool.close()
    assert [session.is_connected for session in made] == [False, False]
    with lend(pool, soon()) as again:
        assert again is not lent


def test_an_interrupted_wait_gives_its_connection_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A greenlet can be ended in the very moment in which it was granted a connection."""
    pool, made = pool_of(1)

    class Interrupted(threading.Event):
        def wait(self, _timeout: float | None = None) -> bool:
            pool._give_back(cast(Session, made[0]), TABLE)
            assert self.is_set()
            raise KeyboardInterrupt

    def begin(waiter: Waiter, number: int) -> None:
        waiter.number, waiter.granted, waiter.answered = number, False, Interrupted()

    pool._take(TABLE, soon())
    with monkeypatch.context() as patched:
        patched.setattr(Waiter, "__init__", begin)
        with pytest.raises(KeyboardInterrupt):
            pool._take(TABLE, soon())
    with lend(pool, soon(SOON)):
        assert len(made) == 1


def test_where_less_than_half_is_free_a_lock_is_not_waited_for_long() -> None:
    pool, made = pool_of(4)
    with lend(pool, soon()), lend(pool, soon()), lend(pool, soon()), lend(pool, soon(), "alumni"):
        assert [session.lock_timeout for session in made] == [LOCK, LOCK, LOADED_LOCK_SECONDS, LOADED_LOCK_SECONDS]
    with lend(pool, soon()) as session:
        assert session.lock_timeout == LOCK


def test_many_threads_are_all_served_by_few_sessions() -> None:
    pool, made = pool_of(4)
    busy, worst, served = [0], [0], [0]
    lock = threading.Lock()

    def call() -> None:
        for _ in range(50):
            with lend(pool, soon()):
                with lock:
                    busy[0] += 1
                    worst[0] = max(worst[0], busy[0])
                time.sleep(0.0005)
                with lock:
                    busy[0] -= 1
                    served[0] += 1

    threads = [threading.Thread(target=call) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert (served[0], worst[0], len(made)) == (600, 3, 3)


# The order and the circuits of the tables; what they decide is tested beside them


def timed_out(cause: Exception | None = None) -> ResourceError:
    """Make the error of a statement that waited for its table in vain."""
    error = DatabaseUnavailable(UNAVAILABLE) if isinstance(cause, Stuck) else DatabaseBusy(BUSY)
    error.__cause__ = cause or QueryCanceled()
    return error


class QueryCanceled(psycopg2.Error):
    """The driver's error; its own constructor sets no code."""

    pgcode = "57014"


class TransactionTimeout(psycopg2.Error):
    """The error of a time-out that a row's lock may have caused as well."""

    pgcode = "25P04"


def fail(pool: Pool, error: Exception, row: str, statement: statements.Message = WRITE) -> None:
    with pytest.raises(type(error)), pool.lend(statement, f"default/{row}", soon()):
        raise error


@pytest.mark.parametrize("cause", [QueryCanceled(), Stuck()], ids=["canceled", "no answer"])
def test_after_time_outs_of_two_ids_the_callers_of_a_table_are_refused_at_once(cause: Exception) -> None:
    pool, _ = pool_of(4)
    for row in ("one", "two"):
        fail(pool, timed_out(cause), row)
    with pytest.raises(DatabaseBusy), lend(pool, soon()):
        pass
    with lend(pool, soon(), "alumni"):
        pass


@pytest.mark.parametrize(
    ("error", "statement"),
    [
        (DatabaseBusy(BUSY), WRITE),
        (timed_out(TransactionTimeout()), WRITE),
        (timed_out(), statements.write("students", ("name",), ("alumni",))),
        (RequestExpired(BUSY), WRITE),
        (Refused("23505"), WRITE),
    ],
    ids=["no time-out", "of the transaction", "a move", "expired", "refused"],
)
def test_nothing_else_trips_a_table(error: Exception, statement: statements.Message) -> None:
    pool, _ = pool_of(4)
    for row in ("one", "two", "three"):
        fail(pool, error, row, statement)
    with lend(pool, soon()):
        pass


@pytest.mark.parametrize("refused", [False, True], ids=["written", "refused"])
def test_what_gets_through_to_the_table_forgets_a_time_out(refused: bool) -> None:
    pool, _ = pool_of(4)
    fail(pool, timed_out(), "one")
    if refused:
        fail(pool, Refused("23505"), "two")
    else:
        with lend(pool, soon(), row="default/two"):
            pass
    fail(pool, timed_out(), "three")
    with lend(pool, soon()):
        pass


def test_a_read_that_succeeds_does_not_forget_a_time_out() -> None:
    """A lock that keeps out writes may let reads through."""
    pool, _ = pool_of(4)
    fail(pool, timed_out(), "one")
    with pool.lend(statements.present("students"), "default/one", soon()):
        pass
    fail(pool, timed_out(), "two")
    with pytest.raises(DatabaseBusy), lend(pool, soon()):
        pass


def test_who_waits_for_a_table_that_trips_is_refused_then() -> None:
    pool, _ = pool_of(3)
    with lend(pool, soon()), lend(pool, soon()):
        waiting, got = waiting_for(pool, pool._queue)
        pool._note_failure(WRITE, "default/one", timed_out())
        pool._note_failure(WRITE, "default/two", timed_out())
        waiting.join(LONG)
        assert got == [DatabaseBusy(BUSY)]
    assert not pool._queue._waiting


def test_one_connection_is_left_to_another_table() -> None:
    pool, made = pool_of(3)
    with lend(pool, soon()), lend(pool, soon()):
        with pytest.raises(RequestExpired), lend(pool, soon(SOON)):
            pass
        with lend(pool, soon(SOON), "alumni"):
            pass
    assert len(made) == 3

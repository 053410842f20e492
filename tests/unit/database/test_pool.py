"""The pool: a bounded number of sessions, the last used one first, idle ones closed, no wait past the deadline."""

from __future__ import annotations

import random
import threading
import time
from contextlib import AbstractContextManager, ExitStack
from typing import cast

import psycopg2
import pytest

from postgres_writer.core.refusals import Refused
from postgres_writer.database import statements
from postgres_writer.database.pool import Pool
from postgres_writer.database.session import Session, Stuck
from postgres_writer.database.sharing import Queue, Waiter
from postgres_writer.deadlines import LOADED_LOCK_SECONDS
from postgres_writer.errors import BUSY, UNAVAILABLE, DatabaseBusy, DatabaseUnavailable, RequestExpired, ResourceError
from postgres_writer.telemetry.metrics import OfDatabase

SOON, LONG, LOCK = 0.05, 30.0, 3.0
TABLE = frozenset({"students"})
WRITE = statements.write("students", ("name",))


class FakeSession:
    """What the pool knows of a session; it connects when it is made."""

    def __init__(self) -> None:
        self.is_connected = True
        self.closed = threading.Event()
        self.young = True
        self.idle_since = time.monotonic()
        self.lock_timeout = 0.0

    def is_worth_keeping(self, _now: float) -> bool:
        return self.is_connected and self.young

    def close(self) -> None:
        self.is_connected = False
        self.closed.set()


class Maker:
    """Makes the sessions of a pool and remembers them."""

    def __init__(self) -> None:
        self.made: list[FakeSession] = []

    def __call__(self) -> Session:
        self.made.append(FakeSession())
        return cast(Session, self.made[-1])


def pool_of(size: int, idle_seconds: float = LONG) -> tuple[Pool, list[FakeSession]]:
    maker = Maker()
    return Pool(maker, Queue(size), Queue(size + 1), idle_seconds, LOCK, OfDatabase("default")), maker.made


def lend(
    pool: Pool, until: float, table: str = "students", row: str = "default/one"
) -> AbstractContextManager[Session]:
    return pool.lend(statements.write(table, ("name",)), row, until)


def soon(seconds: float = LONG) -> float:
    return time.monotonic() + seconds


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
    got: list[Session] = []

    def wait() -> None:
        with lend(pool, soon()) as session:
            got.append(session)

    with lend(pool, soon()) as lent:
        waiting = threading.Thread(target=wait)
        waiting.start()
        while not pool._queue._waiting:
            time.sleep(0.001)
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


def waiting_for(pool: Pool, table: str) -> tuple[threading.Thread, list[object]]:
    """Start a caller that must wait; gives it, and what it will have got."""
    got: list[object] = []

    def wait() -> None:
        try:
            with lend(pool, soon(), table) as session:
                got.append(session)
        except ResourceError as exc:
            got.append(exc)

    thread = threading.Thread(target=wait)
    thread.start()
    while frozenset({table}) not in pool._queue._waiting:
        time.sleep(0.001)
    return thread, got


def test_who_waits_for_a_table_that_trips_is_refused_then() -> None:
    pool, _ = pool_of(3)
    with lend(pool, soon()), lend(pool, soon()):
        waiting, got = waiting_for(pool, "students")
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


def sharing(total: int, *sizes: int) -> list[tuple[Pool, list[FakeSession]]]:
    """Make pools that share so many connections, each for a database of its own."""
    pools: list[tuple[Pool, list[FakeSession]]] = []
    together = Queue(total, lambda: min((pool for pool, _ in pools), key=lambda pool: pool.idle_since).close_oldest())
    for number, size in enumerate(sizes):
        maker = Maker()
        pools.append((Pool(maker, Queue(size), together, LONG, LOCK, OfDatabase(f"database-{number}")), maker.made))
    return pools


def open_now(made: list[FakeSession]) -> int:
    return sum(session.is_connected for session in made)


def test_all_databases_together_have_no_more_than_the_total() -> None:
    pools = sharing(5, 4, 4, 4)
    with ExitStack() as stack:
        for pool, _ in pools:
            stack.enter_context(lend(pool, soon()))
        stack.enter_context(lend(pools[0][0], soon()))
        for pool, _ in pools:
            with pytest.raises(RequestExpired), lend(pool, soon(SOON)):
                pass
    assert sum(len(made) for _, made in pools) == 4, "the last one is for a database that holds none"


def test_the_last_one_goes_to_a_database_that_holds_none() -> None:
    (greedy, _), (late, made) = sharing(4, 4, 4)
    with lend(greedy, soon()), lend(greedy, soon()), lend(greedy, soon()):
        with pytest.raises(RequestExpired), lend(greedy, soon(SOON)):
            pass
        with lend(late, soon()):
            assert len(made) == 1


def test_idle_ones_of_others_are_closed_first_the_oldest_before_all() -> None:
    (first, of_first), (second, of_second), (third, _) = sharing(4, 3, 3, 3)
    with lend(first, soon()):
        pass
    with lend(second, soon()):
        pass
    with lend(third, soon()), lend(third, soon()):
        assert (open_now(of_first), open_now(of_second)) == (0, 1)


def test_who_waits_for_the_total_takes_a_connection_of_its_own_that_is_given_back() -> None:
    """Else the connection would be closed, and another one opened for who waits."""
    ((pool, made),) = sharing(3, 3)
    got: list[Session] = []

    def wait() -> None:
        with lend(pool, soon(), "teachers") as session:
            got.append(session)

    with lend(pool, soon()):
        with lend(pool, soon()) as lent:
            waiting = threading.Thread(target=wait)
            waiting.start()
            while not pool._total._waiting:
                time.sleep(0.001)
            assert not got
        waiting.join(LONG)
    assert got == [lent]
    assert (len(made), open_now(made)) == (2, 2)


def test_a_database_that_holds_none_gets_one_that_comes_back_elsewhere() -> None:
    (busy, made), (last, _), (other, _) = sharing(2, 2, 2, 2)
    got: list[Session] = []

    def wait() -> None:
        with lend(other, soon()) as session:
            got.append(session)

    with lend(last, soon()):
        with lend(busy, soon()):
            waiting = threading.Thread(target=wait)
            waiting.start()
            while not other._total._waiting:
                time.sleep(0.001)
            assert not got
        waiting.join(LONG)
        assert len(got) == 1
    assert open_now(made) == 0


@pytest.mark.parametrize("seed", range(20))
def test_nobody_is_left_waiting_and_the_total_holds_whatever_happens(seed: int) -> None:
    chance = random.Random(seed)
    total = chance.randint(3, 6)
    pools = sharing(total, *(chance.randint(1, 4) for _ in range(chance.randint(1, 6))))
    highest = 0

    def work(numbers: random.Random) -> None:
        nonlocal highest
        for _ in range(40):
            pool, _ = numbers.choice(pools)
            with lend(pool, soon(), numbers.choice(["a", "b", "c"])) as session:
                highest = max(highest, sum(open_now(made) for _, made in pools))
                if numbers.random() < 0.1:
                    session.close()
                time.sleep(0.0005 * numbers.random())

    threads = [threading.Thread(target=work, args=(random.Random(seed * 100 + number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert not any(thread.is_alive() for thread in threads)
    assert highest <= total
    queue = pools[0][0]._total
    assert not queue._waiting
    assert total - queue._free == sum(len(pool._idle) for pool, _ in pools)

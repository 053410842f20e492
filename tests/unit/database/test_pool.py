"""The pool: a bounded number of sessions, the last used one first, idle ones closed, nobody waits past his time."""

from __future__ import annotations

import threading
import time
from typing import cast

import pytest

from postgres_writer.database.pool import Pool, _Waiter
from postgres_writer.database.session import Session
from postgres_writer.errors import DatabaseBusy, RequestExpired

SOON, LONG = 0.05, 30.0


class FakeSession:
    """What the pool knows of a session; it connects when it is made."""

    def __init__(self) -> None:
        self.is_connected = True
        self.closed = threading.Event()
        self.young = True

    def is_worth_keeping(self, _now: float) -> bool:
        return self.young

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
    return Pool(maker, size, idle_seconds), maker.made


def soon(seconds: float = LONG) -> float:
    return time.monotonic() + seconds


def test_one_after_the_other_share_a_session() -> None:
    pool, made = pool_of(4)
    for _ in range(5):
        with pool.lend(soon()):
            pass
    assert len(made) == 1


def test_the_session_that_was_used_last_is_lent_first() -> None:
    pool, _ = pool_of(4)
    with pool.lend(soon()) as first, pool.lend(soon()) as second:
        pass
    with pool.lend(soon()) as again:
        assert again is first
        with pool.lend(soon()) as below:
            assert below is second


def test_who_finds_none_free_waits_until_one_is_given_back() -> None:
    pool, made = pool_of(1)
    got: list[Session] = []

    def wait() -> None:
        with pool.lend(soon()) as session:
            got.append(session)

    with pool.lend(soon()) as lent:
        waiting = threading.Thread(target=wait)
        waiting.start()
        while not pool._waiting:
            time.sleep(0.001)
        assert not got
    waiting.join(LONG)
    assert got == [lent]
    assert len(made) == 1


def test_who_waits_gives_up_in_time_and_leaves_no_trace() -> None:
    pool, _ = pool_of(1)
    with pool.lend(soon()):
        with pytest.raises(RequestExpired), pool.lend(soon(SOON)):
            pass
        assert not pool._waiting
    with pool.lend(soon()):
        pass


def test_a_time_that_is_over_does_not_keep_from_a_free_session() -> None:
    """The session itself refuses to send in vain; a wait of no length must not fail before."""
    pool, _ = pool_of(1)
    with pool.lend(soon(-1.0)):
        pass


def test_a_refused_statement_leaves_the_connection_and_an_interruption_ends_it() -> None:
    pool, made = pool_of(1)
    with pytest.raises(DatabaseBusy), pool.lend(soon()):
        raise DatabaseBusy
    assert made[0].is_connected
    with pytest.raises(KeyboardInterrupt), pool.lend(soon()):
        raise KeyboardInterrupt
    assert [session.is_connected for session in made] == [False]
    with pool.lend(soon()):
        assert len(made) == 2


def test_a_connection_that_is_too_old_is_not_used_again() -> None:
    pool, made = pool_of(1)
    with pool.lend(soon()):
        made[0].young = False
    assert made[0].closed.is_set()


def test_what_is_idle_for_too_long_is_closed_without_anybody_coming() -> None:
    pool, made = pool_of(2, idle_seconds=SOON)
    for _ in range(2):
        with pool.lend(soon()), pool.lend(soon()):
            pass
        assert all(session.closed.wait(LONG) for session in made)
    assert len(made) == 4, "each was closed, and the pool went on"


def test_an_idle_connection_is_not_trusted_when_the_closing_is_late() -> None:
    pool, made = pool_of(1, idle_seconds=LONG)
    with pool.lend(soon()):
        pass
    since, session = pool._idle.pop()
    pool._idle.append((since - 2 * LONG, session))
    with pool.lend(soon()):
        assert not made[0].is_connected, "it connects anew"


def test_closing_closes_what_is_idle_and_the_pool_goes_on() -> None:
    pool, made = pool_of(2)
    with pool.lend(soon()) as lent, pool.lend(soon()):
        pass
    pool.close()
    assert [session.is_connected for session in made] == [False, False]
    with pool.lend(soon()) as again:
        assert again is not lent


def test_an_interrupted_wait_gives_its_session_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A greenlet can be ended in the very moment in which it was given a session."""
    pool, made = pool_of(1)

    class Interrupted(threading.Event):
        def wait(self, _timeout: float | None = None) -> bool:
            pool._give_back(cast(Session, made[0]))
            assert self.is_set()
            raise KeyboardInterrupt

    def begin(waiter: _Waiter) -> None:
        waiter.session, waiter.granted = None, Interrupted()

    pool._take(soon())
    with monkeypatch.context() as patched:
        patched.setattr(_Waiter, "__init__", begin)
        with pytest.raises(KeyboardInterrupt):
            pool._take(soon())
    assert pool._lent == 0
    with pool.lend(soon()):
        assert len(made) == 1


def test_many_threads_are_all_served_by_few_sessions() -> None:
    pool, made = pool_of(3)
    busy, worst, served = [0], [0], [0]
    lock = threading.Lock()

    def call() -> None:
        for _ in range(50):
            with pool.lend(soon()):
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

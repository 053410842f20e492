"""Databases that share a bounded number of connections: none starves, and the bound holds whatever happens."""

from __future__ import annotations

import random
import threading
import time
from contextlib import ExitStack

import pytest

from postgres_writer.database.pool import Pool
from postgres_writer.database.sharing import Queue
from postgres_writer.errors import RequestExpired
from postgres_writer.telemetry.metrics import OfDatabase
from support.fake_sessions import LONG, SOON, FakeSession, Maker, lend, soon, waiting_for


def sharing(total: int, *sizes: int) -> list[tuple[Pool, list[FakeSession]]]:
    """Make pools that share so many connections, each for a database of its own."""
    pools: list[tuple[Pool, list[FakeSession]]] = []
    together = Queue(total, lambda: min((pool for pool, _ in pools), key=lambda pool: pool.idle_since).close_oldest())
    for number, size in enumerate(sizes):
        maker = Maker()
        pools.append((Pool(maker, Queue(size), together, LONG, OfDatabase(f"database-{number}")), maker.made))
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
    with lend(pool, soon()):
        with lend(pool, soon()) as lent:
            waiting, got = waiting_for(pool, pool._total, "teachers")
            assert not got
        waiting.join(LONG)
    assert got == [lent]
    assert (len(made), open_now(made)) == (2, 2)


def test_a_database_that_holds_none_gets_one_that_comes_back_elsewhere() -> None:
    (busy, made), (last, _), (other, _) = sharing(2, 2, 2, 2)
    with lend(last, soon()):
        with lend(busy, soon()):
            waiting, got = waiting_for(other, other._total)
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

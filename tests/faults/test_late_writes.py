"""A request that its caller has given up does not write after its successor, wherever its worker was stopped."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from faults.proxy import Proxy, running_proxy
from faults.site import Site, running_site
from support.callers import Answer, ask, ask_all, body, owner
from support.postgres import PostgresInstance
from support.scrape import scrape
from support.server import ServerProcess
from support.waiting import wait_until

STOPPED = 20.0


@pytest.fixture(scope="module")
def proxy(instance: PostgresInstance) -> Iterator[Proxy]:
    with running_proxy(instance.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def site(instance: PostgresInstance, proxy: Proxy) -> Iterator[Site]:
    with running_site(instance, proxy.port) as site:
        yield site


@pytest.fixture(scope="module")
def successor(instance: PostgresInstance) -> Iterator[ServerProcess]:
    """Run another replica, which gets the requests that follow on those that the first one holds."""
    with running_site(instance, instance.port) as site:
        yield site.server


@contextlib.contextmanager
def stopped_processes(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def ages(site: Site, *names: str) -> list[int]:
    rows = {row[0]: row[2] for row in site.database.rows()}
    return [rows[f"default/{name}"] for name in names]


def test_a_write_held_on_its_way_is_refused_by_the_database(site: Site, proxy: Proxy, successor: ServerProcess) -> None:
    site.check_healthy(1)
    proxy.hold_next(lambda message: b"default/r0" in message)
    with ThreadPoolExecutor() as pool:
        given_up = pool.submit(ask, site.server.port, body("r0", 2))
        assert proxy.caught.wait(60), "the write has not been sent"
        held = next(link for link in proxy.links if link.held)
        worker = owner(held.client.getpeername()[1], site.server.workers())
        with stopped_processes([worker]):
            began = time.monotonic()
            assert given_up.result().status == 0
            assert ask(successor.port, body("r0", 3)).ready == "True RowSynced"
            time.sleep(max(0.0, STOPPED - (time.monotonic() - began)))
            assert held in proxy.links, "the connection must still be there, or the late write is not tried"
            proxy.release()
            time.sleep(1)
            assert ages(site, "r0") == [3]
    time.sleep(1)
    assert ages(site, "r0") == [3]
    site.check_recovered(4)


def caught_by_a_stop(site: Site, names: list[str], pool: ThreadPoolExecutor) -> list[Future[Answer]]:
    """Stop the worker at one moment after the other until it has requests in its hands; give these."""
    worker = site.server.workers()[0]
    for delay in range(40):
        calls = [pool.submit(ask, site.server.port, body(name, 2)) for name in names]
        time.sleep(delay % 8 / 1000)
        os.kill(worker, signal.SIGSTOP)
        time.sleep(1)
        pending = [call for call in calls if not call.done()]
        if pending:
            return pending
        os.kill(worker, signal.SIGCONT)
    raise AssertionError("no moment was found in which the worker had a request")


def test_a_worker_stopped_amid_requests_writes_nothing_when_it_goes_on(site: Site, successor: ServerProcess) -> None:
    site.check_healthy(1)
    names = [f"r{number}" for number in range(24)]
    worker = site.server.workers()[0]
    try:
        with ThreadPoolExecutor(len(names)) as pool:
            given_up = caught_by_a_stop(site, names, pool)
            began = time.monotonic()
            assert {call.result().status for call in given_up} == {0}
            for name in names:
                assert ask(successor.port, body(name, 3)).ready == "True RowSynced"
        time.sleep(max(0.0, STOPPED - (time.monotonic() - began)))
    finally:
        os.kill(worker, signal.SIGCONT)
    print(f"{len(given_up)} requests were in the stopped worker")  # shown by pytest -rP
    time.sleep(2)
    assert ages(site, *names) == [3] * len(names)
    site.check_recovered(4)


def test_requests_that_waited_in_the_queue_of_the_kernel_do_nothing_once_given_up(site: Site) -> None:
    site.check_healthy(1)
    names = [f"r{number}" for number in range(16)]
    with stopped_processes(site.server.workers()):
        answers = ask_all(site.server.port, [body(name, 2) for name in names], patience=1.5)
        assert {answer.status for answer in answers} == {0}
    time.sleep(2)
    assert ages(site, *names) == [1] * len(names)
    site.check_healthy(3)


def test_a_network_that_swallows_everything(site: Site, proxy: Proxy) -> None:
    site.check_healthy(1)
    proxy.blackhole()
    try:
        assert {answer.ready for answer in site.sync_all(2)} <= {"False DatabaseUnavailable", "False RequestExpired"}
    finally:
        # what is swallowed is lost: it must not arrive late from the proxy's own memory
        proxy.cut()
        proxy.restore()
    site.check_recovered(3)


def test_a_write_that_waits_for_a_lock_ends_with_its_caller(site: Site) -> None:
    """The successor waits for the same lock; when it is released the abandoned write must not come second."""
    site.check_healthy(5)
    expired, busy = ended(site)
    with site.database.connection() as own, own.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE students")
        assert ask(site.server.port, body("r0", 6), patience=0.3).status == 0
        # its caller ended it; lock_timeout, which would have come later, makes it busy
        wait_until(lambda: sum(ended(site)) > expired + busy, "the end of the abandoned write")
        assert ended(site) == (expired + 1, busy)
        wait_until(lambda: waiting(site) == 0, "the end of its statement")
        cursor.execute("COMMIT")
    time.sleep(0.5)
    assert ages(site, "r0") == [5]
    site.check_healthy(7)


def ended(site: Site) -> tuple[float, float]:
    """Count the requests that ended because their caller or their time was gone, and because of a lock."""
    found = scrape(site.server)
    expired, busy = (
        found.total("postgres_writer_hook_requests_total", reason=reason)
        for reason in ("RequestExpired", "DatabaseBusy")
    )
    return expired, busy


def waiting(site: Site) -> int:
    """Count the sessions of the hooks that wait for a lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'hook' AND wait_event_type = 'Lock'"
    ((count,),) = site.database.query(query)
    return int(count)

"""A locked table, or row, affects only itself: other tables are not delayed."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from faults.site import Site, running_site
from postgres_writer.deadlines import LOCK_SHARE, TABLE_SECONDS
from support.callers import Answer, ask, ask_all, body
from support.payloads import payload, recorded, resource
from support.postgres import PostgresInstance
from support.scrape import scrape
from support.spec_cases import ABSENT
from support.waiting import wait_until

BUSY, EXPIRED, SYNCED = "False DatabaseBusy", "False RequestExpired", "True RowSynced"
UNAVAILABLE = "False DatabaseUnavailable"
CALLERS = 31
LOCK_SECONDS = 4.0 * LOCK_SHARE
"""How long a statement waits for a lock, at most. One that another's lock delays waits as long; the others far less."""


@pytest.fixture(scope="module")
def instance(instance: PostgresInstance) -> PostgresInstance:
    instance.maintenance.query("CREATE TABLE alumni (LIKE students INCLUDING ALL)")
    instance.maintenance.query("GRANT SELECT, INSERT, UPDATE, DELETE ON alumni TO hook")
    return instance


@pytest.fixture(scope="module")
def site(instance: PostgresInstance) -> Iterator[Site]:
    with running_site(instance, instance.port) as site:
        yield site


@contextlib.contextmanager
def locked(site: Site, statement: str) -> Iterator[None]:
    """Hold what the statement locks, in a transaction of its own."""
    with site.database.connection() as own, own.cursor() as cursor:
        cursor.execute(f"BEGIN; {statement}")
        yield


@dataclass
class Pressing:
    """Callers that ask again as soon as they are answered, each for a resource of its own."""

    answers: list[Answer] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def press(self, port: int, requests: Callable[[int], dict[str, Any]], number: int) -> None:
        while not self.done.is_set():
            self.answers.append(ask(port, requests(number)))
            # a failed resource is tried again after seconds
            self.done.wait(0.2)


@contextlib.contextmanager
def pressing(site: Site, requests: Callable[[int], dict[str, Any]], callers: int = CALLERS) -> Iterator[Pressing]:
    """Keep so many callers at it for the length of a with-block; all of them are answered in the end."""
    found = Pressing()
    with ThreadPoolExecutor(callers) as pool:
        running = [pool.submit(found.press, site.server.port, requests, number) for number in range(callers)]
        try:
            yield found
        finally:
            found.done.set()
        for future in running:
            future.result()
    assert {answer.status for answer in found.answers} == {200}, "a caller gave up"


def worst_beside(site: Site, requests: Callable[[int], dict[str, Any]], seconds: float) -> dict[str, float]:
    """Ask for healthy resources and for the probes, again and again; gives the slowest answer of each."""
    worst = {"sync": 0.0, "/readyz": 0.0, "/healthz": 0.0}
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        answer = ask(site.server.port, requests(number))
        number += 1
        assert answer.ready == SYNCED
        worst["sync"] = max(worst["sync"], answer.seconds)
        for probe in ("/readyz", "/healthz"):
            began = time.monotonic()
            assert site.server.get(probe, headers={"Connection": "close"}).status_code == 200
            worst[probe] = max(worst[probe], time.monotonic() - began)
    print(f"worst of {number}: { ({name: round(value, 3) for name, value in worst.items()}) }")
    return worst


def opened(site: Site, event: str = "opened") -> float:
    return scrape(site.server).total("postgres_writer_table_circuit_total", event=event)


def alumni(number: int) -> dict[str, Any]:
    return body(f"a{number}", 1, "alumni")


def students(number: int) -> dict[str, Any]:
    return body(f"s{number % 8}", number)


def test_a_locked_table_holds_up_no_other_and_no_probe(site: Site) -> None:
    assert ask(site.server.port, students(0)).ready == SYNCED
    before = opened(site)
    with locked(site, "LOCK TABLE alumni"), pressing(site, alumni) as pressed:
        worst = worst_beside(site, students, 3 * LOCK_SECONDS)
    assert {answer.ready for answer in pressed.answers} <= {BUSY, EXPIRED}
    print(f"worst on the locked table: {max(answer.seconds for answer in pressed.answers):.2f} s")
    assert worst["sync"] < LOCK_SECONDS, "a write of another table waited for the lock"
    assert worst["/readyz"] < LOCK_SECONDS
    assert worst["/healthz"] < LOCK_SECONDS
    # most failed fast, so no one waits long; and the end of the lock is noticed
    quick = [answer for answer in pressed.answers if answer.seconds < LOCK_SECONDS / 2]
    assert len(quick) > len(pressed.answers) / 2
    assert opened(site) > before
    assert "The table is locked or slow" in site.server.logs
    deadline = time.monotonic() + 6 * TABLE_SECONDS
    while opened(site, "closed") < opened(site):
        assert time.monotonic() < deadline, "a worker does not try the table"
        ask(site.server.port, alumni(0))
        time.sleep(0.1)
    assert ask(site.server.port, alumni(0)).ready == SYNCED


def test_a_first_write_of_another_table_is_not_held_up_by_one_that_holds_all_it_may(instance: PostgresInstance) -> None:
    with running_site(instance, instance.port) as site:
        with locked(site, "LOCK TABLE alumni"), pressing(site, alumni):
            deadline = time.monotonic() + 60
            while site.connections() < 3:
                assert time.monotonic() < deadline, "a table may have all connections but one"
                time.sleep(0.01)
            answer = ask(site.server.port, students(1))
        assert answer.ready == SYNCED
        assert answer.seconds < LOCK_SECONDS


def test_a_locked_row_holds_up_no_other_row_of_its_table(site: Site) -> None:
    assert ask(site.server.port, body("locked")).ready == SYNCED
    before = opened(site)
    with (
        locked(site, "UPDATE students SET age = 5 WHERE id = 'default/locked'"),
        pressing(site, lambda _: body("locked", 2), callers=1) as pressed,
        pressing(site, lambda number: body(f"free{number}", 1), callers=30) as others,
    ):
        worst = worst_beside(site, students, 2 * LOCK_SECONDS + 1)
    assert {answer.ready for answer in pressed.answers} == {BUSY}
    assert {answer.ready for answer in others.answers} == {SYNCED}
    assert max(worst["sync"], *(answer.seconds for answer in others.answers)) < LOCK_SECONDS
    assert opened(site) == before, "its table did not trip"


def test_moves_out_of_a_locked_table_hold_up_no_write_of_their_target(site: Site) -> None:
    def move(number: int) -> dict[str, Any]:
        spec = {"table": "students", "name": "alex", "age": 23, "country": "canada"}
        return payload(resource(spec, recorded("alumni"), name=f"moved{number}", generation=2))

    def worst_beside_moves() -> float:
        with locked(site, "LOCK TABLE alumni"), pressing(site, move) as pressed:
            worst = worst_beside(site, students, 3 * LOCK_SECONDS)
        assert {answer.ready for answer in pressed.answers} <= {BUSY, EXPIRED}
        return max(worst.values())

    before = opened(site)
    # a busy machine may hold up one of a thousand for as long; a lock does it each time
    assert any(worst_beside_moves() < LOCK_SECONDS for _ in range(2))
    assert opened(site) == before, "the time-out of a move trips no table"
    assert ask(site.server.port, move(0)).ready == SYNCED


def edit(name: str, status: dict[str, Any] | None, generation: int = 1, **spec: Any) -> dict[str, Any]:
    """Return the body of a sync for a resource with this status."""
    known = {"table": "students", "name": "alex", "age": generation, "country": "canada", **spec}
    return payload(resource(known, ABSENT if status is None else status, name=name, generation=generation))


def synced(site: Site, names: list[str], table: str = "students") -> dict[str, Any]:
    """Let resources be Ready; gives their statuses."""
    found = {name: ask(site.server.port, edit(name, None, table=table)) for name in names}
    assert {answer.ready for answer in found.values()} == {SYNCED}
    return {name: answer.body["status"] for name, answer in found.items()}


@pytest.mark.parametrize("connections", [4, 8])
def test_rows_that_a_batch_has_locked_hold_up_no_other_row_of_their_table(
    instance: PostgresInstance, connections: int
) -> None:
    with running_site(instance, instance.port, HOOK_CONNECTIONS=str(connections)) as site:
        batch = synced(site, [f"batch{number}" for number in range(32)])
        healthy = synced(site, [f"healthy{number}" for number in range(36)])
        ids = ", ".join(f"'default/{name}'" for name in batch)
        names, rounds = list(batch), []
        with (
            locked(site, f"SELECT 1 FROM students WHERE id IN ({ids}) FOR UPDATE"),
            pressing(site, lambda number: edit(names[number], batch[names[number]], 2), callers=32) as pressed,
        ):
            # the first find the pool empty, and wait for a lock as long as there is time for one
            wait_until(lambda: len(pressed.answers) > len(names), "the batch to be known")
            for generation in range(1, 4):
                requests = [edit(name, status, generation) for name, status in healthy.items()]
                steady = ask_all(site.server.port, requests)
                requests = [edit(name, status, generation + 1) for name, status in healthy.items()]
                written = ask_all(site.server.port, requests)
                rounds += [steady, written]
                healthy = {name: answer.body["status"] for name, answer in zip(healthy, written, strict=True)}
        for answers in rounds:
            found = dict(Counter(answer.ready if answer.status == 200 else str(answer.status) for answer in answers))
            print(f"{found}, the slowest after {max(answer.seconds for answer in answers):.2f} s")
        assert {answer.status for answers in rounds for answer in answers} == {200}
        assert {answer.ready for answers in rounds for answer in answers} == {SYNCED}
        assert {answer.ready for answer in pressed.answers} <= {BUSY, EXPIRED}
        assert opened(site) == 0, "the table did not trip"
        edits = [edit(name, status, 2) for name, status in batch.items()]
        assert {answer.ready for answer in ask_all(site.server.port, edits)} == {SYNCED}


def test_moves_into_a_slow_table_take_their_turn(instance: PostgresInstance) -> None:
    instance.maintenance.query(
        "CREATE TABLE slow (LIKE students INCLUDING ALL);"
        "GRANT SELECT, INSERT, UPDATE, DELETE ON slow TO hook;"
        "CREATE FUNCTION doze() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(0.5); RETURN NEW; END $$;"
        "CREATE TRIGGER doze BEFORE INSERT OR UPDATE ON slow FOR EACH ROW EXECUTE FUNCTION doze()"
    )
    ages = iter(range(1, 100_000))
    with running_site(instance, instance.port, HOOK_CONNECTIONS="8") as site:
        moved = synced(site, [f"moving{number}" for number in range(4)])
        with pressing(site, lambda number: body(f"slow{number}", next(ages), "slow"), callers=24) as pressed:
            wait_until(lambda: len(pressed.answers) > 24, "the table to be in use")
            began, done = time.monotonic(), dict[str, float]()
            while len(done) < len(moved) and time.monotonic() < began + 30:
                waiting = {name: edit(name, moved[name], 2, table="slow") for name in moved if name not in done}
                for name, answer in zip(waiting, ask_all(site.server.port, waiting.values()), strict=True):
                    if answer.ready == SYNCED:
                        done[name] = time.monotonic() - began
                    else:
                        moved[name] = answer.body["status"]
        found = dict(Counter(answer.ready for answer in pressed.answers))
        print(f"{len(done)} of {len(moved)} moves done, after {sorted(done.values())}; the others: {found}")
        assert set(done) == set(moved)
        assert set(found) == {SYNCED}, "no caller of the table starves either"
    assert {row[0] for row in instance.maintenance.rows("slow")} >= {f"default/{name}" for name in moved}


def test_a_statement_that_no_signal_ends_is_its_own_tables_trouble(instance: PostgresInstance) -> None:
    """Its backend is stopped, like one that waits for a disk which does not answer: no timeout ends it."""
    # the connection that shows that the server lives has to be made in 0.75 s, which a busy machine may need for itself
    assert any(is_told_from_an_outage(instance) for _ in range(3))


def is_told_from_an_outage(instance: PostgresInstance) -> bool:
    stuck: list[int] = []
    with (
        running_site(instance, instance.port, HOOK_CONNECTIONS="4") as site,
        ThreadPoolExecutor() as pool,
    ):
        assert ask(site.server.port, students(0)).ready == SYNCED
        try:
            with locked(site, "LOCK TABLE alumni"):
                hanging = pool.submit(ask, site.server.port, alumni(0))
                where = "FROM pg_stat_activity WHERE usename = 'hook' AND wait_event_type = 'Lock'"
                wait_until(lambda: site.database.query(f"SELECT pid {where}"), "the statement to wait for the lock")
                stuck += [pid for (pid,) in site.database.query(f"SELECT pid {where}")]
                assert len(stuck) == 1
                os.kill(stuck[0], signal.SIGSTOP)
            beside = set()
            while not hanging.done():
                beside |= {ask(site.server.port, requests(1)).ready for requests in (students, alumni)}
            assert hanging.result().ready == UNAVAILABLE
            if "PostgreSQL cannot be reached" in site.server.logs:
                return False
            assert beside == {SYNCED}
            worst_beside(site, students, LOCK_SECONDS)
            assert scrape(site.server).total("postgres_writer_database_circuit_open") == 0
            return "PostgreSQL cannot be reached" not in site.server.logs
        finally:
            for pid in stuck:
                os.kill(pid, signal.SIGCONT)

"""What the users see of PostgreSQL being away: nothing of a failover, except where something has to be done now."""

from __future__ import annotations

import time
from typing import Any

import pytest

from faults.proxy import running_proxy
from faults.site import Site, running_site
from postgres_writer.core.response import OUTAGE_SECONDS, RETRY_SECONDS
from postgres_writer.database.session import IDLE_SECONDS
from postgres_writer.errors import UNAVAILABLE
from support.callers import ask, body
from support.payloads import DELETED, payload, resource
from support.postgres import PostgresInstance
from support.scrape import scrape
from support.waiting import wait_until

REQUESTS = "postgres_writer_hook_requests_total"


def reason(site: Site, found: dict[str, Any], hook: str = "sync") -> str:
    """Call a hook; gives the reason of the condition Ready, or nothing where the status is to stay."""
    answer = site.server.post(hook, payload(found, finalizing=hook == "finalize"))
    if answer.status_code == 429:
        assert answer.headers["Content-Type"] == "application/problem+json"
        # Metacontroller reads whole seconds, and asks again at once where there are none
        assert int(answer.headers["Retry-After"]) >= RETRY_SECONDS
        return ""
    assert answer.status_code == 200
    return str(answer.json()["status"]["conditions"][0]["reason"])


def ready(site: Site, controller: str = "composite") -> dict[str, Any]:
    """Sync the resource until it is Ready, also where another test's outage has just ended; gives its status."""
    wait_until(lambda: reason(site, resource()) == "RowSynced", "PostgreSQL to be back")
    answer: dict[str, Any] = site.server.post("sync", payload(resource(), controller)).json()
    return answer["status"]  # type: ignore[no-any-return]


def refused(site: Site) -> tuple[float, int]:
    """Give how many requests found no database, and how many lines of the log tell so of a resource."""
    return scrape(site.server).total(REQUESTS, reason="DatabaseUnavailable"), site.server.logs.count(UNAVAILABLE)


def stop(site: Site) -> None:
    """Stop PostgreSQL, and wait until a connection counts as idle: one in use cannot be told from a lost statement."""
    site.instance.stop()
    time.sleep(2 * IDLE_SECONDS)


@pytest.mark.parametrize("controller", ["composite", "decorator"])
def test_a_failover_shows_only_where_something_is_to_be_done(site: Site, controller: str) -> None:
    status = ready(site, controller)
    counted, logged = refused(site)
    stop(site)
    try:
        began = time.monotonic()
        answers = [site.server.post("sync", payload(resource(status=status), controller)) for _ in range(20)]
        assert time.monotonic() - began < OUTAGE_SECONDS, "too slow to say anything"
        assert {answer.status_code for answer in answers} == {429}
        # the first retries come soon, and those of one worker one after the other
        assert min(int(answer.headers["Retry-After"]) for answer in answers) <= RETRY_SECONDS + 1
        for waiting in (
            resource(name="new"),
            resource(status=status, generation=2),
            resource(status={**status, "tables": ["students", "old"]}),
        ):
            assert reason(site, waiting) == "DatabaseUnavailable"
        assert reason(site, resource(status=status, **DELETED), "finalize") == "DatabaseUnavailable"
        # all are counted, and only those whose status changed have a line in the log
        assert refused(site) == (counted + len(answers) + 4, logged + 4)
    finally:
        site.instance.start()


def test_an_outage_that_lasts_shows_everywhere(site: Site) -> None:
    status = ready(site)
    stop(site)
    began = time.monotonic()
    try:
        assert reason(site, resource(status=status)) == ""
        # each worker counts from the first failure that it saw itself
        wait_until(
            lambda: reason(site, resource(status=status)) == "DatabaseUnavailable",
            "the outage in the status",
            timeout=OUTAGE_SECONDS + 30,
        )
        assert time.monotonic() - began >= OUTAGE_SECONDS - 1
    finally:
        site.instance.start()
    wait_until(lambda: reason(site, resource(status=status)) == "RowSynced", "the end of the outage")


@pytest.mark.parametrize("trouble", ["RAISE SQLSTATE '53100'", "PERFORM pg_terminate_backend(pg_backend_pid())"])
def test_a_row_that_was_seen_to_differ_shows_at_once(site: Site, trouble: str) -> None:
    """Every other resource succeeds meanwhile, so for as long as it lasts nobody else would tell."""
    ready(site)
    status = site.server.post("sync", payload(resource())).json()["status"]
    site.database.query(
        "UPDATE students SET age = 99;"
        f"CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {trouble}; RETURN NEW; END $$;"
        "CREATE TRIGGER act BEFORE UPDATE ON students FOR EACH ROW EXECUTE FUNCTION act()"
    )
    try:
        assert reason(site, resource(status=status)) == "DatabaseUnavailable"
    finally:
        site.database.query("DROP FUNCTION act CASCADE")
    wait_until(lambda: reason(site, resource(status=status)) == "RowSynced", "the row to be repaired")


def test_a_row_whose_reading_loses_the_connection_shows_at_once(instance: PostgresInstance) -> None:
    """A page that cannot be read ends the backend; nobody knows what is in the row, and all others succeed."""
    with running_proxy(instance.port) as proxy, running_site(instance, proxy.port) as site:
        status = ready(site)
        for reconnects in (True, False):
            proxy.cut_on(lambda message: b"default/sample" in message, reconnects=reconnects)
            try:
                assert reason(site, resource(status=status)) == "DatabaseUnavailable"
            finally:
                proxy.cut_on(None)
            wait_until(
                lambda: ask(site.server.port, body("another")).ready == "True RowSynced", "the others to succeed"
            )
            assert reason(site, resource(status=status)) == "RowSynced"


def test_a_refused_login_shows_at_once(site: Site) -> None:
    """Nothing but a person ends it; without it those that the circuit holds back would be told otherwise."""
    status = ready(site)
    site.database.query("ALTER ROLE hook PASSWORD 'another'")
    site.end_connections()
    try:
        for _ in range(8):
            assert reason(site, resource(status=status)) == "DatabaseUnavailable"
    finally:
        site.database.query("ALTER ROLE hook PASSWORD 'hook'")
    wait_until(lambda: reason(site, resource(status=status)) == "RowSynced", "the login to be accepted")

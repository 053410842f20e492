"""Connections that a load balancer or NAT in between drops silently: only the metrics show it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from faults.proxy import Proxy, running_proxy
from faults.site import Site, running_site
from support.callers import ask, body
from support.postgres import PostgresInstance
from support.scrape import scrape
from support.waiting import wait_until

SYNCED = "True RowSynced"


@pytest.fixture
def proxy(instance: PostgresInstance) -> Iterator[Proxy]:
    with running_proxy(instance.port) as proxy:
        yield proxy


def count(site: Site, name: str) -> float:
    return scrape(site.server).total(f"postgres_writer_database_connections_{name}_total")


def dropped(proxy: Proxy, site: Site) -> int:
    """Open connections, then let all of them be dropped; gives how many."""
    site.check_healthy(1)
    links = len(proxy.links)
    assert links >= 2, "each worker has one at least"
    proxy.swallow()
    return links


def test_a_dropped_connection_is_replaced_in_the_same_request(instance: PostgresInstance, proxy: Proxy) -> None:
    # the kernel gives up after 1 to 2 s, and a message may start until 6.5 s after its request
    given_up = {"PSQL_TCP_USER_TIMEOUT": "1", "PSQL_STATEMENT_TIMEOUT": "2"}
    with running_site(instance, proxy.port, **given_up) as site:
        links = dropped(proxy, site)
        replaced = count(site, "replaced")
        answers = [ask(site.server.port, body(f"r{number}", 2)) for number in range(4 * links)]
        assert {answer.ready for answer in answers} == {SYNCED}
        # the first in each worker waits for the kernel to give up, and all idle connections are replaced then
        slow = [round(answer.seconds, 2) for answer in answers if answer.seconds > 1]
        print(f"slow answers after {links} dropped connections: {slow}")
        assert len(slow) <= 2
        assert count(site, "replaced") - replaced <= 2
        assert {answer.ready for answer in site.sync_all(3)} == {SYNCED}


def test_a_connection_that_was_idle_for_long_is_not_used_at_all(instance: PostgresInstance, proxy: Proxy) -> None:
    with running_site(instance, proxy.port, PSQL_IDLE_TIMEOUT="3") as site:
        dropped(proxy, site)
        held = "postgres_writer_database_connections"
        wait_until(lambda: scrape(site.server).total(held) == 0, "the connections are closed")
        answers = [ask(site.server.port, body(f"r{number}", 2)) for number in range(16)]
        assert {answer.ready for answer in answers} == {SYNCED}
        assert count(site, "replaced") == 0


def test_unused_connections_are_closed(instance: PostgresInstance) -> None:
    with running_site(instance, instance.port, PSQL_IDLE_TIMEOUT="0.5") as site:
        site.check_healthy(1)
        wait_until(lambda: not site.connections(), "the connections are closed")
        assert ask(site.server.port, body("r0", 2)).ready == SYNCED

"""Faults while several users work on 300 resources; afterwards rows = resources, within a bounded time.

`make e2e` prints a table of them at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from e2e.faults import FAULTS
from e2e.traffic import Traffic
from support.stack import TABLES, Stack, Variant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.report import Report

# Webhook calls that failed are repeated with a backoff that doubles; what waits for a person (a missing table) is
# repeated within 90 s; a row that others change is restored within one and a half resync periods.
BOUND = 120.0
# While no hook server answers at all, every edit counts as one more failure of its object and doubles its backoff,
# up to Metacontroller's limit of 1000 s.
LONG_BOUND = {"hook servers down for 20 s": 1000.0}
RESYNC_SECONDS = "20"
NAMESPACES = ("load-a", "load-b", "load-c")
CALM = ("rolling restart of 2 hook servers",)

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module", params=["composite", "decorator"])
def loaded(stack: Stack, request: pytest.FixtureRequest) -> Iterator[Traffic]:
    """Install two hook servers behind one address and let 300 resources come to be."""
    stack.install(Variant(request.param), servers=2, HOOK_RESYNC_SECONDS=RESYNC_SECONDS)
    stack.wait_for_controller()
    for namespace in NAMESPACES:
        stack.client.create_namespace(namespace)
    traffic = Traffic(stack.client, stack.recorder, NAMESPACES, TABLES, seed=1)
    yield traffic
    stack.uninstall()


@pytest.mark.parametrize("fault", FAULTS)
def test_world_converges_after(loaded: Traffic, stack: Stack, report: Report, fault: str) -> None:
    before = stack.metacontroller.calls()
    loaded.start()
    try:
        loaded.wait_until_busy()
        stack.recorder.mark(f"begin of: {fault}")
        FAULTS[fault](stack)
        stack.recorder.mark(f"end of: {fault}")
        loaded.wait_until_busy()
    finally:
        loaded.stop()
    took = stack.world.converge(LONG_BOUND.get(fault, BOUND))
    calls = stack.metacontroller.calls() - before
    report.add(stack.variant.kind, fault, took, calls, loaded.counts)
    if fault in CALM:
        assert calls.refused == 0, "a hook call failed"

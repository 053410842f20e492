"""What lets two calls for one resource overlap: an edit of the controller, and a change of Metacontroller's leader.

Requests are held in their midst by a lock on the table, so that there is something to overlap with.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from support.faults import requests_held, waiting_ports
from support.stack import TABLES, Stack, Variant, wait_until
from support.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.e2e_report import Report
    from support.metacontroller import Metacontroller

BOUND = 120.0
EDITS = 15
LEASE_SECONDS = 40.0
_LEASE = "/apis/coordination.k8s.io/v1/namespaces/default/leases/metacontroller"

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module", params=["composite", "decorator"])
def busy(stack: Stack, request: pytest.FixtureRequest) -> Iterator[Traffic]:
    """Install a variant and let users work on a hundred resources."""
    stack.install(Variant(request.param), HOOK_RESYNC_SECONDS="20")
    stack.wait_for_controller()
    stack.client.create_namespace("handover")
    yield Traffic(stack.client, stack.recorder, ("handover",), TABLES, seed=2, objects=100)
    stack.uninstall()


def test_controller_edited_in_mid_request(busy: Traffic, stack: Stack, report: Report) -> None:
    calls, setbacks, aborted = stack.metacontroller.calls(), stack.recorder.setbacks, 0
    crashes = stack.metacontroller.crashes
    busy.start()
    try:
        busy.wait_until_busy()
        for number in range(EDITS):
            with requests_held(stack, "students"):
                aborted += len(waiting_ports(stack))
                controller = stack.controller(stack.address)
                for hook in controller["spec"]["hooks"].values():
                    hook["webhook"]["timeout"] = f"{9 + number % 2}s"
                stack.apply(controller)
                time.sleep(0.5)
    finally:
        busy.stop()
    took = stack.world.converge(BOUND)
    done = stack.metacontroller.calls() - calls
    report.add(stack.variant.kind, f"{EDITS} controller edits in mid-request", took, done, busy.counts)
    report.notes.append(
        f"{stack.variant.kind}: {EDITS} controller edits cut off {aborted} calls in the database; "
        f"Metacontroller crashed {stack.metacontroller.crashes - crashes} times; "
        f"{stack.recorder.setbacks - setbacks} statuses fell back to an earlier generation"
    )
    assert aborted >= EDITS, "too few calls were under way to prove anything"


def test_leader_changes_in_mid_request(
    two_leaders: tuple[Metacontroller, Metacontroller], busy: Traffic, stack: Stack, report: Report
) -> None:
    first, second = two_leaders
    setbacks = stack.recorder.setbacks
    first.start()
    wait_until(lambda: bool(holder(stack)), "the first leads", LEASE_SECONDS)
    busy.start()
    try:
        second.start()
        busy.wait_until_busy()
        frozen_over(stack, first)  # it ends and comes back, as the one that stands by
        busy.wait_until_busy()
        before = holder(stack)
        with requests_held(stack, "students"):
            second.kill()
        wait_until(lambda: holder(stack) != before, "the first leads again", LEASE_SECONDS)
        busy.wait_until_busy()
    finally:
        busy.stop()
    took = stack.world.converge(BOUND)
    report.add(stack.variant.kind, "leader stopped, next one killed", took, first.calls() + second.calls(), busy.counts)
    report.notes.append(
        f"{stack.variant.kind}: 2 changes of leader in mid-request; "
        f"{stack.recorder.setbacks - setbacks} statuses fell back to an earlier generation"
    )


@pytest.fixture
def two_leaders(busy: Traffic, stack: Stack) -> Iterator[tuple[Metacontroller, Metacontroller]]:
    """Replace the one Metacontroller by two that elect a leader, not started yet."""
    stack.metacontroller.stop()
    flags = ("--leader-election=true", "--leader-election-namespace=default")
    first, second = (stack.new_metacontroller(f"{stack.variant.kind}-{number}", *flags) for number in ("1st", "2nd"))
    yield first, second
    first.stop()
    second.stop()
    stack.metacontroller.start()


def frozen_over(stack: Stack, leader: Metacontroller) -> None:
    """Freeze the leader in the midst of its calls until another leads, then let it find its answers waiting."""
    before, ends = holder(stack), leader.crashes
    with requests_held(stack, "students"):
        leader.pause()
    try:
        wait_until(lambda: holder(stack) != before, "another leads", LEASE_SECONDS)
        time.sleep(2)
    finally:
        leader.resume()
    wait_until(lambda: leader.crashes > ends, "the old leader ends, for it has lost its lease", 30)


def holder(stack: Stack) -> str:
    """Return the identity of the leader, or an empty text."""
    leases = stack.client.request("GET", _LEASE.rpartition("/")[0])["items"]
    return next((lease["spec"].get("holderIdentity") or "" for lease in leases), "")

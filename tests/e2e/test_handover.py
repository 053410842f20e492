"""What lets two calls for one resource overlap: an edit of the controller, and a change of Metacontroller's leader.

Requests are held in their midst by a lock on the table, so that there is something to overlap with.
"""

from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from psycopg2 import sql

from e2e.faults import requests_held, waiting_ports
from e2e.traffic import Traffic
from support.server import PROGRAM
from support.stack import TABLES, Stack, Variant
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.report import Report
    from support.metacontroller import Metacontroller

BOUND = 120.0
EDITS = 15
LEASE_SECONDS = 40.0
_LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"


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
                stack.recorder.mark("the controller is edited")
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


def test_leader_killed_in_mid_request(
    two_leaders: tuple[Metacontroller, Metacontroller], busy: Traffic, stack: Stack, report: Report
) -> None:
    first, second = two_leaders
    busy.start()
    try:
        second.start()
        busy.wait_until_busy()
        before = holder(stack)
        with requests_held(stack, "students"):
            aborted = len(waiting_ports(stack))
            first.kill()
        stack.recorder.mark("the leader is killed")
        wait_until(lambda: holder(stack) not in ("", before), "another leads", LEASE_SECONDS)
        stack.recorder.mark("another leads")
        busy.wait_until_busy()
    finally:
        busy.stop()
    took = stack.world.converge(BOUND)
    report.add(stack.variant.kind, "leader killed in mid-request", took, first.calls() + second.calls(), busy.counts)
    report.notes.append(f"{stack.variant.kind}: the leader's death cut off {aborted} calls in the database")


def test_frozen_leader_that_goes_on_leaves_only_what_the_audit_finds(
    two_leaders: tuple[Metacontroller, Metacontroller], busy: Traffic, stack: Stack, report: Report
) -> None:
    """Two leaders act at once then, for up to 10 s, and the old one on what it saw before it was frozen.

    Its calls are in order, each with a caller that waits; nothing in a request tells that the resource has moved on.
    """
    first, second = two_leaders
    setbacks = stack.recorder.setbacks
    busy.start()
    try:
        second.start()
        busy.wait_until_busy()
        freeze(stack, first)
        busy.wait_until_busy()
    finally:
        busy.stop()
    wait_until(lambda: beside_rows(stack) == [], lambda: "\n".join(beside_rows(stack)), BOUND)
    left = {(problem.key, table_of(problem.text)) for problem in stack.world.problems()}
    assert left <= audited(stack)  # which may also find those of resources that vanished
    report.notes.append(
        f"{stack.variant.kind}: a frozen leader that went on beside the next one left {len(left)} rows too many, all "
        f"found by the audit; {stack.recorder.setbacks - setbacks} statuses fell back to an earlier generation"
    )
    for key, table in left:
        statement = sql.SQL("DELETE FROM {} WHERE id = %s").format(sql.Identifier(*table.split(".")))
        stack.database.query(statement, key)
    stack.world.converge(10)


@pytest.fixture
def two_leaders(busy: Traffic, stack: Stack) -> Iterator[tuple[Metacontroller, Metacontroller]]:
    """Replace the one Metacontroller by two that elect a leader; the first leads, the second is not started yet."""
    stack.metacontroller.stop()
    stack.client.request("DELETE", _LEASES)
    flags = ("--leader-election=true", "--leader-election-namespace=default")
    first, second = (stack.new_metacontroller(f"{stack.variant.kind}-{number}", *flags) for number in ("1st", "2nd"))
    first.start()
    wait_until(lambda: bool(holder(stack)), "the first leads", LEASE_SECONDS)
    yield first, second
    first.stop()
    second.stop()
    stack.metacontroller.start()


def freeze(stack: Stack, leader: Metacontroller) -> None:
    """Freeze the leader in the midst of its calls until another leads, then let it go on until it gives up."""
    before, ends = holder(stack), leader.crashes
    with requests_held(stack, "students"):
        leader.pause()
        stack.recorder.mark("the leader is frozen")
    try:
        wait_until(lambda: holder(stack) not in ("", before), "another leads", LEASE_SECONDS)
        stack.recorder.mark("another leads")
        time.sleep(2)
    finally:
        leader.resume()
        stack.recorder.mark("the leader resumes")
    wait_until(lambda: leader.crashes > ends, "the old leader ends, for it has lost its lease", 30)
    stack.recorder.mark("the old leader has ended")


def beside_rows(stack: Stack) -> list[str]:
    """Return every problem except rows that are where they should not be."""
    return [str(problem) for problem in stack.world.problems() if problem.kind not in ("orphan", "wrong table")]


def table_of(text: str) -> str:
    """Return the table that a problem's sentence ends with."""
    return text.rpartition(" ")[2]


def audited(stack: Stack) -> set[tuple[str, str]]:
    """Return (id, table) of every row that `postgres-writer audit` finds to be too many."""
    environ = stack.api.environment() | stack.hook_environment()
    command = [str(PROGRAM), "audit", "--all-tables", "--output=json", "--confirm-after=0"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    findings = json.loads(done.stdout)["findings"]
    assert {finding["finding"] for finding in findings} <= {"no-resource", "duplicate"}, done.stdout
    return {(finding["id"], finding["table"].removeprefix("public.")) for finding in findings}


def holder(stack: Stack) -> str:
    """Return the identity of the leader, or an empty text."""
    leases = stack.client.request("GET", _LEASES)["items"]
    return next((lease["spec"].get("holderIdentity") or "" for lease in leases), "")

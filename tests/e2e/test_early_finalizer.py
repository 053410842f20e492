"""The component early-finalizer with a real Metacontroller: fewer requests, and nothing disappears before its time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from support.api_client import resource
from support.stack import Stack, Variant
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.timeout(180), pytest.mark.short]
PUTS = {"composite": 0, "decorator": 1}
"""PUTs of an object while it becomes Ready: a DecoratorController follows a changed status up with one."""
FLEETING = 400
WRITES = ("POST", "PUT", "PUT/status", "PATCH", "DELETE")


@pytest.fixture(params=PUTS)
def early(stack: Stack, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Install a kind of controller, and the policies."""
    stack.install(Variant(request.param))
    stack.wait_for_controller()
    with stack.early_finalizer():
        yield stack
    stack.uninstall()


def test_a_new_resource_needs_no_request_for_its_finalizer(early: Stack) -> None:
    before = early.client.writes()
    early.client.create(resource("default", "one"))
    early.wait_ready("default", "one", "True/RowSynced@1")
    wanted = {"POST": 1, "PUT/status": 1} | ({"PUT": 1} if PUTS[early.variant.kind] else {})

    def written() -> dict[str, int]:
        after = early.client.writes()
        return {verb: after[verb] - before[verb] for verb in after if after[verb] != before[verb] and verb in WRITES}

    wait_until(lambda: written() == wanted, lambda: f"{written()} instead of {wanted}")
    found = early.client.get("default", "one")
    assert found is not None
    [finalizer] = found["metadata"]["finalizers"]
    assert finalizer == f"metacontroller.io/{early.variant.kind}controller-postgres-writer"
    assert {entry["manager"] for entry in found["metadata"]["managedFields"] if "subresource" not in entry} == {
        "python-requests"
    }


def test_what_is_deleted_as_soon_as_it_exists_leaves_no_row(early: Stack) -> None:
    vanished = len(early.recorder.vanished)

    def come_and_go(number: int) -> None:
        early.client.create(resource("default", f"fleeting-{number}"))
        early.client.delete("default", f"fleeting-{number}")

    with ThreadPoolExecutor(16) as users:
        list(users.map(come_and_go, range(FLEETING)))
    wait_until(lambda: not early.client.resources("default"), "the end of the deletions")
    assert early.database.rows() == []
    assert len(early.recorder.vanished) == vanished

"""The component early-finalizer with a real Metacontroller: fewer requests, and nothing disappears before its time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from support.api_client import resource
from support.manifests import COMPOSITE, DECORATOR
from support.stack import Stack, Variant
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.short
EXPECTED = {
    "composite": (COMPOSITE, {"POST": 1, "PUT/status": 1}),
    "decorator": (DECORATOR, {"POST": 1, "PUT/status": 1, "PUT": 1}),
}
"""The finalizer, and the requests until it is Ready: a DecoratorController follows a changed status up with a PUT."""
FLEETING = 400
WRITES = ("POST", "PUT", "PUT/status", "PATCH", "DELETE")


@pytest.fixture(params=EXPECTED)
def early(stack: Stack, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Install a kind of controller, and the policies."""
    stack.install(Variant(request.param))
    stack.wait_for_controller()
    with stack.early_finalizer():
        yield stack
    stack.uninstall()


def test_a_new_resource_needs_no_request_for_its_finalizer(early: Stack) -> None:
    finalizer, wanted = EXPECTED[early.variant.kind]
    before = early.client.writes()
    early.client.create(resource("default", "one"))
    early.wait_ready("default", "one", "True/RowSynced@1")

    def written() -> dict[str, int]:
        after = early.client.writes()
        return {verb: after[verb] - before[verb] for verb in after if after[verb] != before[verb] and verb in WRITES}

    wait_until(lambda: written() == wanted, lambda: f"{written()} instead of {wanted}")
    found = early.client.get("default", "one")
    assert found is not None
    assert found["metadata"]["finalizers"] == [finalizer]
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

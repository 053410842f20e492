"""The CRD is upgraded from 0.1.0's under a running Metacontroller, which is neither restarted nor told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.api_client import resource
from support.custom_resource import PENDING
from support.stack import TOP, Stack, Variant
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

RELEASED_CRD = Path(__file__).parents[1] / "cluster" / "data" / "crd_0.1.0.yaml"
CRD = TOP / "crds" / "postgreswriters.yaml"
NAMESPACE = "upgraded"


def apply_crd(stack: Stack, crd: Path) -> None:
    stack.api.kubectl("apply", "--server-side", "--force-conflicts", "--filename", str(crd))


def version(stack: Stack, name: str) -> str:
    """Return the resourceVersion, which tells whether anything was written."""
    found: str = (stack.client.get(NAMESPACE, name) or {})["metadata"]["resourceVersion"]
    return found


@pytest.fixture(params=["composite", "decorator"])
def released(stack: Stack, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Install a variant under 0.1.0's CRD, on an empty cluster, and put ours back afterwards."""
    stack.client.clear_events()
    apply_crd(stack, RELEASED_CRD)
    stack.install(Variant(request.param))
    stack.wait_for_controller()
    stack.client.create_namespace(NAMESPACE)
    yield stack
    apply_crd(stack, CRD)
    stack.uninstall()


@pytest.mark.short
def test_metacontroller_goes_on_under_the_new_crd(released: Stack) -> None:
    for name in ("kept", "edited", "moved", "deleted"):
        released.client.create(resource(NAMESPACE, name))
        released.wait_ready(NAMESPACE, name, "True/RowSynced@1")
    released.metacontroller.pause()
    released.client.create(resource(NAMESPACE, "unseen"))
    before = version(released, "kept")
    apply_crd(released, CRD)
    wait_until(
        lambda: (released.client.get(NAMESPACE, "unseen") or {}).get("status") == PENDING,
        "a resource that no sync has answered is Pending",
    )
    released.metacontroller.resume()

    released.client.create(resource(NAMESPACE, "new"))
    released.client.edit(NAMESPACE, "edited", age=24)
    released.client.edit(NAMESPACE, "moved", table="teachers")
    released.client.delete(NAMESPACE, "deleted")
    for name, ready in {"new": 1, "unseen": 1, "edited": 2, "moved": 2}.items():
        released.wait_ready(NAMESPACE, name, f"True/RowSynced@{ready}", timeout=40)
    released.world.converge(20)
    # what no one edited was not written: the new CRD causes no writes of its own
    assert version(released, "kept") == before
    assert released.metacontroller.crashes == 0

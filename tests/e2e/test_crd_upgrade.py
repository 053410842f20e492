"""The CRD is upgraded from 0.1.0's under a running Metacontroller, which is neither restarted nor told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster.stored_resources import (
    EXPECTED,
    INVALID,
    POLICY,
    PUPILS,
    RELEASED_CRD,
    REMOVED,
    RESOURCES,
    WRITTEN,
    Upgrade,
)
from support.api_client import resource
from support.custom_resource import PENDING
from support.stack import TOP, Stack, Variant
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


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


STORED = [name for name in RESOURCES if name not in INVALID]
"""What 0.1.0's CRD let in."""
LEFT = ("deleted", "retained")
"""Only another finalizer is left on these, so Metacontroller asks no more about them."""


@pytest.fixture(params=["composite", "decorator"])
def stored(stack: Stack, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Upgrade]:
    """Store what 0.1.0 left while Metacontroller does not run, in a database of its own, and upgrade the CRD.

    Metacontroller starts afterwards: running, it could sync a resource before it sees the status.
    """
    apply_crd(stack, RELEASED_CRD)
    (tmp_path / "policy").write_text(json.dumps(POLICY))
    with stack.database.sibling() as database:
        upgrade = Upgrade(stack.api, database, stack.client, "hook", tmp_path, request.param)
        upgrade.fill()
        stack.install(
            Variant(request.param), PSQL_DBNAME=database.name, HOOK_TABLE_POLICY_FILE=str(tmp_path / "policy")
        )
        stack.wait_for_controller()
        stack.client.create_namespace("guests")
        stack.client.clear_events()
        stack.metacontroller.stop()
        upgrade.store(*STORED)
        upgrade.answer(*STORED)
        upgrade.name("pupils", PUPILS)
        upgrade.name("seen", "public.alumni")
        upgrade.sql("ALTER ROLE postgres_writer BYPASSRLS")
        upgrade.look("stored")
        apply_crd(stack, CRD)
        stack.metacontroller.start()
        yield upgrade
        upgrade.sql("GRANT DELETE ON kept, lost TO postgres_writer; TRUNCATE bound")
        for name in ("copied", "joined", "triggered"):
            stack.client.edit("default", name, deletionPolicy="Retain")
        for name in LEFT:
            stack.client.merge("default", name, {"metadata": {"finalizers": None}})
        stack.client.merge("default", "kept", {"metadata": {"annotations": {"granted": "now"}}})
        stack.uninstall()
        upgrade.sql("ALTER ROLE postgres_writer NOBYPASSRLS; ALTER ROLE postgres_writer RESET search_path")


@pytest.mark.short
def test_what_0_1_0_stored_is_taken_over(stack: Stack, stored: Upgrade) -> None:
    def wrong() -> dict[str, str]:
        stored.look("upgraded")
        found = {name: item for name, item in stored.found["upgraded"].items() if name not in LEFT}
        assert found.keys() <= {*EXPECTED, "unreached", "ward"}
        return {name: stored.unexpected(item) for name, item in found.items() if stored.unexpected(item)}

    wait_until(lambda: not wrong(), lambda: json.dumps(wrong(), indent=1), 60)
    assert stored.touched("stored", "upgraded") == (WRITTEN, REMOVED)
    assert [warning for warning in stack.client.warnings() if "PostgresWriter" in warning] == []

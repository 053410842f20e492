"""Shards as docs/operate.md describes them: one Metacontroller and controller for some resources, one for the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from support.api_client import resource
from support.documents import guide
from support.stack import Stack, Variant, gone
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.metacontroller import Metacontroller


NAMESPACE = "default"
NAMES = {"a": "postgres-writer-a", "rest": "postgres-writer"}
LABELS = {"a": {"demo.yash.com/shard": "a"}, "rest": dict[str, str]()}
SHARDS = tuple(NAMES)


@pytest.fixture(params=["composite", "decorator"])
def shards(stack: Stack, request: pytest.FixtureRequest) -> Iterator[dict[str, Metacontroller]]:
    """Run a Metacontroller per shard in place of the one for all; the hook servers are the same for both."""
    kind: str = request.param
    stack.metacontroller.stop()
    stack.install(Variant(kind))
    stack.remove_controller(kind)
    running = {
        shard: stack.new_metacontroller(f"shard-{shard}", f"--target-label-selector=shard={shard}") for shard in SHARDS
    }
    for shard, metacontroller in running.items():
        stack.apply(sharded(stack.controller(stack.address), kind, shard))
        metacontroller.start()
    yield running
    stack.api.kubectl("delete", "postgreswriters", "--all", f"--namespace={NAMESPACE}", "--timeout=60s")
    stack.api.kubectl("delete", f"{kind}controllers.metacontroller.k8s.io", *NAMES.values())
    for metacontroller in running.values():
        metacontroller.stop()
    stack.metacontroller.start()
    stack.apply(*stack.controllers(stack.address))  # for uninstall() to take away
    stack.uninstall()


def sharded(controller: dict[str, Any], kind: str, shard: str) -> dict[str, Any]:
    """Give a controller the name, the label and the selector that the guide gives to a shard."""
    fields = [yaml.safe_load(block) for block in guide("Shards", "yaml")]
    [own] = [found for found in fields if found["metadata"]["labels"]["shard"] == shard]
    controller["metadata"] |= own["metadata"]
    spec = controller["spec"]
    rule = spec["parentResource"] if kind == "composite" else spec["resources"][0]
    rule |= own["spec"]["parentResource"]
    return controller


def of_shard(shard: str, name: str) -> dict[str, Any]:
    """Return a resource that belongs to a shard."""
    found = resource(NAMESPACE, name)
    found["metadata"]["labels"] = LABELS[shard]
    return found


def test_each_shard_serves_its_own_resources_while_the_other_is_down(
    stack: Stack, shards: dict[str, Metacontroller]
) -> None:
    for shard in SHARDS:
        stack.client.create(of_shard(shard, f"first-{shard}"))
        stack.wait_ready(NAMESPACE, f"first-{shard}", "True/RowSynced@1")
        [finalizer] = (stack.client.get(NAMESPACE, f"first-{shard}") or {})["metadata"]["finalizers"]
        assert finalizer.endswith(f"controller-{NAMES[shard]}")

    shards["rest"].stop()
    stack.client.create(of_shard("rest", "second-rest"))
    stack.client.create(of_shard("a", "second-a"))
    stack.wait_ready(NAMESPACE, "second-a", "True/RowSynced@1")
    assert stack.row("students", NAMESPACE, "second-rest") is None

    shards["rest"].start()
    stack.wait_ready(NAMESPACE, "second-rest", "True/RowSynced@1")
    for name in ("first-a", "first-rest"):
        stack.api.kubectl("delete", "postgreswriter", name, f"--namespace={NAMESPACE}", "--timeout=60s")
        assert gone(stack.client, NAMESPACE, name)
    wait_until(lambda: len(stack.database.rows()) == 2, "the rows of the resources that are left")

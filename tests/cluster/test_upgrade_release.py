"""The CRD replaces 0.1.0's and is rolled back: stored objects, their statuses and their managedFields stay usable."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cluster.conftest import apply_crd
from support.custom_resource import KIND, PENDING, Resource, condition
from support.spec_cases import SpecCase, spec_with

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.apiserver import ApiServer

RELEASED_CRD = Path(__file__).parent / "data" / "crd_0.1.0.yaml"
NAMESPACE = "default"
STATUS: dict[str, Any] = {
    "observedGeneration": 1,
    "id": "default/sample",
    "observedTable": "students",
    "tables": ["students"],
    "conditions": [condition("True", "RowSynced", "The row stands in table students.")],
}
CONTROLLER = "--field-manager=metacontroller"


@dataclass(frozen=True)
class Upgrade:
    """An API server whose CRD was upgraded from 0.1.0, and what was stored in it before."""

    server: ApiServer
    before: dict[str, dict[str, Any]]

    def resource(self, name: str) -> Resource:
        """Return one of the stored objects."""
        return Resource(self.server, NAMESPACE, name)


def replace_status(resource: Resource, status: dict[str, Any]) -> None:
    """Write a status as Metacontroller does: the whole object, on the subresource."""
    content = json.dumps({**resource.get(), "status": status})
    resource.kubectl("replace", "--subresource=status", CONTROLLER, "--filename=-", input=content)


def full(resource: Resource) -> dict[str, Any]:
    """Read a resource with its managedFields."""
    command = ("get", KIND, resource.name, "--output=json", "--show-managed-fields")
    found: dict[str, Any] = json.loads(resource.kubectl(*command).stdout)
    return found


def status_fields(resource: Resource) -> dict[str, Any]:
    """Return what the controller owns in the status, as managedFields tell."""
    owned = full(resource)["metadata"]["managedFields"]
    fields: dict[str, Any] = next(entry for entry in owned if entry.get("subresource") == "status")["fieldsV1"]
    found: dict[str, Any] = fields["f:status"]
    return found


def apply(server: ApiServer, name: str, *options: str, **spec: Any) -> None:
    """Apply a manifest as a user does."""
    manifest = SpecCase("", spec_with(**spec)).manifest(name, NAMESPACE)
    server.kubectl("apply", *options, "--filename=-", input=json.dumps(manifest))


@pytest.fixture(scope="module")
def upgrade(new_cluster: Callable[[], ApiServer]) -> Upgrade:
    """Install 0.1.0's CRD, store objects as its users and Metacontroller do, and apply ours over it."""
    server = new_cluster()
    apply_crd(server, RELEASED_CRD)
    apply(server, "synced")
    apply(server, "applied", "--server-side")
    apply(server, "unseen")
    for name in ("synced", "applied"):
        replace_status(Resource(server, NAMESPACE, name), STATUS)
    before = {name: full(Resource(server, NAMESPACE, name)) for name in ("synced", "applied", "unseen")}
    apply_crd(server)
    return Upgrade(server, before)


def test_a_resource_that_no_sync_had_answered_becomes_pending(upgrade: Upgrade) -> None:
    assert "status" not in upgrade.before["unseen"]
    assert full(upgrade.resource("unseen")) == {**upgrade.before["unseen"], "status": PENDING}


@pytest.mark.parametrize(("name", "options"), [("synced", ()), ("applied", ("--server-side",))])
def test_stored_objects_stay_as_they_are_and_shrink_with_the_next_status(
    upgrade: Upgrade, name: str, options: tuple[str, ...]
) -> None:
    resource, before = upgrade.resource(name), upgrade.before[name]
    assert full(resource) == before
    assert len(status_fields(resource)) > 1
    apply(upgrade.server, name, *options, table="pupils", age=24)  # the rule knows what 0.1.0 recorded
    status = {**STATUS, "observedTable": "pupils", "tables": ["pupils"], "observedGeneration": 2}
    replace_status(resource, status)
    after = full(resource)
    assert after["status"] == status
    assert status_fields(resource) == {}
    assert len(json.dumps(after)) < 0.9 * len(json.dumps(before))
    apply(upgrade.server, name, *options, table="pupils", age=25)
    assert resource.get()["status"] == status


def test_the_way_back(new_cluster: Callable[[], ApiServer]) -> None:
    """A rolled back CRD takes what ours has stored, the default's generation of -1 included."""
    server = new_cluster()
    apply_crd(server)
    apply(server, "unseen")
    apply(server, "synced", "--server-side")
    unseen, synced = (Resource(server, NAMESPACE, name) for name in ("unseen", "synced"))
    replace_status(synced, STATUS)
    apply_crd(server, RELEASED_CRD)
    unseen.patch_spec(age=24)
    replace_status(unseen, STATUS)
    apply(server, "synced", "--server-side", table="pupils")
    replace_status(synced, {**STATUS, "observedGeneration": 2})
    assert (unseen.get()["status"], synced.get()["status"]["observedGeneration"]) == (STATUS, 2)
    assert len(status_fields(synced)) > 1


def test_another_owner_of_a_status_is_refused(cluster: ApiServer, namespace: str) -> None:
    """Owned as a whole, a status cannot be shared: a second manager that applies to it learns of the first."""
    resource = Resource(cluster, namespace)
    resource.create()
    replace_status(resource, STATUS)
    manifest = {**SpecCase("", spec_with()).manifest("sample", namespace), "status": {"id": "mine"}}
    del manifest["spec"]
    command = ("apply", "--server-side", "--subresource=status", "--field-manager=other", "--filename=-")
    refused = resource.kubectl(*command, input=json.dumps(manifest), check=False)
    assert "conflict" in refused.stderr
    assert resource.get()["status"] == STATUS

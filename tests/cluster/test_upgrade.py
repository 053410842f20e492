"""The CRD replaces the original operator's: stored objects stay as they are, can be corrected, and can be deleted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cluster.conftest import CRD, apply_crd
from support.custom_resource import KIND, PENDING, Resource, condition
from support.spec_cases import ABSENT, spec_with

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.apiserver import ApiServer

pytestmark = pytest.mark.long
ORIGINAL_CRD = Path(__file__).parent / "data" / "original_crd.yaml"
ORIGINAL_FINALIZER = "finalizers.postgreswriters.demo.yash.com/cleanup-row"
OUR_FINALIZER = "metacontroller.io/compositecontroller-postgres-writer"
NAMESPACE = "default"

STORED: dict[str, Any] = {
    "good": spec_with(),
    "capitals": spec_with(table="Students"),
    "no-spec": ABSENT,
    "empty-spec": {},
    "no-table": spec_with(table=ABSENT),
    "three-parts": spec_with(table="a.b.c"),
    "system-table": spec_with(table="pg_catalog.pg_class"),
    "negative-age": spec_with(age=-1),
    "huge-age": spec_with(age=2**40),
    "empty-name": spec_with(name=""),
    "long-country": spec_with(country="x" * 5000),
}
"""Objects as the original CRD let them in, by name."""
UNREADABLE_TABLES = ("three-parts", "system-table")
COPIES = ("kept", "adopted", "corrected", "deleted", "leaving")
"""Each object is stored once for each thing that is done to it; the leaving ones were deleted before the upgrade."""


def install_original(server: ApiServer, verb: str) -> None:
    server.kubectl(verb, "--filename", str(ORIGINAL_CRD))
    server.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd/postgreswriters.demo.yash.com")


def store(server: ApiServer, name: str, spec: object) -> Resource:
    """Create an object that the original operator has worked on."""
    resource = Resource(server, NAMESPACE, name)
    resource.create(spec, finalizers=[ORIGINAL_FINALIZER], labels={"team": "a"}, annotations={"note": "kept"})
    resource.patch({"status": {"result": "success"}}, "--subresource=status")
    return resource


def unchanged_part(found: dict[str, Any]) -> dict[str, Any]:
    """Return what an upgrade must not touch; a default that is shown for a field of the new schema is no change."""
    metadata = {key: value for key, value in found["metadata"].items() if key != "managedFields"}
    kept = {"metadata": metadata}
    if "spec" in found:
        kept["spec"] = {key: value for key, value in found["spec"].items() if key != "deletionPolicy"}
    return kept


@dataclass(frozen=True)
class Upgrade:
    """An API server whose CRD was upgraded, and what was stored in it, as read just before and just after."""

    server: ApiServer
    before: dict[str, dict[str, Any]]
    after: dict[str, dict[str, Any]]

    def resource(self, copy: str, name: str) -> Resource:
        """Return one of the stored objects."""
        return Resource(self.server, NAMESPACE, f"{copy}-{name}")


def read_all(server: ApiServer) -> dict[str, dict[str, Any]]:
    found = json.loads(server.kubectl("get", KIND, "--namespace", NAMESPACE, "--output=json").stdout)
    return {item["metadata"]["name"]: item for item in found["items"]}


@pytest.fixture(scope="module")
def upgrade(new_cluster: Callable[[], ApiServer]) -> Upgrade:
    """Install the original CRD, store the objects, and apply ours over it, as the documentation says."""
    server = new_cluster()
    install_original(server, "apply")
    for copy in COPIES:
        for name, spec in STORED.items():
            resource = store(server, f"{copy}-{name}", spec)
            if copy == "leaving":
                resource.kubectl("delete", KIND, resource.name, "--wait=false")
    before = read_all(server)
    apply_crd(server)
    return Upgrade(server, before, read_all(server))


def test_stored_objects_are_intact(upgrade: Upgrade) -> None:
    assert set(upgrade.after) == set(upgrade.before) == {f"{copy}-{name}" for copy in COPIES for name in STORED}
    for name, found in upgrade.after.items():
        assert unchanged_part(found) == unchanged_part(upgrade.before[name])
        assert found["metadata"]["finalizers"] == [ORIGINAL_FINALIZER]


def test_a_result_that_only_the_original_wrote_gives_way_to_pending(upgrade: Upgrade) -> None:
    """A default of the whole status would not reach these objects, and kstatus would call them Current."""
    assert upgrade.before["kept-good"]["status"] == {"result": "success"}
    assert upgrade.after["kept-good"]["status"] == PENDING


@pytest.mark.parametrize("name", STORED)
def test_every_stored_object_can_be_taken_over(upgrade: Upgrade, name: str) -> None:
    resource = upgrade.resource("adopted", name)
    resource.patch({"metadata": {"finalizers": [ORIGINAL_FINALIZER, OUR_FINALIZER]}})
    resource.patch({"metadata": {"finalizers": [OUR_FINALIZER], "labels": {"team": "b"}}})
    status = {
        "observedGeneration": 1,
        "id": f"{NAMESPACE}/{resource.name}",
        "observedTable": "students",
        "tables": ["students"],
        "conditions": [condition("False", "InvalidSpec")],
    }
    resource.patch({"status": status}, "--subresource=status")
    found = resource.get()
    assert found["status"] == status
    assert found["metadata"]["finalizers"] == [OUR_FINALIZER]
    assert found.get("spec") == upgrade.after[resource.name].get("spec")


@pytest.mark.parametrize("name", STORED)
def test_every_stored_object_can_be_corrected(upgrade: Upgrade, name: str) -> None:
    resource = upgrade.resource("corrected", name)
    if name in UNREADABLE_TABLES:  # frozen like any other table until the hook server has seen it
        refused = resource.patch_spec(**spec_with(), check=False)
        assert "cannot be changed until status.observedTable equals the current value" in refused.stderr
        resource.record(STORED[name]["table"])
    elif name == "capitals":
        resource.record("Students")
    resource.patch_spec(**spec_with())
    assert resource.get()["spec"] == {**spec_with(), "deletionPolicy": "Delete"}


@pytest.mark.parametrize("name", [name for name in STORED if name not in ("no-spec", "empty-spec", "no-table")])
def test_one_field_can_be_corrected_without_the_others(upgrade: Upgrade, name: str) -> None:
    resource = upgrade.resource("kept", name)
    resource.patch_spec(deletionPolicy="Retain")
    assert resource.get()["spec"] == {**STORED[name], "deletionPolicy": "Retain"}


def test_half_a_spec_is_refused_by_what_is_missing(upgrade: Upgrade) -> None:
    done = upgrade.resource("kept", "no-spec").patch_spec(**spec_with(table=ABSENT), check=False)
    assert done.returncode != 0
    assert "spec.table: Required value" in done.stderr


def test_no_new_fault_comes_in_beside_an_old_one(upgrade: Upgrade) -> None:
    done = upgrade.resource("kept", "negative-age").patch_spec(name="", check=False)
    assert done.returncode != 0
    assert "spec.name" in done.stderr
    assert "spec.age" not in done.stderr


def test_a_spec_once_given_stays(upgrade: Upgrade) -> None:
    resource = upgrade.resource("corrected", "good")
    done = resource.patch({"spec": None}, check=False)
    assert done.returncode != 0
    assert "spec is required" in done.stderr


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("copy", ["deleted", "leaving"])
def test_every_stored_object_can_be_deleted(upgrade: Upgrade, copy: str, name: str) -> None:
    resource = upgrade.resource(copy, name)
    if copy == "deleted":
        resource.kubectl("delete", KIND, resource.name, "--wait=false")
    assert not resource.gone()
    resource.patch({"metadata": {"finalizers": None}})
    assert resource.gone()


def test_an_original_that_was_created_instead_of_applied_is_taken_over_by_force(
    new_cluster: Callable[[], ApiServer],
) -> None:
    server = new_cluster()
    install_original(server, "create")
    resource = store(server, "sample", spec_with())
    upgrade_command = ("apply", "--server-side", "--validate=strict", "--filename", str(CRD))
    refused = server.kubectl(*upgrade_command, check=False)
    assert "--force-conflicts" in refused.stderr
    assert "Table" not in server.kubectl("get", "crd", KIND, "--output=json").stdout
    server.kubectl(*upgrade_command, "--force-conflicts")
    apply_crd(server)
    assert resource.get()["spec"] == {**spec_with(), "deletionPolicy": "Delete"}
    assert "TABLE" in server.kubectl("get", "pgw").stdout

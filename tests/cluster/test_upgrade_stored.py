"""What 0.1.0 stored, in every condition that it has: upgraded and rolled back with the commands of the guide."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from cluster.conftest import apply_crd
from cluster.installation import install
from cluster.stored_resources import (
    APPLIED,
    DATA,
    EXPECTED,
    INVALID,
    PUPILS,
    RELEASED_CRD,
    REMOVED,
    RESOURCES,
    WRITTEN,
    Upgrade,
)
from postgres_writer.core.row import relation_name
from postgres_writer.errors import Reason
from support.api_client import ApiClient, Object, ready_of
from support.custom_resource import PENDING
from support.documents import ROOT, guide, guide_text
from support.manifests import shell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.apiserver import ApiServer
    from support.postgres import Database


def status_fields(item: Object) -> Object:
    """Return what the controller owns in the status, as managedFields tell."""
    owned = [entry for entry in item["metadata"]["managedFields"] if entry.get("subresource") == "status"]
    (fields,) = [entry["fieldsV1"]["f:status"] for entry in owned if entry["manager"] == "metacontroller"]
    found: Object = fields
    return found


@pytest.fixture(scope="module")
def installed(
    empty: ApiServer, shared_database: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Upgrade]:
    """Store what 0.1.0 left."""
    install(empty)
    role = f"writer_{shared_database.name}"
    shared_database.query(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    client = ApiClient(empty.url, empty.token, str(empty.certificate))
    found = Upgrade(empty, shared_database, client, role, tmp_path_factory.mktemp("upgrade"))
    client.create_namespace("guests")
    empty.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(DATA / "original_crd.yaml"))
    found.store(*INVALID)
    apply_crd(empty, RELEASED_CRD)
    manifest = {**client.manifest("default", APPLIED), "spec": RESOURCES[APPLIED]["spec"]}
    manifest["metadata"]["finalizers"] = RESOURCES[APPLIED]["metadata"]["finalizers"]
    empty.kubectl("apply", "--server-side", "--filename=-", input=json.dumps(manifest))
    found.store(*(name for name in RESOURCES if name not in (*INVALID, APPLIED)))
    found.answer(*RESOURCES)
    found.fill()
    found.look("stored")
    yield found
    shared_database.query(f"DROP OWNED BY {role}")
    shared_database.query(f"DROP ROLE {role}")


@pytest.fixture(scope="module")
def upgraded(installed: Upgrade) -> Upgrade:
    """Run the section "From 0.1.0", and sync everything twice."""
    installed.asked = installed.meanings()
    installed.sql("ALTER ROLE postgres_writer BYPASSRLS")
    installed.stop()
    assert installed.replicas() == "0"
    installed.name("pupils", PUPILS)
    installed.name("seen", "public.alumni")
    installed.look("prepared")
    installed.start()
    assert installed.replicas() == "2"
    installed.look("applied")
    installed.sync("upgraded")
    installed.refused = installed.frozen()
    return installed


@pytest.fixture(scope="module")
def named(upgraded: Upgrade) -> Upgrade:
    """Name a table for views that were missed, as the section says; one has got another spec.table before."""
    upgraded.client.edit("default", "triggered", table="landing")
    upgraded.sync("edited", rounds=1)
    for old in ("joined", "public.joined", "public.triggered"):
        upgraded.name(old, "public.landing")
    upgraded.sync("named")
    return upgraded


@pytest.fixture(scope="module")
def returned(named: Upgrade) -> Upgrade:
    """Run the section "Back to 0.1.0"."""
    show, respell = guide("Back to 0.1.0")
    assert shell(named.cluster, show).stdout.strip() == "No resources found"
    named.client.create(named.client.manifest("default", "newborn", database="billing"))
    assert shell(named.cluster, show).stdout.split()[-3:] == ["default", "newborn", "billing"]
    named.client.delete("default", "newborn")
    named.stop()
    (path,) = guide("Back to 0.1.0", "sql")
    named.sql(path)
    shell(named.cluster, respell)
    named.client.create(named.client.manifest("default", "newborn"))
    apply_crd(named.cluster, RELEASED_CRD)
    newborn = named.client.edit("default", "newborn", age=24)
    named.newborn = named.put_status({**newborn, "status": RESOURCES["short"]["status"]})
    named.client.delete("default", "newborn")
    named.look("returned")
    assert "patched" not in shell(named.cluster, respell).stdout, "again it changes nothing"
    return named


@pytest.fixture(scope="module")
def deleted(returned: Upgrade) -> Upgrade:
    """Upgrade once more, grant what was missing, and delete everything."""
    returned.start()
    returned.sync("again")
    returned.sql("GRANT DELETE ON kept, lost TO postgres_writer; TRUNCATE bound")
    for name, item in returned.found["again 2"].items():
        where = (item["metadata"]["namespace"], name)
        returned.client.delete(*where)
        others = [finalizer for finalizer in item["metadata"].get("finalizers", []) if "metacontroller" in finalizer]
        returned.client.merge(*where, {"metadata": {"finalizers": others}})
    returned.sync("deleted", rounds=1)
    for name in returned.found["deleted 1"]:
        returned.client.edit("default", name, deletionPolicy="Retain")
    returned.sync("kept", rounds=1)
    return returned


def test_every_reason_of_0_1_0_was_recorded() -> None:
    recorded = {ready_of(item)["reason"] for item in RESOURCES.values() if ready_of(item)}
    assert recorded == {reason.value for reason in Reason} - {Reason.PENDING, Reason.DATABASE_NOT_CONFIGURED}


def test_the_query_tells_what_each_name_means_to_the_role(upgraded: Upgrade) -> None:
    tables = ("kept", "landing", "locked", "lost", "opened", "secret", "shared", "strict", "students")
    kinds = {
        **dict.fromkeys((*tables, "graduates", "public.students"), ("public", "table", False)),
        **dict.fromkeys(("joined", "seen", "triggered"), ("public", "view", False)),
        **dict.fromkeys(("nowhere", "nowhere.students"), (None, None, None)),
        "closed.students": ("closed", "table", False),
        "copied": ("public", "materialized view", False),
        "far": ("public", "foreign table", False),
        "guarded": ("public", "table", True),
        "parted": ("public", "partitioned table", False),
        "pupils": ("archive", "table", False),
    }
    assert {name: found for name, *found in upgraded.asked} == {name: list(found) for name, found in kinds.items()}
    assert len(upgraded.asked) == len(kinds)


def test_the_new_crd_leaves_stored_objects_as_they_are(upgraded: Upgrade) -> None:
    """But for those that no sync had answered, which become Pending."""
    before, after = upgraded.found["prepared"], upgraded.found["applied"]
    unanswered = {name: item for name, item in before.items() if "conditions" not in item.get("status", {})}
    assert unanswered.keys() == {"late", "unseen"}
    pending = {name: {**item, "status": {**PENDING, **item.get("status", {})}} for name, item in unanswered.items()}
    assert after == {**before, **pending}


def test_managed_fields_shrink_with_the_next_status(upgraded: Upgrade) -> None:
    before, after = upgraded.found["applied"], upgraded.found["upgraded 1"]
    assert {len(status_fields(after[name])) for name in after} == {0}
    for name in ("short", APPLIED):
        assert len(status_fields(before[name])) > 1
        assert len(json.dumps(after[name])) < 0.9 * len(json.dumps(before[name]))


def test_every_condition_is_answered_under_the_new_crd(upgraded: Upgrade) -> None:
    found = upgraded.found["upgraded 1"]
    assert found.keys() == EXPECTED.keys()
    assert {name: upgraded.unexpected(item) for name, item in found.items() if upgraded.unexpected(item)} == {}


def test_no_row_is_touched_that_need_not_be(upgraded: Upgrade) -> None:
    assert upgraded.touched("stored", "upgraded 1") == (WRITTEN, REMOVED)


def test_a_second_sync_writes_nothing(upgraded: Upgrade) -> None:
    assert upgraded.found["upgraded 2"] == upgraded.found["upgraded 1"]
    assert upgraded.held["upgraded 2"] == upgraded.held["upgraded 1"]


def test_every_table_can_be_edited_afterwards(upgraded: Upgrade) -> None:
    assert upgraded.refused == set()


def test_a_server_side_apply_goes_on_afterwards(upgraded: Upgrade) -> None:
    found = upgraded.applied("elsewhere")
    assert (found["spec"]["table"], found["status"]) == ("elsewhere", upgraded.found["upgraded 2"][APPLIED]["status"])


def test_a_rolled_back_crd_takes_what_no_sync_has_answered(returned: Upgrade) -> None:
    assert returned.newborn["status"] == RESOURCES["short"]["status"]
    assert len(status_fields(returned.newborn)) > 1


def test_settings_that_are_no_longer_used_are_named(upgraded: Upgrade) -> None:
    warned = re.findall(r"(HOOK_\w+) is no longer used", upgraded.log)
    assert warned == ["HOOK_THREADS", "HOOK_WORKERS"]
    for text in (guide_text("From 0.1.0"), (ROOT / "CHANGELOG.md").read_text()):
        assert all(f"`{name}`" in text for name in warned)


def test_a_view_that_was_missed_gets_a_table(named: Upgrade) -> None:
    stuck = ready_of(named.found["edited 1"]["triggered"])["message"]
    assert "cannot be moved from table public.triggered to table public.landing: it is not a table" in stuck
    for name in ("joined", "triggered"):
        found = named.found["named 1"][name]
        assert (ready_of(found)["reason"], found["status"]["tables"]) == ("RowSynced", ["public.landing"])
    assert named.touched("upgraded 2", "named 2") == ({"landing": {"joined", "triggered"}}, {})


def test_the_way_back_gives_0_1_0_the_spellings_that_it_compares(returned: Upgrade) -> None:
    """It moves a row unless the status lists the very text of spec.table, with a delete and an insert."""
    for name, before in returned.found["named 2"].items():
        table = before.get("spec", {}).get("table")
        spelled = [table if listed == relation_name(table) else listed for listed in before["status"]["tables"]]
        assert returned.found["returned"][name]["status"]["tables"] == spelled, name
    assert returned.held["returned"] == returned.held["named 2"]


def test_a_second_upgrade_changes_nothing(deleted: Upgrade) -> None:
    def answers(when: str) -> dict[str, Object]:
        return {name: item["status"] for name, item in deleted.found[when].items()}

    assert answers("again 1") == answers("named 2")
    assert deleted.held["again 2"] == deleted.held["named 2"]


def test_every_resource_can_be_deleted_with_its_row(deleted: Upgrade) -> None:
    """All but the one that lists a view, whose condition names the way out."""
    left = {name: ready_of(item)["message"] for name, item in deleted.found["deleted 1"].items()}
    assert left.keys() == {"copied"}
    assert all("set spec.deletionPolicy to Retain" in message for message in left.values())
    assert deleted.found["kept 1"] == {}
    ids = {key for rows in deleted.held["kept 1"].values() for key in rows}
    assert ids == {"default/retain", "default/retained"}

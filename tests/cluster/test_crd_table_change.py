"""The transition rules: spec.table changes only once it is observed, spec.database only where no row can be.

The second is the same for a PostgresRow, whose resources tests/cluster/test_crd_rows.py has.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from support.custom_resource import Resource, condition
from support.spec_cases import ABSENT, SpecCase, spec_with

if TYPE_CHECKING:
    from support.apiserver import ApiServer

SAYS_WHAT_TO_DO = "cannot be changed until status.observedTable equals the current value; wait, then retry"


@pytest.fixture
def sample(cluster: ApiServer, namespace: str) -> Resource:
    """Create the sample, in table students, which is not in status yet."""
    resource = Resource(cluster, namespace)
    resource.create()
    return resource


def assert_refused(sample: Resource, table: str) -> None:
    before = sample.get()
    done = sample.patch_spec(table=table, check=False)
    assert done.returncode != 0
    assert "spec.table: Forbidden" in done.stderr
    assert SAYS_WHAT_TO_DO in done.stderr
    assert sample.get() == before


def test_change_of_a_table_that_was_never_observed_is_refused(sample: Resource) -> None:
    assert_refused(sample, "pupils")


def test_change_is_refused_when_the_status_speaks_of_other_things_only(sample: Resource) -> None:
    status = {"conditions": [condition("False", "DatabaseUnavailable")], "tables": ["students"]}
    sample.patch({"status": status}, "--subresource=status")
    assert_refused(sample, "pupils")


def test_change_of_an_observed_table_is_accepted_once(sample: Resource) -> None:
    sample.record("students")
    sample.patch_spec(table="pupils")
    assert sample.get()["spec"]["table"] == "pupils"
    assert_refused(sample, "learners")
    assert_refused(sample, "students")  # the way back is a change like any other: the row may have moved already
    sample.record("pupils")
    sample.patch_spec(table="learners")
    assert sample.get()["spec"]["table"] == "learners"


def test_every_other_field_can_change_at_any_time(sample: Resource) -> None:
    sample.patch_spec(name="bo", age=24, country="chile", deletionPolicy="Retain")
    sample.patch({"metadata": {"labels": {"a": "b"}, "annotations": {"demo.yash.com/paused": "true"}}})
    sample.patch_spec(table="students", age=25)
    assert sample.get()["spec"] == spec_with(name="bo", age=25, country="chile", deletionPolicy="Retain")


def test_exact_case_counts(sample: Resource) -> None:
    sample.record("Students")
    assert_refused(sample, "pupils")


@pytest.mark.parametrize(
    "command",
    [("apply",), ("apply", "--server-side", "--force-conflicts"), ("replace",)],
    ids=["apply", "server-side-apply", "replace"],
)
def test_rule_holds_for_every_way_to_write(sample: Resource, command: tuple[str, ...]) -> None:
    case = SpecCase("", spec_with(table="pupils"))
    manifest = json.dumps(case.manifest(sample.name, sample.namespace))
    done = sample.kubectl(*command, "--filename=-", input=manifest, check=False)
    assert done.returncode != 0
    assert SAYS_WHAT_TO_DO in done.stderr
    sample.record("students")
    sample.kubectl(*command, "--filename=-", input=manifest)
    assert sample.get()["spec"]["table"] == "pupils"


def test_status_in_a_users_manifest_does_not_open_the_way(sample: Resource) -> None:
    manifest = SpecCase("", spec_with(table="pupils")).manifest(sample.name, sample.namespace)
    manifest["status"] = {"observedTable": "students"}
    done = sample.kubectl("replace", "--filename=-", input=json.dumps(manifest), check=False)
    assert done.returncode != 0
    assert SAYS_WHAT_TO_DO in done.stderr


def test_status_can_be_written_whatever_it_says(sample: Resource) -> None:
    for table in ("pupils", "students", "learners"):
        sample.record(table)
        assert sample.get()["status"]["observedTable"] == table


@pytest.mark.parametrize("recorded", [False, True], ids=["unrecorded", "recorded"])
def test_spec_and_table_cannot_be_taken_away(sample: Resource, recorded: bool) -> None:
    if recorded:
        sample.record("students")
    without_table = sample.patch_spec(table=None, check=False)
    assert without_table.returncode != 0
    assert "spec.table: Required" in without_table.stderr
    without_spec = sample.kubectl(
        "replace",
        "--filename=-",
        input=json.dumps(SpecCase("", ABSENT).manifest(sample.name, sample.namespace)),
        check=False,
    )
    assert without_spec.returncode != 0
    assert "spec: Required value: spec is required, with table, name, age and country" in without_spec.stderr


def test_frozen_table_does_not_hold_up_deletion(sample: Resource) -> None:
    sample.patch({"metadata": {"finalizers": ["example.com/row"]}})
    sample.kubectl("delete", "pgw", sample.name, "--wait=false")
    sample.patch({"metadata": {"finalizers": None}})
    assert sample.gone()


FROZEN = "spec.database can be changed only while status.observedTable equals spec.table and status.tables is empty"


@pytest.mark.parametrize(
    ("status", "free"),
    [
        ({}, False),
        ({"observedTable": "students"}, True),
        ({"observedTable": "students", "tables": []}, True),
        ({"observedTable": "pupils", "tables": []}, False),
        ({"observedTable": "students", "tables": ["public.students"]}, False),
        ({"observedTable": "students", "tables": ["public.pupils"]}, False),
    ],
    ids=["new", "observed", "observed, none listed", "not observed", "listed", "another listed"],
)
@pytest.mark.parametrize("change", [(None, "one"), ("one", "two"), ("one", None)], ids=str)
def test_a_database_changes_only_where_no_row_can_be(
    cluster: ApiServer, namespace: str, status: dict[str, object], free: bool, change: tuple[str | None, str | None]
) -> None:
    before, after = change
    sample = Resource(cluster, namespace)
    sample.create(spec_with(**({"database": before} if before else {})))
    if status:
        sample.patch({"status": status}, "--subresource=status")
    sample.patch_spec(age=99)
    done = sample.patch_spec(database=after, check=False)
    assert (done.returncode == 0) is free, done.stderr
    if free:
        assert sample.get()["spec"].get("database") == after
    else:
        assert "spec.database: Forbidden" in done.stderr
        assert FROZEN in done.stderr
    sample.kubectl("delete", "pgw", sample.name)

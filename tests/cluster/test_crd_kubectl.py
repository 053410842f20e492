"""What a person sees of a PostgresWriter with kubectl."""

from __future__ import annotations

import itertools
import json
import re
from typing import TYPE_CHECKING

import pytest

from postgres_writer.core.row import KINDS, Kind
from support.custom_resource import KIND, PENDING, Resource, condition
from support.spec_cases import SpecCase, spec_with

if TYPE_CHECKING:
    from support.apiserver import ApiServer


@pytest.fixture
def resources(cluster: ApiServer, namespace: str) -> dict[str, Resource]:
    """Create one that is ready, one that is not, and one that was never synced."""
    found = {name: Resource(cluster, namespace, name) for name in ("ready", "broken", "unseen")}
    for resource in found.values():
        resource.create(spec_with(country="côte d'ivoire", database="archive"))
    ready = {"conditions": [condition("True", "RowSynced"), condition("False", "NotPaused", kind="Paused")]}
    found["ready"].patch({"status": ready}, "--subresource=status")
    broken = {"conditions": [condition("False", "TableNotFound"), condition("True", "Paused", kind="Paused")]}
    found["broken"].patch({"status": broken}, "--subresource=status")
    return found


def columns(printed: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.rstrip()) for line in printed.splitlines()]


def without_age(printed: str, at: int) -> list[list[str]]:
    return [row[:at] + row[at + 1 :] for row in columns(printed)]


def test_list_shows_table_and_condition(resources: dict[str, Resource]) -> None:
    printed = resources["ready"].kubectl("get", "pgw", "ready", "broken").stdout
    assert without_age(printed, 5) == [
        ["NAME", "TABLE", "READY", "REASON", "PAUSED"],
        ["ready", "students", "True", "RowSynced", "False"],
        ["broken", "students", "False", "TableNotFound", "True"],
    ]
    assert columns(printed)[0][5] == "AGE"
    assert all(re.fullmatch(r"\d+s", row[5]) for row in columns(printed)[1:])


WIDE = ["DATABASE", "GENERATION", "OBSERVED", "ROW-NAME", "ROW-AGE", "ROW-COUNTRY", "MESSAGE"]


def test_wide_list_adds_the_database_the_generations_the_values_and_what_is_wrong(
    resources: dict[str, Resource],
) -> None:
    printed = resources["ready"].kubectl("get", "pgw", "ready", "--output=wide").stdout
    values = ["archive", "1", "-1", "alex", "23", "côte d'ivoire", "A sentence."]
    assert without_age(printed, 5) == [
        ["NAME", "TABLE", "READY", "REASON", "PAUSED", *WIDE],
        ["ready", "students", "True", "RowSynced", "False", *values],
    ]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_an_edit_that_no_server_has_seen_shows_in_the_wide_list(cluster: ApiServer, namespace: str, kind: Kind) -> None:
    resource = Resource(cluster, namespace, kind=kind)
    resource.create({"table": "tenants"} if kind.fixed is None else None)
    resource.patch(
        {"status": {"observedGeneration": 1, "conditions": [condition("True", "RowSynced")]}}, "--subresource=status"
    )

    def generations() -> tuple[str, str]:
        head, line = (
            row.split() for row in resource.kubectl("get", resource.resource, "-o", "wide").stdout.splitlines()
        )
        assert len(set(head)) == len(head), "no two columns have one name"
        # PAUSED and DATABASE, of the default one, are empty in this line
        return line[head.index("GENERATION") - 2], line[head.index("OBSERVED") - 2]

    assert generations() == ("1", "1")
    resource.patch_spec(deletionPolicy="Retain")
    assert generations() == ("2", "1")


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_no_explanation_is_broken_before_the_line_is_full(cluster: ApiServer, kind: Kind) -> None:
    fields = (
        "",
        ".spec",
        *(f".spec.{name}" for name in kind.fields),
        ".status",
        ".status.conditions",
        ".status.tables",
    )
    for field in fields:
        printed = cluster.kubectl("explain", f"{kind.plural}{field}").stdout
        text = printed.partition("DESCRIPTION:\n")[2].partition("\n\n")[0].partition("\nFIELDS:")[0].strip()
        lines = [line.strip() for line in text.splitlines()]
        assert lines, field
        for line, following in itertools.pairwise(lines):  # a list and its items have a paragraph each
            assert line.endswith(".") or len(f"{line} {following.split()[0]}") > 76, field


def test_unseen_resource_waits_for_the_controller(resources: dict[str, Resource]) -> None:
    printed = resources["unseen"].kubectl("get", "pgw", "unseen").stdout
    assert columns(printed)[1][:4] == ["unseen", "students", "Unknown", "Pending"]


@pytest.mark.parametrize("word", ["pgw", "postgreswriter", "postgreswriters", "postgreswriters.v1.demo.yash.com"])
def test_every_name_of_the_kind_is_understood(resources: dict[str, Resource], word: str) -> None:
    assert "postgreswriter.demo.yash.com/ready" in resources["ready"].kubectl("get", word, "--output=name").stdout


def test_all_includes_it(resources: dict[str, Resource]) -> None:
    printed = resources["ready"].kubectl("get", "all").stdout
    assert "postgreswriter.demo.yash.com/broken" in printed


def test_wait_for_ready_ends_when_it_is_ready(resources: dict[str, Resource]) -> None:
    resources["ready"].kubectl("wait", "--for=condition=Ready", "--timeout=60s", "pgw/ready")
    for name in ("broken", "unseen"):  # no tool takes silence for success
        refused = resources[name].kubectl("wait", "--for=condition=Ready", "--timeout=1s", f"pgw/{name}", check=False)
        assert refused.returncode != 0
        assert "timed out waiting for the condition" in refused.stderr
    resources["ready"].kubectl("wait", "--for=condition=Ready=false", "--timeout=60s", "pgw/broken")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("postgreswriter", "one row of a PostgreSQL table"),
        ("postgreswriter.spec", "Desired state of the row"),
        ("postgreswriter.spec.table", "The table must exist, with the columns"),
        ("postgreswriter.spec.database", "which need not be that of a database of PostgreSQL"),
        ("postgreswriter.spec.name", "1 to 1024 characters"),
        ("postgreswriter.spec.age", "from 0 to 2147483647"),
        ("postgreswriter.spec.country", "kept exactly"),
        ("postgreswriter.spec.deletionPolicy", "Retain leaves it in place"),
        ("postgreswriter.status.tables", "Every table that may hold the row"),
        ("postgreswriter.status.observedTable", "while both are equal"),
        ("postgreswriter.status.conditions.reason", "Machine-readable reason"),
    ],
)
def test_explain_tells(cluster: ApiServer, path: str, expected: str) -> None:
    printed = " ".join(cluster.kubectl("explain", path).stdout.split())
    assert expected in printed


def test_status_is_no_part_of_what_a_user_writes(resources: dict[str, Resource]) -> None:
    resources["unseen"].patch({"status": {"observedTable": "pupils"}})
    assert resources["unseen"].get()["status"] == PENDING


def test_a_forged_status_is_dropped_and_a_real_one_replaces_the_default(cluster: ApiServer, namespace: str) -> None:
    forged = SpecCase("", spec_with()).manifest("forged", namespace)
    forged["status"] = {"observedGeneration": 1, "conditions": [condition("True", "RowSynced")]}
    cluster.kubectl("create", "--filename=-", input=json.dumps(forged))
    resource = Resource(cluster, namespace, "forged")
    assert resource.get()["status"] == PENDING
    resource.patch({"status": forged["status"]}, "--subresource=status")
    assert resource.get()["status"] == forged["status"]


def test_a_status_without_conditions_is_not_taken_for_success(cluster: ApiServer, namespace: str) -> None:
    """Each field has its default: one for the whole would not reach an object that has any status."""
    resource = Resource(cluster, namespace)
    resource.create()
    patch = [{"op": "replace", "path": "/status", "value": {"observedGeneration": 1}}]
    command = ("patch", KIND, "sample", "--type=json", "--subresource=status", "--patch", json.dumps(patch))
    resource.kubectl(*command)
    assert resource.get()["status"] == {**PENDING, "observedGeneration": 1}


@pytest.mark.parametrize("mode", [(), ("--server-side",)], ids=["client-side", "server-side"])
def test_the_default_status_is_no_difference_to_a_manifest(
    cluster: ApiServer, namespace: str, mode: tuple[str, ...]
) -> None:
    manifest = json.dumps(SpecCase("", spec_with()).manifest(namespace=namespace))
    cluster.kubectl("apply", *mode, "--filename=-", input=manifest)
    assert cluster.kubectl("diff", *mode, "--filename=-", input=manifest).stdout == ""
    Resource(cluster, namespace).record("students")
    assert cluster.kubectl("diff", *mode, "--filename=-", input=manifest).stdout == ""


@pytest.mark.parametrize(
    ("status", "complaint"),
    [
        ({"conditions": [condition("True", "RowSynced")] * 2}, "Duplicate value"),
        ({"conditions": [condition("Yes", "RowSynced")]}, "status.conditions[0].status"),
        ({"conditions": [condition("True", "")]}, "status.conditions[0].reason"),
        ({"conditions": [condition("True", "Row synced")]}, "status.conditions[0].reason"),
        ({"conditions": [{**condition("True", "RowSynced"), "lastTransitionTime": "now"}]}, "lastTransitionTime"),
        ({"tables": [f"t{number}" for number in range(17)]}, "status.tables"),
        ({"tables": ["students", "students"]}, "Duplicate value"),
        ({"observedGeneration": -2}, "status.observedGeneration"),
    ],
)
def test_status_of_a_wrong_shape_is_refused(
    resources: dict[str, Resource], status: dict[str, object], complaint: str
) -> None:
    done = resources["unseen"].patch({"status": status}, "--subresource=status", check=False)
    assert done.returncode != 0
    assert complaint in done.stderr

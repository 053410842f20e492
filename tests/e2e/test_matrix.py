"""What users do, on every kind of controller, hook version and transport; asserted on the state of the world.

Every case runs with both kinds of resources, whose rows look the same; what only a PostgresRow can do is in
test_columns.py.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from postgres_writer.core.row import POSTGRES_ROW, POSTGRES_WRITER, Kind
from support.api_client import ApiError
from support.stack import Stack, gone
from support.waiting import wait_until
from support.world import PAUSED

if TYPE_CHECKING:
    from collections.abc import Iterator

# Finalizer and status; a DecoratorController writes the object itself once more after its status.
CREATE_WRITES = {"composite": 2, "decorator": 3}
LOOSE_SPEC = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
CRD_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{}.demo.yash.com"
TABLE_LIKE = ({"table": "a.b.c"}, {"table": 'x"; DROP TABLE students; --'})
BROKEN: dict[str, tuple[dict[str, Any], ...]] = {
    "PostgresWriter": (*TABLE_LIKE, {"age": "23"}, {"name": None}),
    "PostgresRow": (
        *TABLE_LIKE,
        {"columns": "name"},
        {"columns": [{"name": 'x"; DROP TABLE students; --'}]},
        {"idColumn": 1},
    ),
}

# the kind last, so that a variant is installed once for both
pytestmark = pytest.mark.usefixtures("kind")


class TestRow:
    """One resource, one row."""

    def test_applied_sample_becomes_ready_and_a_row(self, installed: Stack, namespace: str) -> None:
        apply_sample(installed, namespace)
        wait_with_kubectl(installed, namespace, "sample-student")
        assert installed.row("students", namespace, "sample-student") == row(installed, namespace, "sample-student")
        status = (installed.client.get(namespace, "sample-student") or {})["status"]
        assert (status["observedGeneration"], status["tables"]) == (1, ["public.students"])
        installed.world.converge(10)

    def test_applying_the_same_again_writes_nothing(self, installed: Stack, namespace: str) -> None:
        apply_sample(installed, namespace)
        wait_with_kubectl(installed, namespace, "sample-student")
        wait_until(
            lambda: versions(installed, namespace) == 1 + CREATE_WRITES[installed.variant.kind],
            lambda: "\n".join(["not created and settled", *history(installed, namespace, "sample-student")]),
        )
        apply_sample(installed, namespace)
        touch(installed, namespace, "sample-student")
        installed.world.converge(10)
        time.sleep(0.5)
        assert versions(installed, namespace) == 2 + CREATE_WRITES[installed.variant.kind], (
            "more than the touch was written"
        )

    def test_edit_changes_the_row(self, installed: Stack, namespace: str) -> None:
        make_ready(installed, namespace, "edited")
        installed.client.edit(namespace, "edited", age=24, country="O'Higgins \U0001f1e8\U0001f1f1")
        installed.wait_ready(namespace, "edited", "True/RowSynced@2")
        assert installed.row("students", namespace, "edited") == (
            installed.key(namespace, "edited"),
            "alex",
            24,
            "O'Higgins \U0001f1e8\U0001f1f1",
        )
        installed.world.converge(10)

    def test_move_takes_the_row_to_the_other_table(self, installed: Stack, namespace: str) -> None:
        make_ready(installed, namespace, "moved")
        for generation, table in enumerate(("archive.students", "teachers", "students"), 2):
            installed.client.edit(namespace, "moved", table=table)
            installed.wait_ready(namespace, "moved", f"True/RowSynced@{generation}")
            installed.world.converge(10)

    def test_drift_is_put_right_at_the_next_sync(self, installed: Stack, namespace: str) -> None:
        make_ready(installed, namespace, "drifted")
        key = installed.key(namespace, "drifted")
        for statement in ("DELETE FROM students WHERE id = %s", "UPDATE students SET age = 1 WHERE id = %s"):
            installed.database.query(statement, key)
            touch(installed, namespace, "drifted")
            wait_until(
                lambda: installed.row("students", namespace, "drifted") == row(installed, namespace, "drifted"),
                "row restored",
            )

    def test_delete_takes_the_row_along(self, installed: Stack, namespace: str) -> None:
        make_ready(installed, namespace, "deleted")
        installed.api.kubectl(
            "delete", installed.client.kind.plural, "deleted", f"--namespace={namespace}", "--timeout=60s"
        )
        installed.world.converge(10)

    def test_foreground_deletion_ends_too(self, installed: Stack, namespace: str) -> None:
        make_ready(installed, namespace, "deleted")
        cascade = ("--cascade=foreground", "--timeout=60s")
        kind = installed.client.kind
        installed.api.kubectl("delete", kind.plural, "deleted", f"--namespace={namespace}", *cascade)
        installed.world.converge(10)
        # Kubernetes takes its own finalizer off at the same time; Metacontroller may then meet an object that is gone.
        known = f"can't remove finalizer for {kind.name}"
        assert [text for text in installed.client.warnings() if known not in text or "not found" not in text] == []
        installed.client.clear_events()

    def test_recreated_at_once_under_its_name_it_has_the_new_row(self, installed: Stack, namespace: str) -> None:
        client = installed.client
        make_ready(installed, namespace, "phoenix")
        for life, table in enumerate(("teachers", "students", "students", "archive.students", "teachers")):
            client.delete(namespace, "phoenix")
            wait_until(lambda: gone(client, namespace, "phoenix"), "phoenix is gone")
            client.create(client.manifest(namespace, "phoenix", table=table, age=life))
            installed.wait_ready(namespace, "phoenix", "True/RowSynced@1")
            installed.world.converge(10)

    def test_same_name_in_two_namespaces_is_two_rows(self, installed: Stack, namespace: str) -> None:
        make_ready(installed, namespace, "twin", age=1)
        make_ready(installed, "default", "twin", age=2)
        installed.client.delete("default", "twin")
        wait_until(lambda: gone(installed.client, "default", "twin"), "twin of default is gone")
        assert installed.row("students", namespace, "twin") == row(installed, namespace, "twin", age=1)
        installed.world.converge(10)


class TestPolicy:
    """What the user may ask for beside a row."""

    def test_paused_nothing_is_written_and_ready_stays(self, installed: Stack, namespace: str) -> None:
        make_ready(installed, namespace, "paused")
        pause(installed, namespace, "paused", "true")
        installed.client.edit(namespace, "paused", age=99)
        wait_until(lambda: condition(installed, namespace, "paused", "Paused") == "True", "Paused=True")
        wait_until(lambda: observed_generation(installed, namespace, "paused") == 2, "generation 2 was seen")
        assert installed.ready(namespace, "paused") == "True/RowSynced@1"
        assert installed.row("students", namespace, "paused") == row(installed, namespace, "paused")
        pause(installed, namespace, "paused", None)
        installed.wait_ready(namespace, "paused", "True/RowSynced@2")
        assert condition(installed, namespace, "paused", "Paused") is None
        installed.world.converge(10)

    def test_paused_resource_can_be_deleted(self, installed: Stack, namespace: str) -> None:
        make_ready(installed, namespace, "paused")
        pause(installed, namespace, "paused", "true")
        installed.client.delete(namespace, "paused")
        wait_until(lambda: gone(installed.client, namespace, "paused"), "paused is gone")
        installed.world.converge(10)

    def test_retained_row_outlives_its_resource(self, installed: Stack, namespace: str) -> None:
        make_ready(installed, namespace, "retained", deletionPolicy="Retain")
        installed.client.delete(namespace, "retained")
        wait_until(lambda: gone(installed.client, namespace, "retained"), "retained is gone")
        assert installed.row("students", namespace, "retained") == row(installed, namespace, "retained")

    def test_opted_out_by_label_the_row_stays_and_the_finalizer_goes(
        self, installed: Stack, namespace: str, selector: None
    ) -> None:
        make_ready(installed, namespace, "free")
        label(installed, namespace, "free", "true")
        wait_until(lambda: not finalizers(installed, namespace, "free"), "the finalizer is released")
        installed.wait_ready(namespace, "free", "Unknown/Unmanaged@1")
        assert installed.row("students", namespace, "free") == row(installed, namespace, "free")
        label(installed, namespace, "free", None)
        installed.wait_ready(namespace, "free", "True/RowSynced@1")
        installed.world.converge(10)
        label(installed, namespace, "free", "true")
        wait_until(lambda: not finalizers(installed, namespace, "free"), "the finalizer is released again")
        installed.client.delete(namespace, "free")
        wait_until(lambda: gone(installed.client, namespace, "free"), "free is gone")
        assert installed.row("students", namespace, "free") == row(installed, namespace, "free")


class TestTrouble:
    """What users get wrong."""

    def test_missing_table_is_told_and_its_creation_heals(
        self, installed: Stack, namespace: str, later_table: str
    ) -> None:
        installed.client.create(installed.client.manifest(namespace, "early", table=later_table))
        installed.wait_ready(namespace, "early", "False/TableNotFound@1")
        installed.world.converge(10)
        installed.make_table(later_table)
        touch(installed, namespace, "early")
        installed.wait_ready(namespace, "early", "True/RowSynced@1")
        installed.world.converge(10)

    def test_move_to_a_missing_table_leaves_the_row_where_it_is(
        self, installed: Stack, namespace: str, later_table: str
    ) -> None:
        make_ready(installed, namespace, "stays")
        installed.client.edit(namespace, "stays", table=later_table)
        installed.wait_ready(namespace, "stays", "False/TableNotFound@2")
        assert installed.row("students", namespace, "stays") == row(installed, namespace, "stays")
        installed.make_table(later_table)
        touch(installed, namespace, "stays")
        installed.wait_ready(namespace, "stays", "True/RowSynced@2")
        installed.world.converge(10)

    def test_invalid_spec_admitted_by_an_old_crd_is_told_and_deletable(
        self, installed: Stack, namespace: str, loose_crd: None
    ) -> None:
        broken = {f"broken-{number}": spec for number, spec in enumerate(BROKEN[installed.client.kind.name])}
        for name, spec in broken.items():
            installed.client.create(installed.client.manifest(namespace, name, **spec))
        for name in broken:
            installed.wait_ready(namespace, name, "False/InvalidSpec@1")
        assert not [key for rows in installed.world.rows().values() for key in rows if namespace in key]
        for name in broken:
            installed.client.delete(namespace, name)
        for name in broken:
            wait_until(lambda name=name: gone(installed.client, namespace, name), f"{name} is gone")  # type: ignore[misc]
        installed.world.converge(10)


class TestMany:
    """Numbers."""

    def test_namespace_with_200_resources_goes_with_its_rows(self, installed: Stack, namespace: str) -> None:
        crowd = f"{namespace}-crowd"
        installed.client.create_namespace(crowd)
        for number in range(200):
            installed.client.create(installed.client.manifest(crowd, f"student-{number}", age=number))
        installed.world.converge(30)
        installed.api.kubectl("delete", "namespace", crowd, "--timeout=90s", timeout=100)
        installed.world.converge(10)

    def test_all_this_gave_no_warning_event(self, installed: Stack) -> None:
        assert installed.client.warnings() == []


@pytest.fixture(params=[POSTGRES_WRITER, POSTGRES_ROW], ids=lambda kind: kind.name)
def kind(installed: Stack, request: pytest.FixtureRequest) -> Iterator[Kind]:
    """Let the stack's client speak of one kind of resources and then of the other."""
    installed.client = installed.client.of(request.param)
    yield request.param
    installed.client = installed.client.of(POSTGRES_WRITER)


@pytest.fixture
def later_table(installed: Stack) -> Iterator[str]:
    """Name a table that the test may create; it is dropped afterwards."""
    installed.world.tables.add("later")
    yield "later"
    if "later" in installed.world.rows():
        installed.drop_table("later")
    installed.world.tables.discard("later")


@pytest.fixture
def selector(installed: Stack) -> Iterator[None]:
    """Let the controllers leave alone what has the label `unmanaged`."""
    patched = installed.controllers(installed.address)
    rule = {"matchExpressions": [{"key": "unmanaged", "operator": "DoesNotExist"}]}
    for spec in (controller["spec"] for controller in patched):
        for served in [spec["parentResource"]] if "parentResource" in spec else spec["resources"]:
            served["labelSelector"] = rule
    installed.apply(*patched)
    yield
    installed.apply(*installed.controllers(installed.address))


@pytest.fixture
def loose_crd(installed: Stack, kind: Kind) -> Iterator[None]:
    """Serve a CRD that lets any spec pass, and put the shipped one back."""
    found = installed.client.request("GET", CRD_PATH.format(kind.plural))
    schema = found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    original = yaml.safe_load(yaml.safe_dump(schema))
    schema["properties"]["spec"] = LOOSE_SPEC
    schema.pop("x-kubernetes-validations", None)
    replace_schema(installed, schema)
    wait_until(lambda: admits(installed, {"table": 1}), "the loose CRD is served")
    yield
    replace_schema(installed, original)
    wait_until(lambda: not admits(installed, {"table": 1}), "the shipped CRD is served again")


def replace_schema(stack: Stack, schema: dict[str, Any]) -> None:
    path = CRD_PATH.format(stack.client.kind.plural)
    found = stack.client.request("GET", path)
    found["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = schema
    stack.client.request("PUT", path, found)


def admits(stack: Stack, spec: dict[str, Any]) -> bool:
    manifest = stack.client.manifest("default", "dry") | {"spec": spec}
    try:
        stack.client.request("POST", f"{stack.client.path('default')}?dryRun=All", manifest)
    except ApiError:
        return False
    return True


def row(stack: Stack, namespace: str, name: str, age: int = 23) -> tuple[str, str, int, str]:
    return (stack.key(namespace, name), "alex", age, "canada")


def apply_sample(stack: Stack, namespace: str) -> None:
    sample = stack.client.manifest(namespace, "sample-student")
    if stack.client.kind is POSTGRES_WRITER:
        assert {**stack.sample(), "metadata": sample["metadata"]} == sample
    stack.api.kubectl("apply", "--filename", "-", input=yaml.safe_dump(sample))


def wait_with_kubectl(stack: Stack, namespace: str, name: str) -> None:
    condition_flags = ("--for=condition=Ready", "--timeout=60s")
    stack.api.kubectl("wait", *condition_flags, f"{stack.client.kind.plural}/{name}", f"--namespace={namespace}")


def make_ready(stack: Stack, namespace: str, name: str, **spec: Any) -> None:
    stack.client.create(stack.client.manifest(namespace, name, **spec))
    stack.wait_ready(namespace, name, "True/RowSynced@1")


def history(stack: Stack, namespace: str, name: str) -> list[str]:
    return stack.recorder.history(stack.key(namespace, name))


def versions(stack: Stack, namespace: str) -> int:
    return stack.recorder.versions(stack.key(namespace, "sample-student"))


def touch(stack: Stack, namespace: str, name: str) -> None:
    """Ask for a sync the way the documentation says: by an annotation."""
    stamp = str(stack.recorder.clock())
    stack.client.merge(namespace, name, {"metadata": {"annotations": {"touched": stamp}}})


def pause(stack: Stack, namespace: str, name: str, value: str | None) -> None:
    stack.client.merge(namespace, name, {"metadata": {"annotations": {PAUSED: value}}})


def label(stack: Stack, namespace: str, name: str, value: str | None) -> None:
    stack.client.merge(namespace, name, {"metadata": {"labels": {"unmanaged": value}}})


def condition(stack: Stack, namespace: str, name: str, kind: str) -> str | None:
    found = stack.client.get(namespace, name) or {}
    statuses = {entry["type"]: entry["status"] for entry in found.get("status", {}).get("conditions", [])}
    return statuses.get(kind)


def observed_generation(stack: Stack, namespace: str, name: str) -> int | None:
    generation: int | None = (stack.client.get(namespace, name) or {}).get("status", {}).get("observedGeneration")
    return generation


def finalizers(stack: Stack, namespace: str, name: str) -> list[str]:
    found: list[str] = (stack.client.get(namespace, name) or {}).get("metadata", {}).get("finalizers", [])
    return found

"""The CRD of PostgresRow on the real API server: what it accepts, refuses and tells, and when a column may go."""

from __future__ import annotations

import json
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from cluster.round_trip import RoundTrip, ready
from postgres_writer.core.request import MAX_LISTED_COLUMNS
from postgres_writer.core.row import MAX_COLUMNS, POSTGRES_ROW
from support.custom_resource import PENDING, Resource, condition
from support.payloads import finalizer
from support.server import running_server

if TYPE_CHECKING:
    import subprocess

    from support.apiserver import ApiServer
    from support.postgres import Database

WAIT = "a column cannot be removed until status.columns lists it; wait, then retry"
RESOURCE = "postgresrows.demo.yash.com"
_numbers = count(1)


def columns(**values: Any) -> list[dict[str, Any]]:
    """Return the columns of a spec."""
    return [{"name": name, "value": value} for name, value in values.items()]


def spec_of(*named: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return a spec of the table tenants."""
    return {"table": "tenants", "columns": list(named), **fields}


@pytest.fixture(scope="module")
def home(cluster: ApiServer) -> str:
    """Make one namespace for resources that have names of their own."""
    cluster.kubectl("create", "namespace", "rows")
    return "rows"


@pytest.fixture
def row(cluster: ApiServer, home: str) -> Resource:
    """Name a PostgresRow that is not created yet."""
    return Resource(cluster, home, f"row-{next(_numbers)}", POSTGRES_ROW)


@pytest.fixture
def acme(row: Resource) -> Resource:
    """Create one with two columns, which its status does not list yet."""
    row.create(spec_of(*columns(plan="gold", seats=5)))
    return row


def write(row: Resource, spec: object, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Give the spec to kubectl in a way of its own."""
    return row.kubectl(*command, "--filename=-", input=json.dumps(row.manifest(spec)), check=check)


def record(row: Resource, *names: str, table: str = "tenants") -> None:
    """Write what the hook server records of a sync."""
    row.patch({"status": {"observedTable": table, "columns": list(names)}}, "--subresource=status")


def names(row: Resource) -> list[str]:
    return [column["name"] for column in row.get()["spec"]["columns"]]


# what is accepted and refused


def test_a_row_of_a_table_alone_gets_every_default(row: Resource) -> None:
    row.create({"table": "tenants"})
    found = row.get()
    assert found["spec"] == {"table": "tenants", "idColumn": "id", "columns": [], "deletionPolicy": "Delete"}
    assert found["status"] == PENDING


VALID: dict[str, dict[str, Any]] = {
    "schema and another id": {"table": "billing.tenants", "idColumn": "ref"},
    "null for the defaults": {"columns": None, "idColumn": None, "deletionPolicy": None},
    "as many columns as may be": {"columns": [{"name": f"c{number}"} for number in range(MAX_COLUMNS)]},
    "the longest name": {"columns": columns(**{"c" * 63: 1})},
    "capitals and signs": {"columns": columns(**{"Plan_$1": 1, "plan_$1": 2})},
    "a column named id beside another id": {"idColumn": "ref", "columns": columns(id=1)},
    "retain": {"deletionPolicy": "Retain"},
}


@pytest.mark.parametrize("case", VALID)
def test_a_valid_spec_is_accepted(row: Resource, case: str) -> None:
    row.create(spec_of(**VALID[case]))


NO_COLUMN = "spec.columns has a name that is not a column name; write at most 63 letters"
INVALID: dict[str, tuple[object, str]] = {
    "no spec": (None, "spec: Required value"),
    "no table": ({"columns": []}, "spec.table: Required value"),
    "an empty table": (spec_of(table=""), "spec.table"),
    "three parts": (spec_of(table="a.b.c"), "spec.table"),
    "a system schema": (spec_of(table="pg_catalog.pg_class"), "write SCHEMA.pg_NAME for a table of your own"),
    "no list": (spec_of(columns={"plan": "gold"}), "spec.columns"),
    "no objects": (spec_of(columns=["plan"]), "spec.columns[0]"),
    "no name": (spec_of({"value": 1}), "spec.columns[0].name: Required value"),
    "an empty name": (spec_of({"name": ""}), NO_COLUMN),
    "a name that is too long": (spec_of({"name": "c" * 64}), "spec.columns[0].name"),
    "a name with a blank": (spec_of({"name": "a b"}), NO_COLUMN),
    "a name that begins with a digit": (spec_of({"name": "1a"}), NO_COLUMN),
    "a name twice": (spec_of({"name": "plan"}, {"name": "plan"}), "Duplicate value"),
    "too many columns": (spec_of(*({"name": f"c{number}"} for number in range(MAX_COLUMNS + 1))), "at most 100"),
    "the id among the columns": (spec_of(*columns(id="x")), "spec.columns must not name spec.idColumn"),
    "another id among the columns": (spec_of(*columns(ref=1), idColumn="ref"), "spec.columns must not name"),
    "an id that can be no column": (spec_of(idColumn="a-b"), "spec.idColumn is not a column name; write at most 63"),
    "an unknown policy": (spec_of(deletionPolicy="Keep"), "spec.deletionPolicy"),
}


@pytest.mark.parametrize("case", INVALID)
def test_an_invalid_spec_is_refused_by_the_name_of_its_field(row: Resource, case: str) -> None:
    spec, complaint = INVALID[case]
    done = write(row, spec, "create", "--validate=ignore", check=False)
    assert done.returncode != 0
    assert complaint in done.stderr
    assert "^[" not in done.stderr, "a sentence says more than an expression"
    assert row.gone()


def test_a_misspelt_value_is_named_to_a_strict_client_and_is_null_without_one(row: Resource) -> None:
    spec = spec_of({"name": "plan", "vlaue": "gold"})
    refused = write(row, spec, "create", "--validate=strict", check=False)
    assert 'unknown field "spec.columns[0].vlaue"' in refused.stderr
    write(row, spec, "create", "--validate=ignore")
    assert row.get()["spec"]["columns"] == [{"name": "plan"}]


# values

EVERYTHING = columns(
    text="",
    spaces="  a\n",
    null=None,
    nested_null={"a": None, "b": [None, 1]},
    big=9007199254740993,
    largest=2**63 - 1,
    fraction=0.1,
    truth=False,
    array=[1, [2]],
    nothing={},
    date="2026-01-31",
)


@pytest.mark.parametrize("command", [("create",), ("apply", "--server-side")], ids=["create", "server-side"])
def test_values_are_stored_as_written(row: Resource, command: tuple[str, ...]) -> None:
    write(row, spec_of(*EVERYTHING), *command)
    assert row.get()["spec"]["columns"] == EVERYTHING
    write(row, spec_of(*columns(text=None)), "replace", check=False)
    record(row, *(column["name"] for column in EVERYTHING))
    write(row, spec_of(*columns(text=None)), "replace")
    assert row.get()["spec"]["columns"] == columns(text=None)


def test_a_client_side_apply_drops_nulls_and_rounds_big_numbers_of_what_it_changes(row: Resource) -> None:
    write(row, spec_of(*columns(a=1, c=1)), "apply")
    write(row, spec_of(*columns(a=None, b={"x": None, "y": 1}, c=9007199254740993, d="9007199254740993")), "apply")
    written = {column["name"]: column.get("value") for column in row.get()["spec"]["columns"]}
    assert written == {"a": None, "b": {"y": 1}, "c": 9007199254740992, "d": "9007199254740993"}


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("18446744073709551615", 18446744073709552000),
        ("0.12345678901234567890", 0.12345678901234568),
        ("1.0", 1),
        ("19.90", 19.9),
        ("0123", 83),
        ("no", False),
        ("y", True),
        ("2026-01-31", "2026-01-31"),
        ('"0123"', "0123"),
        ("~", None),
    ],
)
def test_what_yaml_and_json_make_of_a_value(row: Resource, written: str, stored: object) -> None:
    lines = f"  - name: plan\n    value: {written}\n"
    head = f"apiVersion: demo.yash.com/v1alpha1\nkind: PostgresRow\nmetadata: {{name: {row.name}}}\n"
    row.kubectl("create", "-f", "-", input=f"{head}spec:\n  table: tenants\n  columns:\n{lines}")
    (column,) = row.get()["spec"]["columns"]
    found = column["value"]
    assert (found, isinstance(found, bool)) == (stored, isinstance(stored, bool))


# the transition rules


def refused(done: subprocess.CompletedProcess[str], complaint: str) -> bool:
    return done.returncode != 0 and complaint in done.stderr


REPLACING: dict[str, tuple[str, ...]] = {
    "apply": ("apply",),
    "server-side": ("apply", "--server-side", "--force-conflicts", "--field-manager=kubectl-create"),
    "replace": ("replace",),
}


@pytest.mark.parametrize("way", REPLACING)
def test_a_column_cannot_be_removed_until_the_status_lists_it(row: Resource, way: str) -> None:
    before = spec_of(*columns(plan="gold", seats=5))
    write(row, before, *(("create", "--save-config") if way != "server-side" else REPLACING[way]))
    after = spec_of(*columns(plan="silver"))
    assert refused(write(row, after, *REPLACING[way], check=False), WAIT)
    record(row, "plan")
    assert refused(write(row, after, *REPLACING[way], check=False), WAIT)
    record(row, "plan", "seats")
    write(row, after, *REPLACING[way])
    assert row.get()["spec"]["columns"] == columns(plan="silver")


def test_a_renamed_column_is_a_removed_one(acme: Resource) -> None:
    change = spec_of(*columns(plan="gold", seat=5))
    assert refused(write(acme, change, "replace", check=False), WAIT)
    record(acme, "plan", "seats")
    write(acme, change, "replace")
    assert names(acme) == ["plan", "seat"]


def test_everything_else_about_columns_can_change_at_any_time(acme: Resource) -> None:
    for change in (columns(seats=6, plan=None), columns(note="x", plan=1, seats=6), columns(plan=1, seats=6, note="x")):
        write(acme, spec_of(*change), "replace")
        assert acme.get()["spec"]["columns"] == change
    acme.patch({"metadata": {"annotations": {"demo.yash.com/paused": "true"}}})


def test_a_merge_patch_replaces_the_list_and_a_json_patch_changes_one(acme: Resource) -> None:
    assert refused(acme.patch_spec(columns=columns(plan="silver"), check=False), WAIT)
    assert refused(acme.patch_spec(columns=None, check=False), WAIT)
    change = json.dumps([{"op": "replace", "path": "/spec/columns/1/value", "value": {"a": 1}}])
    acme.kubectl("patch", RESOURCE, acme.name, "--type=json", "--patch", change)
    assert acme.get()["spec"]["columns"] == columns(plan="gold", seats={"a": 1})
    strategic = acme.kubectl("patch", RESOURCE, acme.name, "--type=strategic", "--patch", "{}", check=False)
    assert "is not supported" in strategic.stderr


def test_two_managers_own_columns_each_as_a_whole(row: Resource) -> None:
    def apply(manager: str, *named: dict[str, Any], check: bool = True) -> subprocess.CompletedProcess[str]:
        return write(row, spec_of(*named), "apply", "--server-side", f"--field-manager={manager}", check=check)

    apply("one", *columns(plan="gold"))
    apply("two", *columns(seats=5, limits={"cpu": 4}))
    assert row.get()["spec"]["columns"] == columns(plan="gold", seats=5, limits={"cpu": 4})
    conflict = apply("one", *columns(plan="gold", limits={"memory": 1}), check=False)
    assert refused(conflict, 'conflict with "two"')
    assert "limits" in conflict.stderr
    record(row, "plan", "seats", "limits")
    apply("two", *columns(limits={"cpu": 4}))
    assert names(row) == ["plan", "limits"]
    apply("two")
    apply("one")
    assert row.get()["spec"]["columns"] == [], "the last column of the last manager may go too"


def test_the_column_of_the_id_never_changes(acme: Resource) -> None:
    record(acme, "plan", "seats")
    assert refused(acme.patch_spec(idColumn="ref", check=False), "spec.idColumn cannot be changed")
    acme.patch_spec(idColumn="id", deletionPolicy="Retain")


def test_the_table_is_frozen_until_it_is_observed(acme: Resource) -> None:
    assert refused(acme.patch_spec(table="others", check=False), "spec.table cannot be changed until")
    record(acme, table="tenants")
    acme.patch_spec(table="others")
    assert refused(acme.patch_spec(table="tenants", check=False), "spec.table cannot be changed until")
    assert acme.get()["spec"]["table"] == "others"


def test_a_frozen_spec_holds_up_no_deletion(acme: Resource) -> None:
    acme.patch({"metadata": {"finalizers": ["example.com/row"]}})
    acme.kubectl("delete", "pgr", acme.name, "--wait=false")
    acme.patch({"metadata": {"finalizers": None}})
    assert acme.gone()


@pytest.mark.parametrize(
    ("status", "complaint"),
    [
        ({"columns": [f"c{number}" for number in range(MAX_LISTED_COLUMNS + 1)]}, "status.columns"),
        ({"columns": ["plan", "plan"]}, "Duplicate value"),
        ({"columns": ["c" * 64]}, "status.columns[0]"),
    ],
)
def test_a_status_of_a_wrong_shape_is_refused(acme: Resource, status: dict[str, Any], complaint: str) -> None:
    assert refused(acme.patch({"status": status}, "--subresource=status", check=False), complaint)


# what a person sees


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("pgr", "one row of a PostgreSQL table, with columns of your choice"),
        ("pgr.spec.table", "with the column that idColumn names and those of spec.columns"),
        ("pgr.spec.idColumn", "It cannot be changed"),
        ("pgr.spec.columns", "A column that is removed from this list gets its DEFAULT once"),
        ("pgr.spec.columns", "it can be removed once status.columns lists it"),
        ("pgr.spec.columns", "a merge patch replaces the whole list"),
        ("pgr.spec.columns.name", "in exact case"),
        ("pgr.spec.columns.value", 'Absent or null is NULL, and "" is the empty string'),
        ("pgr.spec.columns.value", 'Write as strings: exact decimals ("19.90")'),
        ("pgr.spec.columns.value", 'in ISO format, times with their zone ("2026-01-31T12:00:00Z")'),
        ("pgr.spec.columns.value", '"now" and "today" mean something else at each sync'),
        ("pgr.status.columns", "only while it is listed here"),
        ("pgr.status.id", "row/<namespace>/<name>"),
    ],
)
def test_explain_tells(cluster: ApiServer, path: str, expected: str) -> None:
    assert expected in " ".join(cluster.kubectl("explain", path).stdout.split())


def test_a_list_shows_table_condition_columns_and_what_is_wrong(acme: Resource) -> None:
    record(acme, "plan", "seats")
    acme.patch({"status": {"conditions": [condition("True", "RowSynced")]}}, "--subresource=status")
    wide = acme.kubectl("get", "pgr", acme.name, "--output=wide").stdout
    head, line = wide.splitlines()
    assert head.split() == [
        "NAME",
        "TABLE",
        "READY",
        "REASON",
        "PAUSED",
        "AGE",
        "DATABASE",
        "GENERATION",
        "OBSERVED",
        "COLUMNS",
        "MESSAGE",
    ]
    assert line.split()[:4] == [acme.name, "tenants", "True", "RowSynced"]
    assert '["plan","seats"]' in line
    assert line.endswith("A sentence.")
    assert acme.kubectl("get", "pgr", acme.name).stdout.split()[:6] == head.split()[:6]
    assert f"postgresrow.demo.yash.com/{acme.name}" in acme.kubectl("get", "all").stdout
    acme.kubectl("wait", "--for=condition=Ready", "--timeout=60s", f"pgr/{acme.name}")


# with the real hook server


@pytest.mark.parametrize("controller", ["composite", "decorator"])
def test_a_status_makes_the_round_trip_and_a_removed_column_is_released(
    acme: Resource, database: Database, controller: str
) -> None:
    database.query(
        "CREATE TABLE tenants (id text PRIMARY KEY, plan text, seats int DEFAULT 1, limits jsonb, tags text[])"
    )
    with running_server(database) as hooks:
        trip = RoundTrip(acme, hooks, controller)
        change = columns(plan=None, seats=7, limits={"cpu": None}, tags=["a", "b"])
        write(acme, spec_of(*change), "replace")
        status = trip.sync()
        assert ready(status) == ("True", "RowSynced")
        assert status["columns"] == ["limits", "plan", "seats", "tags"]
        assert (status["id"], status["tables"]) == (f"row/{acme.namespace}/{acme.name}", ["public.tenants"])
        assert database.query("SELECT plan, seats, limits, tags FROM tenants") == [(None, 7, {"cpu": None}, ["a", "b"])]
        assert trip.sync() == status
        write(acme, spec_of(*columns(plan="gold", sets=1)), "replace")
        status = trip.sync()
        assert ready(status) == ("False", "RowRejected")
        write(acme, spec_of(*columns(plan="gold")), "replace")
        status = trip.sync()
        assert (ready(status), status["columns"]) == (("True", "RowSynced"), ["plan"])
        assert database.query("SELECT plan, seats, limits, tags FROM tenants") == [("gold", 1, None, None)]
        acme.patch({"metadata": {"finalizers": [finalizer(controller)]}})
        acme.kubectl("delete", RESOURCE, acme.name, "--wait=false")
        trip.finalize()
        acme.patch({"metadata": {"finalizers": None}})
    assert acme.gone()
    assert database.query("SELECT count(*) FROM tenants") == [(0,)]

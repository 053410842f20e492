"""What only a PostgresRow can do, with the real Metacontroller between the API server and the hook server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from postgres_writer.core.row import POSTGRES_ROW, POSTGRES_WRITER
from support.api_client import ApiError
from support.stack import TOP, Stack, gone
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

SAMPLES = TOP / "k8s" / "samples"
VALUES = "plan, seats, limits, regions, trial_ends IS NULL"
BIG = 2**53 + 1


@pytest.fixture
def tenants(installed: Stack, namespace: str) -> Iterator[str]:
    """Make the table of the sample, let the client speak of PostgresRows, and give the namespace."""
    installed.database.query((SAMPLES / "tenants.sql").read_text())
    installed.database.query("GRANT SELECT, INSERT, UPDATE, DELETE ON tenants TO hook")
    installed.client = installed.client.of(POSTGRES_ROW)
    yield namespace
    installed.api.kubectl("delete", POSTGRES_ROW.plural, "--all", f"--namespace={namespace}", "--timeout=60s")
    installed.client = installed.client.of(POSTGRES_WRITER)
    installed.drop_table("tenants")


def create(stack: Stack, namespace: str, name: str, generation: int = 1, **values: Any) -> None:
    columns = [{"name": column, "value": value} for column, value in values.items()]
    manifest = stack.client.manifest(namespace, name)
    stack.client.create(manifest | {"spec": {"table": "tenants", "columns": columns}})
    stack.wait_ready(namespace, name, f"True/RowSynced@{generation}")


def rewrite(stack: Stack, namespace: str, name: str, **values: Any) -> None:
    columns = [{"name": column, "value": value} for column, value in values.items()]
    stack.client.edit(namespace, name, columns=columns)


def status(stack: Stack, namespace: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = (stack.client.get(namespace, name) or {})["status"]
    return found


def held(stack: Stack, namespace: str, name: str, columns: str = VALUES) -> tuple[Any, ...]:
    """Return the values of a row."""
    query = f"SELECT {columns} FROM tenants WHERE id = %s"
    [values] = stack.database.query(query, stack.key(namespace, name))
    return tuple(values)


def test_applied_sample_becomes_ready_and_a_row(installed: Stack, tenants: str) -> None:
    sample = yaml.safe_load((SAMPLES / "sample-tenant.yaml").read_text())
    sample["metadata"]["namespace"] = tenants
    installed.api.kubectl("apply", "--filename", "-", input=yaml.safe_dump(sample))
    resource = ("pgr/sample-tenant", f"--namespace={tenants}")
    installed.api.kubectl("wait", "--for=condition=Ready", "--timeout=60s", *resource)
    assert held(installed, tenants, "sample-tenant") == (
        "gold",
        250,
        {"cpu": 4, "memory": "8Gi"},
        ["eu", "us"],
        True,
    )
    found = status(installed, tenants, "sample-tenant")
    assert found["columns"] == ["limits", "plan", "regions", "seats", "trial_ends"]
    installed.api.kubectl("delete", "--timeout=60s", *resource)
    assert installed.database.query("SELECT count(*) FROM tenants") == [(0,)]


def test_a_removed_column_gets_its_default_and_belongs_to_others_from_then_on(installed: Stack, tenants: str) -> None:
    create(installed, tenants, "acme", plan="gold", seats=5, regions=["eu"])
    rewrite(installed, tenants, "acme", plan="silver")
    installed.wait_ready(tenants, "acme", "True/RowSynced@2")
    assert held(installed, tenants, "acme") == ("silver", 1, None, None, True)
    assert status(installed, tenants, "acme")["columns"] == ["plan"]
    installed.database.query("UPDATE tenants SET seats = 99 WHERE id = %s", installed.key(tenants, "acme"))
    rewrite(installed, tenants, "acme", plan="gold")
    installed.wait_ready(tenants, "acme", "True/RowSynced@3")
    assert held(installed, tenants, "acme") == ("gold", 99, None, None, True)


def test_a_mistyped_column_is_named_and_can_be_taken_out(installed: Stack, tenants: str) -> None:
    create(installed, tenants, "acme", plan="gold")
    rewrite(installed, tenants, "acme", plan="gold", seat=5)
    installed.wait_ready(tenants, "acme", "False/RowRejected@2")
    found = status(installed, tenants, "acme")
    [ready] = [one for one in found["conditions"] if one["type"] == "Ready"]
    assert "seat" in ready["message"]
    assert found["columns"] == ["plan", "seat"]
    rewrite(installed, tenants, "acme", plan="silver")
    installed.wait_ready(tenants, "acme", "True/RowSynced@3")
    assert held(installed, tenants, "acme", "plan") == ("silver",)


def test_a_column_is_held_in_the_spec_until_a_sync_has_listed_it(installed: Stack, tenants: str) -> None:
    create(installed, tenants, "acme", plan="gold")
    installed.metacontroller.pause()
    try:
        rewrite(installed, tenants, "acme", plan="gold", seats=5)
        with pytest.raises(ApiError, match="a column cannot be removed until"):
            rewrite(installed, tenants, "acme", plan="gold")
    finally:
        installed.metacontroller.resume()
    installed.wait_ready(tenants, "acme", "True/RowSynced@2")
    rewrite(installed, tenants, "acme", plan="gold")
    installed.wait_ready(tenants, "acme", "True/RowSynced@3")
    assert held(installed, tenants, "acme") == ("gold", 1, None, None, True)


def test_values_reach_the_table_as_they_were_written(installed: Stack, tenants: str) -> None:
    limits: dict[str, Any] = {
        "null": None,
        "list": [None, 1],
        "big": BIG,
        "largest": 2**63 - 1,
        "fraction": 0.1,
        "empty": {},
    }
    create(installed, tenants, "exact", seats=7, limits=limits, regions=["", None], trial_ends=None)
    assert held(installed, tenants, "exact") == ("free", 7, limits, ["", None], True)
    assert held(installed, tenants, "exact", "limits->>'big'") == (str(BIG),)
    # also after the finalizer was written, and in an update that Metacontroller makes
    found = (installed.client.get(tenants, "exact") or {})["spec"]["columns"]
    assert {column["name"]: column["value"] for column in found}["limits"] == limits


def test_two_managers_own_columns_of_one_row(installed: Stack, tenants: str) -> None:
    def apply(manager: str, **values: Any) -> None:
        columns = [{"name": column, "value": value} for column, value in values.items()]
        manifest = installed.client.manifest(tenants, "shared") | {"spec": {"table": "tenants", "columns": columns}}
        command = ("apply", "--server-side", f"--field-manager={manager}", "--filename=-")
        installed.api.kubectl(*command, input=yaml.safe_dump(manifest))

    apply("one", plan="gold")
    apply("two", seats=5)
    installed.wait_ready(tenants, "shared", "True/RowSynced@2")
    assert held(installed, tenants, "shared", "plan, seats") == ("gold", 5)
    apply("two")
    installed.wait_ready(tenants, "shared", "True/RowSynced@3")
    assert held(installed, tenants, "shared", "plan, seats") == ("gold", 1)


def test_a_row_and_a_writer_of_one_name_have_a_row_each(installed: Stack, namespace: str) -> None:
    writers, rows = installed.client, installed.client.of(POSTGRES_ROW)
    writers.create(writers.manifest(namespace, "twin", age=1))
    rows.create(rows.manifest(namespace, "twin", age=2))
    installed.world.converge(20)
    rows.delete(namespace, "twin")
    wait_until(lambda: gone(rows, namespace, "twin"), "the row is gone")
    assert installed.row("students", namespace, "twin") == (f"{namespace}/twin", "alex", 1, "canada")
    installed.world.converge(10)


def test_all_this_gave_no_warning_event(installed: Stack) -> None:
    assert installed.client.warnings() == []

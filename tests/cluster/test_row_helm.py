"""What Helm makes of a PostgresRow whose columns come from values, as docs/rows.md says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from postgres_writer.core.row import POSTGRES_ROW
from support.custom_resource import Resource
from support.helm import MAJORS, Helm

if TYPE_CHECKING:
    from pathlib import Path

    from support.apiserver import ApiServer

pytestmark = pytest.mark.usefixtures("helm_programs")
CHART = "apiVersion: v2\nname: tenant\nversion: 0.1.0\n"
TEMPLATE = """
apiVersion: demo.yash.com/v1alpha1
kind: PostgresRow
metadata: {name: acme}
spec:
  table: tenants
  columns: {{ toJson .Values.columns }}
"""


def columns(**values: Any) -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in values.items()]


class Chart:
    """A chart of one PostgresRow, and the release that it makes."""

    def __init__(self, major: int, cluster: ApiServer, namespace: str, folder: Path) -> None:
        self._helm, self._cluster, self._namespace = Helm(major, folder, cluster.kubeconfig), cluster, namespace
        (folder / "templates").mkdir()
        (folder / "Chart.yaml").write_text(CHART)
        (folder / "templates" / "tenant.yaml").write_text(TEMPLATE)

    def run(self, *arguments: str, given: list[dict[str, Any]] | None = None) -> str:
        """Run a command of Helm about the release; gives all that it printed."""
        self._helm.values(columns=given or [])
        done = self._helm.run(*arguments, f"--namespace={self._namespace}")
        return done.stdout + done.stderr

    def stored(self) -> dict[str, Any]:
        """Return the columns of the resource as the API server has them, by name."""
        found = Resource(self._cluster, self._namespace, "acme", POSTGRES_ROW).get()["spec"]["columns"]
        return {column["name"]: column.get("value") for column in found}


@pytest.mark.parametrize("major", MAJORS)
def test_values_make_the_columns_and_an_upgrade_and_a_rollback_change_them(
    major: int, cluster: ApiServer, namespace: str, tmp_path: Path
) -> None:
    chart = Chart(major, cluster, namespace, tmp_path)
    folder = str(tmp_path)
    first, second = {"plan": "gold", "limits": {"cpu": 4}}, {"plan": "silver", "limits": {"cpu": 4}, "seats": 5}
    chart.run("install", "tenant", folder, given=columns(**first))
    assert chart.stored() == first
    chart.run("upgrade", "tenant", folder, given=columns(**second))
    assert chart.stored() == second
    # another's column: Helm 3 takes it out with the list at the next change, Helm 4 leaves it
    row = Resource(cluster, namespace, "acme", POSTGRES_ROW)
    patch = [{"op": "add", "path": "/spec/columns/-", "value": {"name": "theirs", "value": 1}}]
    row.kubectl("patch", row.resource, row.name, "--type=json", f"--patch={json.dumps(patch)}")
    row.kubectl(
        "patch",
        row.resource,
        row.name,
        "--subresource=status",
        "--type=merge",
        f"--patch={json.dumps({'status': {'columns': ['limits', 'plan', 'seats', 'theirs']}})}",
    )
    chart.run("rollback", "tenant", "1")
    assert chart.stored() == (first if major == 3 else {**first, "theirs": 1})


@pytest.mark.long
def test_helm_3_writes_a_misspelt_value_as_null(cluster: ApiServer, namespace: str, tmp_path: Path) -> None:
    chart = Chart(3, cluster, namespace, tmp_path)
    printed = chart.run("install", "tenant", str(tmp_path), given=[{"name": "plan", "valeu": "gold"}])
    assert chart.stored() == {"plan": None}
    assert "spec.columns[0].valeu" in printed

"""Migrate from the original operator with the commands of docs/migrate.md."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from cluster.installation import RESOURCE, Installation, install
from support.documents import guide
from support.manifests import COMPOSITE, ORIGINAL, prepare, shell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.apiserver import ApiServer
    from support.postgres import Database

# what mattered of the original's CRD: spec was optional, status.result was required, and nothing else was kept
ORIGINAL_CRD = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: postgreswriters.demo.yash.com}
spec:
  group: demo.yash.com
  names: {kind: PostgresWriter, listKind: PostgresWriterList, plural: postgreswriters, singular: postgreswriter}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          apiVersion: {type: string}
          kind: {type: string}
          metadata: {type: object}
          spec:
            type: object
            required: [age, country, name, table]
            properties:
              age: {type: integer, minimum: 0}
              country: {type: string}
              name: {type: string}
              table: {type: string}
          status:
            type: object
            required: [result]
            properties:
              result: {type: string}
"""
ORIGINAL_OPERATOR = """
apiVersion: v1
kind: Namespace
metadata: {name: postgres-writer-operator-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: postgres-writer-operator-manager-role}
rules: []
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: postgres-writer-operator-controller-manager, namespace: postgres-writer-operator-system}
spec:
  selector: {matchLabels: {control-plane: controller-manager}}
  template:
    metadata: {labels: {control-plane: controller-manager}}
    spec:
      containers: [{name: manager, image: controller}]
"""


@pytest.fixture
def original(new_cluster: Callable[[], ApiServer], database: Database) -> Iterator[Installation]:
    """Give a cluster as the original operator leaves it: its kind, its Deployment, resources and their rows."""
    server = new_cluster()
    server.start_controllers()
    prepare(server)
    server.kubectl("apply", "-f", "-", input=ORIGINAL_CRD + "---" + ORIGINAL_OPERATOR)
    server.kubectl("wait", "--for=condition=Established", "--timeout=60s", f"crd/{RESOURCE}")
    yield Installation(server, database)
    server.stop()


def create(installation: Installation, name: str, spec: dict[str, Any] | None) -> None:
    """Create a resource and its row as the original operator did: unquoted, so in lower case."""
    metadata = {"name": name, "namespace": "default", "finalizers": [ORIGINAL]}
    manifest = {"apiVersion": "demo.yash.com/v1", "kind": "PostgresWriter", "metadata": metadata}
    if spec is not None:
        manifest["spec"] = spec
        statement = f"INSERT INTO {spec['table']} (id, name, age, country) VALUES (%s, %s, %s, %s)"
        installation.database.query(statement, f"default/{name}", spec["name"], spec["age"], spec["country"])
    installation.cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump(manifest))
    status = json.dumps({"status": {"result": "done"}})
    installation.cluster.kubectl(
        "-n", "default", "patch", RESOURCE, name, "--subresource=status", "--type=merge", "-p", status
    )


def spec_of(table: str) -> dict[str, Any]:
    return {"table": table, "name": "alex", "age": 23, "country": "canada"}


def test_the_documented_steps_keep_every_row_and_leave_nothing_of_the_original(
    original: Installation, tmp_path: Path
) -> None:
    for name, table in {
        "plain": "students",
        "capital": "Students",
        "schema": "public.students",
        "going": "students",
    }.items():
        create(original, name, spec_of(table))
    create(original, "empty", None)
    rows = original.database.query("SELECT id, xmin::text FROM students WHERE id != 'default/going' ORDER BY id")
    stop, list_tables, correct, ready, hand_over, remove = guide("Migrate from the original operator")

    shell(original.cluster, stop)
    listed = [line.split() for line in shell(original.cluster, list_tables).stdout.splitlines()]
    assert sorted(listed) == [["default", "capital", "Students"], ["default", "empty", "<none>"]]
    shell(original.cluster, correct, NAMESPACE="default", NAME="capital")
    assert shell(original.cluster, list_tables).stdout.split() == ["default", "empty", "<none>"]
    original.delete("going", "empty")  # no controller finalizes them now

    install(original.cluster)
    with original.served(tmp_path):
        original.wait_ready("plain", "capital", "schema")
        shell(original.cluster, hand_over)
        shell(original.cluster, ready)
        assert original.finalizers() == {name: [COMPOSITE] for name in ("plain", "capital", "schema")}
        shell(original.cluster, remove)

    # xmin is the transaction that last wrote a row: these are still the original's own
    assert original.database.query("SELECT id, xmin::text FROM students ORDER BY id") == rows
    assert not original.exists("namespace", "postgres-writer-operator-system")
    assert not original.exists("clusterrole", "postgres-writer-operator-manager-role")
    assert original.exists("clusterrole", "postgres-writer-edit")


def test_an_object_without_spec_loses_the_original_s_finalizer_under_the_new_kind(original: Installation) -> None:
    create(original, "empty", None)
    install(original.cluster)
    shell(original.cluster, f"k8s/finalizers.sh remove {ORIGINAL}")
    assert original.finalizers() == {"empty": []}

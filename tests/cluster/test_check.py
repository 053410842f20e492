"""`postgres-writer check` in a cluster: definitions, controllers, finalizers and Metacontroller's flags."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from support.custom_resource import Resource
from support.documents import ROOT
from support.manifests import K8S, prepare
from support.server import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.apiserver import ApiServer
    from support.postgres import Database

ARGUMENTS = yaml.safe_load((K8S / "components" / "metacontroller-flags" / "args.yaml").read_text())[0]["value"]


def workload(arguments: list[str]) -> dict[str, Any]:
    labels = {"app": "metacontroller"}
    container = {"name": "metacontroller", "image": "example.com/metacontroller:v4", "args": arguments}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    spec = {"serviceName": "metacontroller", "selector": {"matchLabels": labels}, "template": template}
    metadata = {"name": "metacontroller", "namespace": "metacontroller"}
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata, "spec": spec}


def lines(cluster: ApiServer, database: Database) -> tuple[int, dict[str, str]]:
    """Run the command with kubectl; gives its exit code, and what it says of the cluster by subject."""
    environ = {**cluster.environment(), **database.environ}
    done = subprocess.run([PROGRAM, "check"], capture_output=True, text=True, check=False, env=environ)
    found = ([part.strip() for part in line.split("   ") if part.strip()] for line in done.stdout.splitlines())
    return done.returncode, {about: f"{result}: {said}" for result, about, said in found}


@pytest.fixture(scope="module")
def prepared(cluster: ApiServer) -> Iterator[ApiServer]:
    """Give a cluster with Metacontroller's kinds and none of its objects."""
    prepare(cluster)
    remove(cluster)
    yield cluster
    remove(cluster)


def remove(cluster: ApiServer) -> None:
    cluster.kubectl("delete", "compositecontrollers,decoratorcontrollers", "--all")
    cluster.kubectl("-n", "metacontroller", "delete", "statefulset", "--all")


def test_what_is_missing_and_what_is_there(prepared: ApiServer, database: Database, namespace: str) -> None:
    code, said = lines(prepared, database)
    assert code == 1
    assert said["controller of PostgresRow"] == "fail: none: kubectl apply -k metacontroller"
    assert said["postgreswriters.demo.yash.com"] == "ok: defined"
    prepared.kubectl("apply", "--server-side", "-k", str(ROOT / "metacontroller"))
    prepared.kubectl("apply", "-f", "-", input=yaml.safe_dump(workload(["--zap-log-level=4"])))
    Resource(prepared, namespace).create()
    code, said = lines(prepared, database)
    assert code == 0
    assert said["controller of PostgresWriter"] == "ok: compositecontroller-postgres-writer"
    assert said["controller of PostgresRow"] == "ok: compositecontroller-postgres-writer-row"
    assert " resources have none, among them " in said["finalizer of PostgresWriter"]
    assert said["metacontroller"].startswith("note: Its defaults limit it")
    prepared.kubectl("apply", "-f", "-", input=yaml.safe_dump(workload(ARGUMENTS)))
    prepared.kubectl("apply", "--server-side", "-f", str(ROOT / "metacontroller" / "decorator.yaml"))
    code, said = lines(prepared, database)
    assert said["metacontroller"] == f"ok: {' '.join(ARGUMENTS)}"
    both = "compositecontroller-postgres-writer-row and decoratorcontroller-postgres-writer; both write the same rows"
    assert said["controller of PostgresRow"].startswith(f"note: {both}")

"""The component resource-metrics: the real kube-state-metrics with its flags and rights, and the alerts on that."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from postgres_writer.core.row import POSTGRES_ROW
from support.alerts import RULES, promtool
from support.api_client import resource
from support.custom_resource import Resource
from support.manifests import build, overlay, pick, prepare
from support.ports import free_port
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.apiserver import ApiServer

pytestmark = pytest.mark.long
NAME = "postgres-writer-resource-metrics"
PREFIX = "postgres_writer_resource_"
WAITING = "example.com/keeps-it"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def condition(kind: str, status: str, reason: str, generation: int | None = 1) -> dict[str, Any]:
    time = "2026-01-01T00:00:00Z"
    made = {"type": kind, "status": status, "reason": reason, "message": "x", "lastTransitionTime": time}
    return made if generation is None else {**made, "observedGeneration": generation}


READY = condition("Ready", "True", "RowSynced")
STATUSES: dict[str, list[dict[str, Any]]] = {
    "fine": [READY],
    "broken": [condition("Ready", "False", "RowRejected")],
    "pending": [condition("Ready", "Unknown", "Pending", None)],
    "opted-out": [condition("Ready", "Unknown", "Unmanaged")],
    "stalled": [condition("Ready", "False", "InvalidSpec"), condition("Stalled", "True", "InvalidSpec")],
    "paused": [condition("Ready", "False", "RowRejected"), condition("Paused", "True", "Paused")],
    "edited": [READY],
    "leaving": [condition("Ready", "False", "DeleteFailed")],
}


@pytest.fixture(scope="module")
def made(cluster: ApiServer) -> str:
    """Make a resource for each entry of `STATUSES`; return their namespace."""
    namespace = "resource-metrics"
    cluster.kubectl("create", "namespace", namespace)
    for name, conditions in STATUSES.items():
        manifest = resource(namespace, name)
        manifest["metadata"]["finalizers"] = [WAITING]
        cluster.kubectl("create", "-f", "-", input=json.dumps(manifest))
        status = json.dumps({"status": {"observedTable": "students", "conditions": conditions}})
        cluster.kubectl("-n", namespace, "patch", "pgw", name, "--subresource=status", "--type=merge", "-p", status)
    cluster.kubectl("-n", namespace, "patch", "pgw", "edited", "--type=merge", "-p", '{"spec": {"age": 24}}')
    cluster.kubectl("-n", namespace, "delete", "pgw", "leaving", "--wait=false")
    row = Resource(cluster, namespace, "fine", POSTGRES_ROW)
    row.create({"table": "tenants", "database": "archive"})
    row.patch({"status": {"conditions": [READY]}}, "--subresource=status")
    return namespace


@contextmanager
def kube_state_metrics(
    program: Path, cluster: ApiServer, manifests: list[dict[str, Any]], folder: Path
) -> Iterator[str]:
    """Run it as the Deployment does, with the rights of its account; give the address of its metrics."""
    (container,) = pick(manifests, "Deployment", NAME)["spec"]["template"]["spec"]["containers"]
    (config,) = [m for m in manifests if m["kind"] == "ConfigMap" and m["metadata"]["name"].startswith(NAME)]
    (folder / "resource-state.yaml").write_text(config["data"]["resource-state.yaml"])
    (mount,) = container["volumeMounts"]
    ports = {
        f"--{flag}={number}": f"--{flag}={free_port()}" for flag, number in (("port", 8080), ("telemetry-port", 8081))
    }
    arguments = [
        ports.get(argument, argument.replace(mount["mountPath"], str(folder))) for argument in container["args"]
    ]
    assert set(ports.values()) <= set(arguments)
    account = cluster.kubeconfig_for(f"system:serviceaccount:postgres-writer:{NAME}")
    loopback = ["--host=127.0.0.1", "--telemetry-host=127.0.0.1", f"--kubeconfig={account}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(program), *arguments, *loopback],
            stdout=log,
            stderr=log,
            env={"PATH": os.environ["PATH"]},
        )
    try:
        yield f"http://127.0.0.1:{ports['--port=8080'].partition('=')[2]}/metrics"
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def samples(
    cluster: ApiServer, made: str, state_metrics_program: Path, tmp_path_factory: pytest.TempPathFactory
) -> Samples:
    """Apply the component and return what kube-state-metrics says of the resources; its log must name no error."""
    folder = tmp_path_factory.mktemp("resource-metrics")
    prepare(cluster, foreign=True)
    component = overlay(folder / "overlay", ["resource-metrics"])
    cluster.kubectl("apply", "--server-side", "-k", str(component))
    found: Samples = {}

    def complete() -> bool:
        found.clear()
        found.update(scraped(address, made))
        seen = {(dict(labels)["customresource_kind"], dict(labels)["name"]) for _, labels in found}
        return seen == {("PostgresRow", "fine"), *(("PostgresWriter", name) for name in STATUSES)}

    with kube_state_metrics(state_metrics_program, cluster, build(cluster, component), folder) as address:
        wait_until(complete, "metrics of every resource")
    log = (folder / "log").read_text()
    assert "forbidden" not in log
    assert not [line for line in log.splitlines() if line.startswith("E")], log
    return found


def scraped(address: str, namespace: str) -> Samples:
    try:
        text = requests.get(address, timeout=60).text
    except OSError:
        return {}
    families = [family for family in text_string_to_metric_families(text) if family.name.startswith(PREFIX)]
    return {
        (sample.name.removeprefix(PREFIX), labels): sample.value
        for family in families
        for sample in family.samples
        if ("namespace", namespace) in (labels := frozenset(strip(sample.labels).items()))
    }


def strip(labels: dict[str, str]) -> dict[str, str]:
    constant = {"customresource_group", "customresource_version"}
    return {name: value for name, value in labels.items() if name not in constant}


def of(samples: Samples, metric: str, *by: str) -> dict[tuple[str, ...], float]:
    found = {
        tuple(dict(labels)[key] for key in by): value for (name, labels), value in samples.items() if name == metric
    }
    assert found, metric
    return found


def test_every_condition_of_every_resource_is_a_metric(samples: Samples) -> None:
    expected = {
        (name, entry["type"], entry["reason"]): float(entry["status"] == "True")
        for name, conditions in STATUSES.items()
        for entry in conditions
    }
    assert of(samples, "condition", "name", "type", "reason") == expected


def test_resources_of_one_name_are_told_apart_by_their_kind(samples: Samples) -> None:
    found = of(samples, "condition", "customresource_kind", "name")
    assert {kind for kind, name in found if name == "fine"} == {"PostgresWriter", "PostgresRow"}


def test_only_a_resource_outside_of_the_default_database_names_its_own(samples: Samples) -> None:
    named = {(dict(labels)["customresource_kind"], dict(labels).get("database")) for _, labels in samples}
    assert named == {("PostgresRow", "archive"), ("PostgresWriter", None)}


def test_a_deletion_under_way_is_a_metric(samples: Samples) -> None:
    assert of(samples, "deletion_timestamp_seconds", "name").keys() == {("leaving",)}


def test_a_change_that_is_not_synced_is_a_lag_of_generations(samples: Samples) -> None:
    now = of(samples, "generation", "name")
    seen = of(samples, "condition_observed_generation", "name", "type")
    behind = {name for (name,), generation in now.items() if generation > seen.get((name, "Ready"), generation)}
    assert behind == {"edited", "leaving"}  # a deletion is a change, too


def test_the_alerts_name_just_the_resources_that_need_someone(samples: Samples, made: str, tmp_path: Path) -> None:
    def series(name: str, labels: dict[str, str]) -> str:
        return f"{name}{{{', '.join(f'{key}={json.dumps(value)}' for key, value in sorted(labels.items()))}}}"

    def firing(alert: str, resources: set[str]) -> dict[str, Any]:
        common = {"alertname": alert, "alertstate": "firing"}
        shared = {
            **common,
            "severity": "warning",
            "namespace": made,
            "customresource_kind": "PostgresWriter",
            "database": "default",
        }
        expected = [{**shared, "name": name} for name in sorted(resources)]
        labels = [{"labels": series("ALERTS", one), "value": 1} for one in expected]
        return {"expr": series("ALERTS", common), "eval_time": "20m", "exp_samples": labels}

    # time begins at 0 there
    values = {key: 0.0 if key[0].startswith("deletion") else value for key, value in samples.items()}
    case = {
        "interval": "1m",
        "input_series": [
            {"series": series(PREFIX + name, dict(labels)), "values": f"{value:.0f}x30"}
            for (name, labels), value in values.items()
        ],
        "promql_expr_test": [
            firing("PostgresWriterResourceNotReady", {"broken", "pending", "stalled"}),
            firing("PostgresWriterResourceNotDeleted", {"leaving"}),
        ],
    }
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(RULES))
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": [case]}))
    done = promtool("test", "rules", str(tmp_path / "test.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr

"""The commands and manifests of docs/recipes.md on a real API server."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from typing import TYPE_CHECKING, Any

import yaml

from cluster.installation import RESOURCE
from support.alerts import rule_expressions
from support.api_client import resource
from support.manifests import build, overlay, pick, pod_of, shell
from support.recipes import RECIPES, recipe
from support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from support.apiserver import ApiServer

# How many code blocks each section has, so that no new one comes in without a test. Those of "Several databases" are
# in test_recipe_databases.py.
BLOCKS = {
    "Cloud IAM tokens instead of a password": 1,
    "CloudNativePG": 2,
    "Add a database": 4,
    "Settings of one database": 2,
    "Who may write where": 2,
    "Rename or remove a database": 1,
    "Keep the row by default": 2,
    "Alertmanager": 1,
}


def test_every_block_is_tried() -> None:
    titles = re.findall(r"^##+ (.*)$", RECIPES.read_text(), re.M)
    counted = {title: len(recipe(title)) + len(recipe(title, "yaml")) for title in titles}
    assert {title: number for title, number in counted.items() if number} == BLOCKS


def test_the_pod_with_the_token_s_sidecar_is_admitted(prepared: ApiServer, tmp_path: Path) -> None:
    manifests = build(prepared, overlay(tmp_path, example=recipe("Cloud IAM tokens instead of a password", "yaml")[0]))
    deployment = pick(manifests, "Deployment")
    prepared.kubectl("create", "--dry-run=server", "-f", "-", input=pod_of(deployment))
    (server,) = deployment["spec"]["template"]["spec"]["containers"]
    files = [entry["value"] for entry in server["env"] if entry["name"] == "PSQL_PASSWORD_FILE"]
    assert files == ["/token/password"]
    ports = [rule["ports"] for rule in pick(manifests, "NetworkPolicy")["spec"]["egress"]]
    assert {"port": 443, "protocol": "TCP"} in ports[-1]


def test_the_sidecar_keeps_a_fresh_token_and_never_an_empty_one(tmp_path: Path) -> None:
    (block,) = recipe("Cloud IAM tokens instead of a password", "yaml")
    pod = yaml.safe_load(yaml.safe_load(block)["patches"][0]["patch"])["spec"]["template"]["spec"]
    (script,) = pod["initContainers"][0]["args"]
    programs = {"aws": 'cat "$TEST/answer"', "sleep": 'echo "$1" >"$TEST/asleep"; read _ <"$TEST/wake"'}
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o700)
    os.mkfifo(tmp_path / "wake")
    token, answer, asleep = (tmp_path / name for name in ("password", "answer", "asleep"))

    def next_round() -> None:
        asleep.unlink()
        (tmp_path / "wake").write_text("\n")
        wait_until(lambda: asleep.exists() and asleep.read_text(), "the end of the round")

    answer.write_text("first")
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "TEST": str(tmp_path)}
    names = {"PGHOST": "h", "PGPORT": "5432", "PGUSER": "u"}
    loop = subprocess.Popen(["/bin/sh", "-c", script.replace("/token", str(tmp_path))], env={**environ, **names})
    try:
        wait_until(lambda: asleep.exists() and asleep.read_text(), "the first round")
        assert (token.read_text(), asleep.read_text()) == ("first", "300\n")
        answer.unlink()  # now aws fails
        next_round()
        assert (token.read_text(), asleep.read_text()) == ("first", "10\n")
        answer.write_text("")
        next_round()
        assert token.read_text() == "first"
        answer.write_text("second")
        next_round()
        assert (token.read_text(), asleep.read_text()) == ("second", "300\n")
    finally:
        loop.terminate()
        loop.wait(60)


def test_the_secret_of_cloudnativepg_is_copied_with_its_ca(prepared: ApiServer, namespace: str) -> None:
    app = {"username": "app", "user": "app", "password": 'it\'s "odd"', "dbname": "school", "host": "school-rw"}
    app |= {"port": "5432", "uri": "postgresql://app@school-rw:5432/school", "pgpass": "school-rw:5432:school:app:x\n"}
    ca = "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n"
    for name, data in (("school-app", app), ("school-ca", {"ca.crt": ca, "ca.key": "secret"})):
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}
        prepared.kubectl("-n", namespace, "create", "-f", "-", input=json.dumps(secret))
    copy, check = recipe("CloudNativePG")
    for _ in range(2):  # again when the CA was renewed
        shell(prepared, copy, DATABASE=namespace, CLUSTER="school")
    found = prepared.kubectl("-n", "postgres-writer", "get", "secret", "postgres-writer-database", "-o", "json")
    data = {key: base64.b64decode(value).decode() for key, value in json.loads(found.stdout)["data"].items()}
    assert data == {**app, "host": f"school-rw.{namespace}", "ca.crt": ca}
    container = deployed_container(prepared)
    keys = {entry["valueFrom"]["secretKeyRef"]["key"] for entry in container["env"] if "valueFrom" in entry}
    assert keys <= set(data)
    shell(prepared, check)
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert f"PSQL_SSLROOTCERT={mounts['database']}/ca.crt" in check


def deployed_container(server: ApiServer) -> dict[str, Any]:
    found = server.kubectl("-n", "postgres-writer", "get", "deployment", "postgres-writer", "-o", "json")
    (container,) = json.loads(found.stdout)["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def test_retain_becomes_the_default_for_new_resources_and_by_command_for_old_ones(
    prepared: ApiServer, namespace: str, tmp_path: Path
) -> None:
    def policy(name: str) -> str:
        return prepared.kubectl("-n", namespace, "get", RESOURCE, name, "-o", "jsonpath={.spec.deletionPolicy}").stdout

    def create(name: str, **spec: Any) -> None:
        prepared.kubectl("create", "-f", "-", input=json.dumps(resource(namespace, name, **spec)))

    create("old")
    assert policy("old") == "Delete"
    folder = overlay(tmp_path, example=recipe("Keep the row by default", "yaml")[0])
    prepared.kubectl("apply", "--server-side", "--force-conflicts", "-k", str(folder))

    def new_default() -> bool:
        manifest = json.dumps(resource(namespace, "probe"))
        tried = prepared.kubectl("create", "--dry-run=server", "-o", "yaml", "-f", "-", input=manifest).stdout
        return "deletionPolicy: Retain" in tried

    wait_until(new_default, "the new default to be served")
    create("new")
    create("explicit", deletionPolicy="Delete")
    assert (policy("new"), policy("explicit"), policy("old")) == ("Retain", "Delete", "Delete")
    (command,) = recipe("Keep the row by default")
    shell(prepared, command.replace("--all-namespaces", f"-n {namespace}"))
    assert policy("old") == "Retain"


def test_the_alerts_that_alertmanager_is_told_of_exist() -> None:
    config = yaml.safe_load(recipe("Alertmanager", "yaml")[0])
    matchers = [matcher for route in config["route"]["routes"] for matcher in route["matchers"]]
    matchers += [
        m for rule in config["inhibit_rules"] for side in ("source", "target") for m in rule[f"{side}_matchers"]
    ]
    patterns = [found[1] for matcher in matchers if (found := re.fullmatch(r'alertname=~"(.*)"', matcher))]
    assert len(patterns) == 6
    for pattern in (part for whole in patterns for part in whole.split("|")):
        assert [alert for alert in rule_expressions() if re.fullmatch(pattern, alert)], pattern
    receivers = {receiver["name"] for receiver in config["receivers"]}
    assert {config["route"]["receiver"], *(route["receiver"] for route in config["route"]["routes"])} == receivers

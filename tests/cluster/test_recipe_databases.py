"""The commands and manifests of "Several databases" in docs/recipes.md, on a real API server and real hook servers.

No kubelet runs: `cluster.mounted.mount` writes what it would mount.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from cluster.mounted import NAMESPACE, mount, of_audit, of_server, sources
from postgres_writer.config.settings import DatabaseConfig
from postgres_writer.core.policy import parse_policy
from support.api_client import resource
from support.documents import guide
from support.manifests import K8S, build, overlay, pick, pod_of, shell
from support.payloads import payload
from support.recipes import recipe
from support.server import running_server
from support.waiting import wait_until

if TYPE_CHECKING:
    from support.apiserver import ApiServer
    from support.postgres import Database

FOLDER = "/etc/postgres-writer/databases"


def kustomization(folder: Path, *components: str) -> Path:
    """Write the recipe's overlay, with further components before its own."""
    lines, databases, _ = recipe("Add a database", "yaml")
    added = yaml.safe_load(lines)
    added["components"] = [*(f"../../components/{name}" for name in components), *added["components"]]
    overlay(folder, example=yaml.safe_dump(added))
    (folder / "databases.yaml").write_text(databases)
    return folder


def set_secret(server: ApiServer, name: str, **data: str) -> None:
    patch = json.dumps({"stringData": data})
    server.kubectl("-n", NAMESPACE, "patch", "secret", name, "--type=merge", "--patch", patch)


def test_a_database_is_added_as_the_recipe_says(prepared: ApiServer, tmp_path: Path, database: Database) -> None:
    manifests = build(prepared, kustomization(tmp_path / "overlay"))
    prepared.kubectl("apply", "--server-side", "--validate=strict", "-f", "-", input=yaml.safe_dump_all(manifests))
    prepared.kubectl("create", "--dry-run=server", "-f", "-", input=pod_of(pick(manifests, "Deployment")))
    container = of_server(manifests)["containers"][0]
    assert {"name": "PSQL_DATABASES_DIR", "value": FOLDER} in container["env"]
    assert {"name": "databases", "mountPath": FOLDER, "readOnly": True} in container["volumeMounts"]

    *_, named = recipe("Add a database", "yaml")
    row = yaml.safe_load(named)
    prepared.kubectl("create", "--dry-run=server", "-f", "-", input=named)
    row["metadata"] |= {"namespace": "default", "uid": "1", "generation": 1}
    folder = tmp_path / "mounted"
    # the kubelet mounts an empty folder as long as there is no Secret
    folder.mkdir()
    with database.sibling() as archive, running_server(database, PSQL_DATABASES_DIR=str(folder)) as server:
        archive.query("CREATE TABLE plans (id text PRIMARY KEY, seats int)")

        def reason() -> str:
            answer = server.post("sync", payload(row))
            return str(answer.json()["status"]["conditions"][0]["reason"])

        def mounted() -> None:
            mount(prepared, sources(of_server(manifests)), folder)

        mounted()
        assert reason() == "DatabaseNotConfigured"
        (command,) = recipe("Add a database")
        shell(prepared, command, PASSWORD="secret")
        made = archive.connect
        keys = {key: made.get(key, "") for key in ("host", "port", "dbname", "user", "password")}
        set_secret(prepared, "postgres-writer-archive", **keys)
        mounted()
        wait_until(lambda: reason() == "RowSynced", "the row to be written without a restart")
        assert archive.query("SELECT seats FROM plans") == [(5,)]


@pytest.mark.parametrize("with_audit", [True, False])
def test_the_audit_has_the_databases_of_the_server_and_a_namespace_of_ones_own_changes_nothing(
    prepared: ApiServer, tmp_path: Path, with_audit: bool
) -> None:
    own = tmp_path / "own"
    shutil.copytree(K8S / "overlays" / "example", own)
    text = (own / "kustomization.yaml").read_text().replace("- ../../", f"- {os.path.relpath(K8S, own)}/")
    text = text.replace("\n# namespace: my-team", "\nnamespace: my-team #")
    if with_audit:
        text = re.sub(r"\n# (- \S+/components/audit) ", r"\n\1 #", text)
    (own / "kustomization.yaml").write_text(text)
    manifests = build(prepared, own)
    assert pick(manifests, "Deployment")["metadata"]["namespace"] == "my-team"
    listed = sources(of_server(manifests))
    assert [source["secret"]["optional"] for source in listed] == [True, True]
    if with_audit:
        assert sources(of_audit(manifests)) == listed
        assert {"name": "PSQL_DATABASES_DIR", "value": FOLDER} in of_audit(manifests)["containers"][0]["env"]
    assert len([m for m in manifests if m["kind"] == "CronJob"]) == with_audit


def test_patches_of_the_audit_that_count_mean_the_same_as_without_databases(
    prepared: ApiServer, tmp_path: Path
) -> None:
    patches = yaml.safe_load(guide("Audit continuously", "yaml")[0])["patches"]
    added = {"components": ["../../components/audit"], "patches": patches}
    without = of_audit(build(prepared, overlay(tmp_path / "without", example=yaml.safe_dump(added))))
    kustomization(tmp_path / "with", "audit")
    file = tmp_path / "with" / "kustomization.yaml"
    whole = yaml.safe_load(file.read_text())
    whole["patches"] += patches
    file.write_text(yaml.safe_dump(whole))
    pod = of_audit(build(prepared, file.parent))
    (container,) = pod["containers"]
    assert [each.pop()["name"] for each in (container["env"], container["volumeMounts"], pod["volumes"])] == [
        "PSQL_DATABASES_DIR",
        "databases",
        "databases",
    ]
    assert pod == without


def test_databases_before_the_audit_are_refused_and_not_forgotten(prepared: ApiServer, tmp_path: Path) -> None:
    folder = kustomization(tmp_path)
    file = folder / "kustomization.yaml"
    whole = yaml.safe_load(file.read_text())
    whole["components"].append(whole["components"][0].replace("databases", "audit"))
    file.write_text(yaml.safe_dump(whole))
    done = prepared.kubectl("kustomize", str(folder), check=False)
    assert done.returncode != 0
    assert "[name=databases]" in done.stderr


def test_a_secret_of_cloudnativepg_is_used_with_settings_of_a_config_map(prepared: ApiServer, tmp_path: Path) -> None:
    app = {"username": "app", "user": "app", "password": 'it\'s "odd"', "dbname": "school", "host": "school-rw"}
    app |= {"port": "5432", "uri": "postgresql://app@school-rw:5432/school", "pgpass": "school-rw:5432:school:app:x\n"}
    for name, data in (("school-app", app), ("school-ca", {"ca.crt": "the CA", "ca.key": "secret"})):
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}
        prepared.kubectl("-n", NAMESPACE, "apply", "-f", "-", input=json.dumps(secret))
    (command,) = recipe("Settings of one database")
    shell(prepared, command, CLUSTER="school", DATABASE="databases")
    (block,) = recipe("Settings of one database", "yaml")
    listed = yaml.safe_load(block)
    manifests = build(prepared, kustomization(tmp_path / "overlay"))
    sources(of_server(manifests)).extend(listed)
    pod = pod_of(pick(manifests, "Deployment"))
    prepared.kubectl("create", "--dry-run=server", "-f", "-", input=pod)

    mount(prepared, listed, tmp_path / "mounted")
    ca = tmp_path / "mounted" / "school" / "ca.crt"
    assert (ca.parent / "sslrootcert").read_text() == f"{FOLDER}/school/ca.crt"
    (ca.parent / "sslrootcert").write_text("system")  # it is not a certificate
    config = DatabaseConfig.from_folder(tmp_path / "mounted" / "school", {})
    assert config is not None
    assert (config.host_names, config.ports) == (("school-rw.databases",), (5432,))
    assert (config.dbname, config.user, config.passwords()) == ("school", "app", (app["password"],))
    assert config.sslmode == "verify-full"


def test_two_sources_with_one_path_are_refused_as_the_recipe_says(prepared: ApiServer, tmp_path: Path) -> None:
    manifests = build(prepared, kustomization(tmp_path))
    listed = sources(of_server(manifests))
    items = [{"key": "host", "path": "archive/host"}]
    listed.append({"configMap": {"name": "postgres-writer-archive", "items": items}})
    pod = pod_of(pick(manifests, "Deployment"))
    refused = prepared.kubectl("create", "--dry-run=server", "-f", "-", input=pod, check=False)
    assert refused.returncode != 0
    assert "conflicting duplicate paths" in refused.stderr


def test_the_policy_names_databases_and_the_network_policy_the_port(prepared: ApiServer, tmp_path: Path) -> None:
    rules, port = recipe("Who may write where", "yaml")
    policy = parse_policy(rules)
    asked = [("default", "public.students", "default"), ("default", "public.students", "archive")]
    asked += [("team-a-x", "app.plans", "team-a-b"), ("team-a-x", "app.plans", "default")]
    given = [policy.permits(space, table, schema="public", database=name) for space, table, name in asked]
    assert given == [True, False, True, False]
    manifests = build(prepared, overlay(tmp_path, example=port))
    egress = pick(manifests, "NetworkPolicy")["spec"]["egress"]
    assert [rule["ports"][-1]["port"] for rule in egress] == [53, 5432, 6432]


def test_the_resources_of_a_database_are_listed(prepared: ApiServer, namespace: str) -> None:
    for name, more in (("here", {"database": "archive"}), ("elsewhere", {"database": "reports"}), ("default", {})):
        manifest = resource(namespace, name)
        manifest["spec"] |= more
        prepared.kubectl("create", "-f", "-", input=json.dumps(manifest))
    (command,) = recipe("Rename or remove a database")
    printed = shell(prepared, command).stdout
    assert [line for line in printed.splitlines() if f" {namespace}/" in line] == [f"PostgresWriter {namespace}/here"]

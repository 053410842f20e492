"""The commands of the guides that configure, secure, rotate and upgrade; and that none is left untried."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
import requests

from cluster.installation import Installation, install, install_steps
from postgres_writer.server.files import load_policy
from support.documents import GUIDES, ROOT, guide, guide_text, headings
from support.manifests import K8S, overlay, shell
from support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from support.apiserver import ApiServer
    from support.postgres import Database

# How many commands and terminals each section of the guides has, so that a new one cannot come in without a test.
TRIED_HERE = {
    "Configure": 2,
    "Secure": 2,
    "Rotate the token": 3,
    "Rotate the database password": 2,
    "Upgrade": 1,
}
TRIED_ELSEWHERE = {
    "From 0.1.0": 4,
    "Back to 0.1.0": 2,
    "Install": 7,
    "Install with kubectl": 4,
    "Install from a checkout": 4,
    "Finalizers from the start": 1,
    "Protect from deletion": 3,
    "Switch controllers": 3,
    "Try it on your own machine": 4,
    "Uninstall": 3,
    "Uninstall in the wrong order": 1,
    "Migrate from the original operator": 6,
}


@pytest.fixture(scope="module")
def server(empty: ApiServer) -> ApiServer:
    install(empty)
    return empty


@pytest.fixture
def installation(server: ApiServer, database: Database) -> Installation:
    return Installation(server, database)


def test_every_command_of_the_guide_is_tried() -> None:
    titles = [title for page in GUIDES for _, title in headings(page)]
    counted = {title: len(guide(title)) + len(guide(title, "console")) for title in titles}
    assert {title: number for title, number in counted.items() if number} == TRIED_HERE | TRIED_ELSEWHERE


def test_every_component_is_in_the_guide() -> None:
    named = set(re.findall(r"^\| `([a-z-]+)` \|", guide_text("Configure"), re.M))
    folders = {path.parent.name for path in (K8S / "components").glob("*/kustomization.yaml")}
    assert named | {"metacontroller-flags"} == folders
    assert "k8s/components/metacontroller-flags" in guide_text("Metacontroller's flags")


def test_settings_reach_the_pods_through_an_optional_config_map(installation: Installation) -> None:
    settings, again = guide("Configure")
    shell(installation.cluster, settings)
    found = installation.cluster.kubectl("-n", "postgres-writer", "get", "deployment/postgres-writer", "-o", "json")
    (container,) = json.loads(found.stdout)["spec"]["template"]["spec"]["containers"]
    (source,) = container["envFrom"]
    held = installation.cluster.kubectl("-n", "postgres-writer", "get", "configmap", source["configMapRef"]["name"])
    assert held.returncode == 0
    assert source["configMapRef"]["optional"] is True
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert f"PSQL_SSLROOTCERT={mounts['database']}/ca.crt" in settings
    shell(installation.cluster, guide("Secure")[0])
    shell(installation.cluster, again, OVERLAY="k8s/overlays/example")
    assert installation.exists("-n", "postgres-writer", "horizontalpodautoscaler", "postgres-writer")
    installation.cluster.kubectl("-n", "postgres-writer", "delete", "horizontalpodautoscaler", "postgres-writer")


def test_the_policy_is_made_as_the_server_reads_it(installation: Installation, tmp_path: Path) -> None:
    policy, _ = guide("Secure")
    shell(installation.cluster, policy)
    found = installation.cluster.kubectl(
        "-n", "postgres-writer", "get", "configmap", "postgres-writer-table-policy", "-o", "json"
    )
    file = tmp_path / "policy"
    file.write_text(json.loads(found.stdout)["data"]["table-policy.yaml"])
    loaded = load_policy(file)
    assert loaded.permits("default", "public.students", schema="public")
    assert loaded.permits("team-a-one", "team_a.anything", schema="public")
    assert not loaded.permits("team-b", "team_a.anything", schema="public")


def test_the_certificate_s_secret_has_the_keys_that_the_manifests_name(
    installation: Installation, tmp_path: Path
) -> None:
    _, certificate = guide("Secure")
    key, crt = tmp_path / "tls.key", tmp_path / "tls.crt"
    subject = ("-subj", "/CN=postgres-writer.postgres-writer")
    request = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(crt))
    subprocess.run([*request, *subject], check=True, capture_output=True)
    (tmp_path / "ca.crt").write_bytes(crt.read_bytes())
    shell(installation.cluster, certificate, CERTIFICATES=str(tmp_path))
    assert set(installation.secret("postgres-writer-tls")) == {"tls.crt", "tls.key", "ca.crt"}


def test_a_token_is_replaced_without_a_refused_hook(installation: Installation, tmp_path: Path) -> None:
    accept_both, send_new, drop_old = guide("Rotate the token")
    old = installation.secret("postgres-writer-hook-tokens")["token"]
    # One worker, because each reads the file for itself, once a second. A refused hook fails the test.
    with installation.served(tmp_path) as metacontroller:
        installation.create("one")
        installation.wait_ready("one")

        def accepted(token: str) -> bool:
            headers = {"Authorization": f"Bearer {token}"}
            answer = requests.post(f"{metacontroller.hooks}/sync", json={}, headers=headers, timeout=60)
            return answer.status_code != 401

        shell(installation.cluster, accept_both)
        installation.mount_tokens(tmp_path)
        new = installation.secret("postgres-writer-hook-tokens")["token-2"]
        wait_until(lambda: accepted(new), "the new token to be accepted beside the old one")
        assert accepted(old)
        for command in (send_new, drop_old):
            shell(installation.cluster, command)
            metacontroller.at_work.clear()
            wait_until(lambda: len(metacontroller.at_work) > 3, "more rounds of hooks")
        installation.mount_tokens(tmp_path)
        wait_until(lambda: not accepted(old), "the old token to be refused")
        now = installation.secret("postgres-writer-hook-tokens")
        assert now["token"] == now["token-2"] == now["tokens"] == new
        shell(installation.cluster, install_steps().apply)  # goes back to the first key, which is new too
        installation.create("two")
        installation.wait_ready("two")
        installation.delete("one", "two")
        wait_until(lambda: not installation.finalizers(), "the deletion")


def test_the_token_is_rotated_for_every_controller(installation: Installation, tmp_path: Path) -> None:
    kinds = "compositecontrollers.metacontroller.k8s.io,decoratorcontrollers.metacontroller.k8s.io"
    shell(installation.cluster, f"kubectl apply -k {overlay(tmp_path, ['decorator'])}")
    shell(installation.cluster, "kubectl apply -k k8s")
    shell(installation.cluster, guide("Rotate the token")[1])
    found = json.loads(installation.cluster.kubectl("get", kinds, "-o", "json").stdout)["items"]
    keys = {
        (item["kind"], item["metadata"]["name"], hook["webhook"]["authorization"]["secretRef"]["key"])
        for item in found
        for hook in item["spec"]["hooks"].values()
        if hook
    }
    assert keys == {
        ("CompositeController", "postgres-writer", "token-2"),
        ("CompositeController", "postgres-writer-row", "token-2"),
        ("DecoratorController", "postgres-writer", "token-2"),
    }
    shell(installation.cluster, install_steps().retry)  # a changed annotation lets each of them try again
    again = json.loads(installation.cluster.kubectl("get", kinds, "-o", "json").stdout)["items"]
    assert all("demo.yash.com/resync-requested" in item["metadata"]["annotations"] for item in again)
    installation.cluster.kubectl("delete", "decoratorcontrollers.metacontroller.k8s.io", "postgres-writer")
    shell(installation.cluster, "kubectl apply -k k8s")


def test_the_image_of_the_guide_is_that_of_every_workload(server: ApiServer, tmp_path: Path) -> None:
    steps = install_steps()
    for name in ("crds", "k8s", "metacontroller"):
        shutil.copytree(ROOT / name, tmp_path / name)
    audit = 'echo "components: [../../components/audit]" >>"$OVERLAY/kustomization.yaml"'
    build = 'kubectl kustomize "$OVERLAY"'
    built = shell(
        server, "\n".join((f"cd {tmp_path}", steps.image.splitlines()[0], steps.overlay, audit, build))
    ).stdout
    named = re.search(r"IMAGE=(\S+)", steps.image)
    assert named
    assert re.findall(r"image: (.*)", built) == [named[1]] * 2


def test_a_password_is_replaced_whatever_characters_it_has(installation: Installation) -> None:
    both, alone = guide("Rotate the database password")
    password = 'it\'s "a" $new {one}\\ with spaces and ümlauts ' * 3
    before = installation.secret("postgres-writer-database")
    shell(installation.cluster, both, PSQL_PASSWORD=password)
    overlap = f"{before['password']}\n{password}"
    assert installation.secret("postgres-writer-database") == {**before, "password": overlap}
    shell(installation.cluster, alone, PSQL_PASSWORD=password)
    assert installation.secret("postgres-writer-database") == {**before, "password": password}


def test_an_upgrade_shows_what_changes_and_applies(installation: Installation) -> None:
    (command,) = guide("Upgrade")
    installation.cluster.kubectl("-n", "postgres-writer", "scale", "deployment/postgres-writer", "--replicas=1")
    shown = shell(installation.cluster, command).stdout
    assert re.search(r"^-  replicas: 1\n\+  replicas: 2$", shown, re.M)
    found = installation.cluster.kubectl("-n", "postgres-writer", "get", "deployment/postgres-writer", "-o", "json")
    assert json.loads(found.stdout)["spec"]["replicas"] == 2

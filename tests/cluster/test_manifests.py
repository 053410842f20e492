"""The manifests on a real API server: every combination applies, twice, and its pods are admitted."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from cluster.installation import install_steps
from postgres_writer.core.row import GROUP, KINDS
from support.command import make
from support.documents import ROOT, guide
from support.manifests import (
    COMPONENTS,
    EARLY_FINALIZER,
    K8S,
    STATEFULSET,
    build,
    by_name,
    documents,
    overlay,
    pick,
    pod_of,
    prepare,
    shell,
)
from support.metacontroller import TUNED_FLAGS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.apiserver import ApiServer

COMBINATIONS = [
    (),
    *(pytest.param((name,), marks=pytest.mark.long) for name in COMPONENTS),
    tuple(COMPONENTS),
    tuple(reversed(COMPONENTS)),
]


@pytest.fixture(scope="module")
def prepared(cluster: ApiServer) -> Iterator[ApiServer]:
    prepare(cluster, foreign=True)
    yield cluster
    # the only policies that act on the resources of other tests
    cluster.kubectl("delete", "--ignore-not-found", "-f", str(EARLY_FINALIZER))


def apply(server: ApiServer, folder: Path) -> None:
    server.kubectl("apply", "--server-side", "--validate=strict", "-k", str(folder))


def versions(server: ApiServer, folder: Path) -> dict[str, str]:
    items = json.loads(server.kubectl("get", "-k", str(folder), "-o", "json").stdout)["items"]
    return {f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["resourceVersion"] for item in items}


def settled_versions(server: ApiServer, folder: Path) -> dict[str, str]:
    """Wait until no one else writes (the Deployment's controller writes its status) and return the versions."""
    before, after = {"": ""}, versions(server, folder)
    while before != after:
        time.sleep(1)
        before, after = after, versions(server, folder)
    return after


@pytest.mark.parametrize("components", COMBINATIONS, ids="+".join)
def test_a_combination_of_components_applies_twice_and_its_pods_are_admitted(
    prepared: ApiServer, tmp_path: Path, components: tuple[str, ...]
) -> None:
    folder = overlay(tmp_path, components)
    manifests = build(prepared, folder)
    controllers = [m["kind"] for m in manifests if m["apiVersion"].startswith("metacontroller.k8s.io/")]
    assert controllers == (["DecoratorController"] if "decorator" in components else ["CompositeController"] * 2)
    apply(prepared, folder)
    first = settled_versions(prepared, folder)
    assert len(first) == len(manifests)
    apply(prepared, folder)
    assert versions(prepared, folder) == first
    for deployment in (manifest for manifest in manifests if manifest["kind"] == "Deployment"):
        prepared.kubectl("create", "--dry-run=server", "-f", "-", input=pod_of(deployment))


@pytest.mark.parametrize("components", COMBINATIONS, ids="+".join)
def test_a_namespace_of_ones_own_reaches_every_place(
    prepared: ApiServer, tmp_path: Path, components: tuple[str, ...]
) -> None:
    lines, _ = guide("A namespace of your own", "yaml")
    own = overlay(tmp_path / "own", components, example=lines)
    made = build(prepared, own)
    stock = build(prepared, overlay(tmp_path / "stock", components))
    assert by_name(made) == by_name(moved(stock))
    apply(prepared, own)


def test_a_namespace_that_is_there_for_other_things_stays_out_of_the_install(
    prepared: ApiServer, tmp_path: Path
) -> None:
    made = build(prepared, overlay(tmp_path, example="".join(guide("A namespace of your own", "yaml"))))
    assert "Namespace" not in {manifest["kind"] for manifest in made}
    assert pick(made, "Deployment")["metadata"]["namespace"] == "my-team"


def test_without_a_namespace_the_transformer_changes_nothing(prepared: ApiServer, tmp_path: Path) -> None:
    components = ("tls-cert-manager", "monitoring", "monitoring-tls")
    (lines, _) = guide("A namespace of your own", "yaml")
    only_transformers = overlay(tmp_path / "own", components, example=lines.replace("namespace: my-team\n", ""))
    assert build(prepared, only_transformers) == build(prepared, overlay(tmp_path / "stock", components))


def moved(value: Any) -> Any:
    """Return manifests with the namespace my-team in every place where the default install names its own."""
    if isinstance(value, str):
        return value.replace("postgres-writer.postgres-writer", "postgres-writer.my-team")
    if isinstance(value, list):
        return [moved(item) for item in value]
    if not isinstance(value, dict):
        return value
    changed = {key: moved(item) for key, item in value.items()}
    if value.get("namespace") == "postgres-writer":
        changed["namespace"] = "my-team"
    if value.get("kind") == "Namespace":
        changed["metadata"]["name"] = "my-team"
    return changed


def test_the_replica_set_gets_its_pods_past_pod_security(prepared: ApiServer) -> None:
    apply(prepared, K8S)
    settled_versions(prepared, K8S)
    listed = prepared.kubectl("-n", "postgres-writer", "get", "pods", "-o", "json").stdout
    assert len(json.loads(listed)["items"]) >= 2


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("hostNetwork", True),
        ("hostPID", True),
        ("securityContext", {}),
        ("volumes", [{"name": "tmp", "hostPath": {"path": "/"}}]),
    ],
)
def test_the_namespace_refuses_a_pod_with_more_rights(prepared: ApiServer, part: str, value: Any) -> None:
    apply(prepared, K8S)
    deployment = pick(build(prepared, K8S), "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    pod[part] = value
    for container in pod["containers"]:
        container["volumeMounts"] = []
        container["ports"] = []
    refused = prepared.kubectl("create", "--dry-run=server", "-f", "-", input=pod_of(deployment), check=False)
    assert refused.returncode != 0
    assert 'violates PodSecurity "restricted:latest"' in refused.stderr


def test_the_decorator_component_gives_the_decorator_of_the_folder_metacontroller(
    prepared: ApiServer, tmp_path: Path
) -> None:
    plain = (tmp_path / "plain").resolve()
    made = pick(build(prepared, overlay(plain, ["decorator"], base=ROOT / "metacontroller")), "DecoratorController")
    (written,) = documents((ROOT / "metacontroller" / "decorator.yaml").read_text())
    assert made == written


@pytest.mark.parametrize("name", ["composite", "decorator"])
def test_a_controller_is_valid_and_calls_the_service(prepared: ApiServer, name: str) -> None:
    file = ROOT / "metacontroller" / f"{name}.yaml"
    prepared.kubectl("apply", "--dry-run=server", "--server-side", "--validate=strict", "-f", str(file))
    controllers = documents(file.read_text())
    rules = [rule for one in controllers for rule in one["spec"].get("resources") or [one["spec"]["parentResource"]]]
    expected = [(f"{GROUP}/{kind.version}", kind.plural) for kind in KINDS.values()]
    assert [(rule["apiVersion"], rule["resource"]) for rule in rules] == expected
    service = pick(build(prepared, K8S), "Service")
    for controller, hook in itertools.product(controllers, ("sync", "finalize")):
        webhook = controller["spec"]["hooks"][hook]["webhook"]
        called = {**service["metadata"], "port": service["spec"]["ports"][0]["port"]}
        assert webhook["service"] == {key: called[key] for key in ("name", "namespace", "port")}
        assert (webhook["path"], webhook["timeout"]) == (f"/{hook}", "10s")
        assert controller["spec"]["hooks"][hook]["version"] == "v2"


def test_token_and_certificate_reach_both_hooks_of_either_controller(prepared: ApiServer, tmp_path: Path) -> None:
    manifests = build(prepared, overlay(tmp_path, ["tls", "decorator"]))
    for hook in pick(manifests, "DecoratorController")["spec"]["hooks"].values():
        assert hook["webhook"]["authorization"]["secretRef"]["key"] == "token"
        assert hook["webhook"]["caBundle"]["secretRef"]["key"] == "ca.crt"
        assert hook["webhook"]["service"]["protocol"] == "https"
    container = pick(manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    schemes = {container[f"{probe}Probe"]["httpGet"]["scheme"] for probe in ("startup", "readiness", "liveness")}
    assert schemes == {"HTTPS"}


@pytest.mark.parametrize("folder", ["k8s/samples", "k8s/overlays/example", "metacontroller", "crds"])
def test_every_other_kustomization_applies(prepared: ApiServer, folder: str) -> None:
    apply(prepared, K8S)  # the resources of the samples need their kind, those of an overlay their namespace
    arguments = ("apply", "--server-side", "--validate=strict", "--dry-run=server", "--force-conflicts")
    prepared.kubectl(*arguments, "-k", str(ROOT / folder))


def make_manifests(server: ApiServer, *arguments: str) -> str:
    """Run `make manifests` and return what it printed."""
    done = make("manifests", *arguments, environ=server.environment())
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_make_prints_what_each_install_applies(prepared: ApiServer, tmp_path: Path) -> None:
    assert documents(make_manifests(prepared)) == build(prepared, K8S)
    assert documents(make_manifests(prepared, "CONTROLLER=decorator")) == build(
        prepared, overlay(tmp_path / "decorator", ["decorator"])
    )
    own = overlay(tmp_path / "own", ["audit"])
    assert documents(make_manifests(prepared, f"OVERLAY={own}")) == build(prepared, own)
    assert make_manifests(prepared, f"OUT={tmp_path / 'install.yaml'}") == ""
    assert documents((tmp_path / "install.yaml").read_text()) == build(prepared, K8S)
    prepared.kubectl(
        "apply", "--server-side", "--dry-run=server", "--force-conflicts", "-f", str(tmp_path / "install.yaml")
    )


def test_metacontroller_gets_its_flags_by_the_documented_patch_and_by_the_component(
    prepared: ApiServer, tmp_path: Path
) -> None:
    prepared.kubectl("apply", "-f", "-", input=STATEFULSET)
    try:
        _, command = install_steps().flags.split("\n", 1)
        printed = [shell(prepared, command).stdout for _ in range(2)]
        found = prepared.kubectl("-n", "metacontroller", "get", "statefulset", "metacontroller", "-o", "yaml").stdout
    finally:
        prepared.kubectl("-n", "metacontroller", "delete", "statefulset", "metacontroller")
    assert printed == [
        "statefulset.apps/metacontroller patched\n",
        "statefulset.apps/metacontroller patched (no change)\n",
    ]
    patched = yaml.safe_load(found)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "metacontroller.yaml").write_text(STATEFULSET)
    (tmp_path / "base" / "kustomization.yaml").write_text("resources: [metacontroller.yaml]\n")
    folder = overlay(tmp_path / "tuned", ["metacontroller-flags"], base=(tmp_path / "base").resolve())
    built = pick(build(prepared, folder), "StatefulSet", "metacontroller")
    for manifest in (patched, built):
        arguments = manifest["spec"]["template"]["spec"]["containers"][0]["args"]
        assert arguments == ["--zap-log-level=4", "--discovery-interval=20s", *TUNED_FLAGS]

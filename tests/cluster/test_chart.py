"""The Helm chart makes the objects that kustomize makes, refuses what it does not know, and can be packaged."""

from __future__ import annotations

import base64
import json
import re
import shlex
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from postgres_writer import __version__
from support.apiserver import ApiServer
from support.documents import ROOT, code_blocks, guide
from support.helm import CHART, MAJORS, Helm
from support.manifests import COMPONENTS, K8S, build, by_name, overlay, pick

if TYPE_CHECKING:
    from pathlib import Path

    from support.manifests import Manifest

pytestmark = pytest.mark.usefixtures("helm_programs")
PAGE = ROOT / "docs" / "helm.md"
BLOCKS = [block for title in ("Install from a checkout", "Values") for block in code_blocks(PAGE, title, "yaml")]
AUDIT = "postgres-writer-audit"
COMBINATIONS = [
    ("autoscaling", "table-policy", "tls", "deletion-protection"),
    (
        "decorator",
        "tls-cert-manager",
        "monitoring",
        "monitoring-tls",
        "audit",
        "audit-repair",
        "pgbouncer",
        "autoscaling",
    ),
    ("tls", "decorator"),
    ("decorator", "tls", "early-finalizer"),
    ("tls-cert-manager", "tls", "table-policy"),
    ("monitoring", "tls", "monitoring-tls", "resource-metrics"),
    ("audit", "audit-repair", "table-policy", "pgbouncer"),
    ("resource-metrics", "audit", "early-finalizer", "deletion-protection"),
    tuple(COMPONENTS),
    tuple(reversed(COMPONENTS)),
]
ALONE = [(), *((name,) for name in COMPONENTS)]
PATCHES = r"""
- target: {kind: NetworkPolicy, name: postgres-writer}
  patch: |
    - {op: add, path: /spec/egress/1/to, value: [{ipBlock: {cidr: 10.20.0.0/24}}]}
    - {op: add, path: /metadata/annotations, value: {}}
    - {op: add, path: /metadata/annotations/example.com~1owner~0, value: platform}
- target: {group: metacontroller.k8s.io, kind: Composite.*}
  patch: |
    - {op: replace, path: /spec/hooks/sync/webhook/authorization/secretRef/key, value: token-2}
    - {op: add, path: /spec/hooks/sync/webhook/authorization/note, value: {of: one}}
- target: {kind: CompositeController, name: postgres-writer-row}
  patch: |
    - {op: replace, path: /spec/hooks/sync/webhook/authorization/note/of, value: row}
    - {op: remove, path: /spec/hooks/finalize/webhook/authorization}
- patch: |
    apiVersion: apps/v1
    kind: Deployment
    metadata: {name: postgres-writer, namespace: postgres-writer, labels: {team: platform}}
    spec:
      minReadySeconds: null
      template:
        spec:
          tolerations: [{key: dedicated, operator: Exists}]
          initContainers: [{name: proxy, image: proxy}]
          containers:
          - name: sidecar
            image: sidecar
            volumeMounts: [{name: tmp, mountPath: /tmp}]
          - name: server
            env:
            - {name: PSQL_HOST, value: localhost, valueFrom: null}
            - {name: LOG_LEVEL, value: DEBUG}
            volumeMounts: [{name: tmp, mountPath: /tmp, subPath: server}, {name: tmp, mountPath: /var/tmp}]
- target: {kind: ServiceAccount}
  patch: |
    apiVersion: v1
    kind: ServiceAccount
    metadata: {name: any, annotations: {eks.amazonaws.com/role-arn: "arn:aws:iam::1:role/writer"}}
- patch: |
    $patch: delete
    apiVersion: policy/v1
    kind: PodDisruptionBudget
    metadata: {name: postgres-writer, namespace: postgres-writer}
"""
METACONTROLLER = {"group": "metacontroller.k8s.io"}
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("'replicas'", {"replicas": 3}),
    ("'repo'", {"image": {"repo": "registry.example.com"}}),
    ("nonesuch", {"components": ["tls", "nonesuch"]}),
    ("metacontroller-flags", {"components": ["metacontroller-flags"]}),
    ("components", {"components": ["tls", "tls"]}),
    ("components", {"components": "tls"}),
    ("earlyFinalizer", {"earlyFinalizer": "maybe"}),
    ("database", {"database": {"host": "db.example.com"}}),
    ("database", {"database": {"existingSecret": "pg-app", "host": "db.example.com"}}),
    ("LOG_LEVELS", {"settings": {"LOG_LEVELS": "DEBUG"}}),
    ("PSQL_HOST", {"settings": {"PSQL_HOST": "db.example.com"}}),
    ("PSQL_PASSWORD", {"settings": {"PSQL_PASSWORD": "secret"}}),
    ("LOG_LEVEL", {"settings": {"LOG_LEVEL": ["DEBUG"]}}),
    ("nodeSelectors", {"deployment": {"nodeSelectors": {}}}),
    ("replicas", {"deployment": {"replicas": "3"}}),
    ("deployment", {"deployment": {"replicas": 3}, "components": ["autoscaling"]}),
    ("'name'", {"namespace": {"name": "my-team"}}),
    ("crds", {"crds": "no"}),
    ("deployment", {"deployment": None}),
    ("namespace", {"metacontroller": {"namespace": None}}),
    ("use a released chart", {"metacontroller": {"enabled": True}}),
    ("'enable'", {"metacontroller": {"enable": True}}),
    ("namespaceOverride", {"metacontroller": {"namespaceOverride": "metacontroller"}}),
    ("fullnameOverride", {"metacontroller": {"fullnameOverride": "controller"}}),
    ("labelSelector", {"patches": [{"target": {"labelSelector": "a=b"}, "patch": "[]"}]}),
    ("/spec/none/deep", {"patches": [{"target": METACONTROLLER, "patch": "[{op: add, path: /spec/none/deep}]"}]}),
    ("/spec/none", {"patches": [{"target": METACONTROLLER, "patch": "[{op: remove, path: /spec/none}]"}]}),
    ("no Deployment writer", {"patches": [{"patch": "{kind: Deployment, metadata: {name: writer}}"}]}),
    ("patches: test", {"patches": [{"target": METACONTROLLER, "patch": "[{op: test, path: /kind, value: A}]"}]}),
]


@pytest.fixture(params=MAJORS, ids="helm-{}".format)
def helm(request: pytest.FixtureRequest, tmp_path: Path) -> Helm:
    return Helm(request.param, tmp_path)


@pytest.fixture
def helm_4(tmp_path: Path) -> Helm:
    """For what the chart's own templates do, which do not differ between the versions."""
    return Helm(4, tmp_path)


@pytest.mark.parametrize(
    ("namespace", "components"),
    [*product(["postgres-writer"], ALONE), *product(["postgres-writer", "my-team"], COMBINATIONS)],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
def test_the_objects_are_those_of_kustomize(
    kustomize: ApiServer, helms: list[Helm], tmp_path: Path, namespace: str, components: tuple[str, ...]
) -> None:
    own, _ = guide("A namespace of your own", "yaml")
    folder = overlay(tmp_path / "overlay", components, example=own if namespace == "my-team" else "")
    expected = by_name(build(kustomize, folder))
    for helm in helms:
        made = helm.template(into=namespace, components=list(components), namespace={"create": True})
        assert by_name(made) == expected


def test_patches_are_those_of_kustomize(kustomize: ApiServer, helms: list[Helm], tmp_path: Path) -> None:
    components, (audit,) = ["audit", "tls"], guide("Audit continuously", "yaml")
    patches = [*yaml.safe_load(PATCHES), *yaml.safe_load(audit)["patches"]]
    folder = overlay(tmp_path / "overlay", components, example=yaml.safe_dump({"patches": patches}))
    expected = by_name(build(kustomize, folder))
    for helm in helms:
        made = helm.template(components=components, patches=patches, namespace={"create": True})
        assert by_name(made) == expected


def test_early_finalizers_come_where_the_cluster_can_give_them(helm: Helm) -> None:
    def policies(version: str, value: Any) -> int:
        command = ("template", "postgres-writer", str(CHART), f"--api-versions={version}")
        text = helm.run(*command, f"--values={helm.values(earlyFinalizer=value)}").stdout
        return text.count("kind: MutatingAdmissionPolicy\n")

    capable = "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy"
    assert [policies(capable, value) for value in ("auto", True, False)] == [2, 2, 0]
    assert policies("v1", True) == 2


def test_the_values_of_the_page_reach_their_places(helm_4: Helm) -> None:
    image, page = map(yaml.safe_load, BLOCKS)
    made = helm_4.template(**{**page, "earlyFinalizer": False})
    pods = pick(made, "Deployment")["spec"]["template"]
    (container,) = pods["spec"]["containers"]
    assert container["image"] == f"{image['image']['repository']}:{__version__}"
    assert container["resources"]["requests"] == {"cpu": "500m", "memory": "128Mi"}
    assert pods["spec"]["nodeSelector"] == page["deployment"]["nodeSelector"]
    assert pods["spec"]["tolerations"] == page["deployment"]["tolerations"]
    assert pods["metadata"]["annotations"].items() > page["deployment"]["annotations"].items()
    assert pick(made, "NetworkPolicy")["spec"]["egress"][1]["to"] == [{"ipBlock": {"cidr": "10.20.0.0/24"}}]
    settings = pick(made, "ConfigMap", "postgres-writer-settings")["data"]
    assert settings == {"LOG_LEVEL": "DEBUG", "HOOK_CONNECTIONS": "4"}


def test_the_page_lists_every_value() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["properties"].keys() - values.keys() == {"global"}
    assert set(schema["required"]) == values.keys()
    listed = set(re.findall(r"^\| `(\w+)[.`]", PAGE.read_text(), re.MULTILINE))
    assert listed == values.keys()


def test_one_image_serves_the_server_and_the_audit(helm_4: Helm) -> None:
    made = helm_4.template(components=["audit"], image={"repository": "r.example.com/pw", "tag": "1@sha256:2"})
    assert images(made) == ["r.example.com/pw:1@sha256:2"] * 2


def images(made: list[Manifest]) -> list[str]:
    return re.findall(r"'image': '([^']*)'", str([pick(made, "Deployment"), pick(made, "CronJob", AUDIT)]))


def test_a_database_of_the_values_is_the_secret_that_the_pods_read(helm_4: Helm) -> None:
    database = {"host": "db", "port": 5432, "dbname": "school", "user": "writer", "password": 'it\'s "a" $new\n{{one}}'}
    secret = pick(helm_4.template(database=database), "Secret", "postgres-writer-database")
    held = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
    assert held == {**database, "port": "5432"}


def test_another_secret_is_read_by_the_server_and_the_audit(helm_4: Helm) -> None:
    made = helm_4.template(components=["audit"], database={"existingSecret": "pg-app"})
    text = yaml.safe_dump(made)
    assert (text.count("postgres-writer-database"), text.count("pg-app")) == (0, 10)


def test_changed_settings_replace_the_pods_and_a_changed_password_does_not(helm_4: Helm) -> None:
    def pods(**values: Any) -> Any:
        return pick(helm_4.template(**values), "Deployment")["spec"]["template"]

    database = {"host": "db", "port": 5432, "dbname": "school", "user": "writer", "password": "one"}
    first = pods(database=database)
    assert pods(database={**database, "password": "two"}) == first
    assert pods(database={**database, "host": "db2"}) != first
    assert pods(settings={"LOG_LEVEL": "INFO"}) != pods(settings={"LOG_LEVEL": "DEBUG"})


def test_metacontroller_may_be_in_another_namespace(helm_4: Helm) -> None:
    made = by_name(helm_4.template(into="my-team", metacontroller={"namespace": "postgres-writer"}))
    (subject,) = made["ClusterRoleBinding", "postgres-writer-metacontroller"]["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": "metacontroller", "namespace": "postgres-writer"}
    (rule,) = made["NetworkPolicy", "postgres-writer"]["spec"]["ingress"]
    labels = rule["from"][0]["namespaceSelector"]["matchLabels"]
    assert labels == {"kubernetes.io/metadata.name": "postgres-writer"}


def test_namespace_and_definitions_can_be_left_out(helm_4: Helm) -> None:
    kinds = {one["kind"] for one in helm_4.template()}
    assert "Namespace" not in kinds
    assert kinds - {one["kind"] for one in helm_4.template(crds=False)} == {"CustomResourceDefinition"}


@pytest.mark.parametrize(("word", "values"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_the_chart_does_not_know_is_refused(helms: list[Helm], word: str, values: dict[str, Any]) -> None:
    for helm in helms:
        command = ("template", "postgres-writer", str(CHART), f"--values={helm.values(**values)}")
        done = helm.run(*command, check=False)
        assert done.returncode == 1
        assert word in done.stderr


def test_lint_finds_nothing(helm: Helm) -> None:
    assert "0 chart(s) failed" in helm.run("lint", "--strict", str(CHART)).stdout


def test_a_package_makes_the_same_objects(helm: Helm, tmp_path: Path) -> None:
    command, _ = code_blocks(PAGE, "Package", "sh")
    _, *arguments = shlex.split(command.replace("$FOLDER", str(tmp_path)).replace("k8s/chart", str(CHART)))
    helm.run(*arguments)
    package = tmp_path / f"postgres-writer-{__version__}.tgz"
    assert helm.template(chart=package, components=COMPONENTS) == helm.template(components=COMPONENTS)
    helm.run(*arguments, "--app-version=9.9.9")
    assert images(helm.template(chart=package, components=["audit"])) == ["postgres-writer:9.9.9"] * 2


def test_the_flags_of_metacontrollers_chart_are_those_of_the_patch() -> None:
    folder = K8S / "components" / "metacontroller-flags"
    (patch,) = yaml.safe_load((folder / "args.yaml").read_text())
    assert yaml.safe_load((folder / "values.yaml").read_text())["commandArgs"] == patch["value"]


def test_the_templates_stay_small() -> None:
    lines = [line for path in (CHART / "templates").iterdir() for line in path.read_text().splitlines()]
    assert len(lines) <= 150

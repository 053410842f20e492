"""The commands of docs/helm.md with both versions of Helm: install, upgrade, rollback, uninstall on the API server."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from cluster.installation import ROWS, install, wipe
from support.apiserver import ApiServer
from support.documents import ROOT, code_blocks, guide, headings
from support.helm import CHART, MAJORS, Helm
from support.manifests import K8S, STATEFULSET, pod_of, prepare, shell
from support.metacontroller import crd_manifests

if TYPE_CHECKING:
    from collections.abc import Iterator


pytestmark = pytest.mark.usefixtures("helm_programs")
PAGE = ROOT / "docs" / "helm.md"
TRIED_HERE = {
    "Install": 3,
    "Upgrade and roll back": 2,
    "Take over an install of kubectl": 2,
    "Switch controllers": 1,
    "Uninstall": 4,
    "helm template, Argo CD": 1,
}
TRIED_ELSEWHERE = {"Package": 1}
CONTROLLERS = "compositecontrollers.metacontroller.k8s.io,decoratorcontrollers.metacontroller.k8s.io"
METACONTROLLERS = [
    f"{kind}s.metacontroller.k8s.io" for kind in ("compositecontroller", "decoratorcontroller", "controllerrevision")
]
BOTH = ["CompositeController/postgres-writer", "CompositeController/postgres-writer-row"]
DATABASE = {"PGHOST": "db.example.com", "PGPORT": "5432", "PGDATABASE": "school", "PGUSER": "writer", "PGPASSWORD": "x"}
TOKEN = "postgres-writer-hook-tokens"


class Release:
    """The page's commands, run with one version of Helm, and what they leave on the API server."""

    def __init__(self, server: ApiServer, helm: Helm) -> None:
        self.server, self.helm = server, helm
        self.values = {"VALUES": helm.values(image={"repository": "registry.example.com/platform/postgres-writer"})}

    def run(self, title: str, number: int = 0, *, check: bool = True, **variables: str) -> str:
        """Run a block of commands of a section of the page, and return what it printed."""
        return self.execute(code_blocks(PAGE, title, "sh")[number], check=check, **variables)

    def execute(self, command: str, *, check: bool = True, **variables: str) -> str:
        """Run commands, which have to fail if `check` is false, and return what they printed."""
        path = os.pathsep.join([str(self.helm.program.parent), self.server.environment()["PATH"]])
        done = shell(
            self.server,
            command,
            check=check,
            **DATABASE,
            **self.helm.environment,
            **self.values,
            **variables,
            PATH=path,
        )
        assert check or done.returncode != 0
        return done.stdout

    def get(self, *what: str) -> Any:
        """Return an object of the namespace postgres-writer, or None."""
        found = self.server.kubectl("-n", "postgres-writer", "get", *what, "--ignore-not-found", "-o", "json").stdout
        return json.loads(found) if found else None

    def controllers(self) -> list[str]:
        """Return the kinds and names of the installed controllers."""
        items = json.loads(self.server.kubectl("get", CONTROLLERS, "-o", "json").stdout)["items"]
        return [f"{item['kind']}/{item['metadata']['name']}" for item in items]


@pytest.fixture(params=MAJORS, ids="helm-{}".format)
def release(empty: ApiServer, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Release]:
    """Give Metacontroller's kinds, and remove the release and what it kept afterwards."""
    prepare(empty)
    made = Release(empty, Helm(request.param, tmp_path, empty.kubeconfig))
    yield made
    made.helm.run("uninstall", "postgres-writer", "--namespace=postgres-writer", "--ignore-not-found")
    wipe(empty)


def metacontrollers_chart(folder: Path) -> Path:
    """Return the chart that METACONTROLLER_CHART names, or one with the same values."""
    if "METACONTROLLER_CHART" in os.environ:
        return Path(os.environ["METACONTROLLER_CHART"])
    chart = folder / "metacontroller"
    for name in ("templates", "crds"):
        (chart / name).mkdir(parents=True)
    (chart / "Chart.yaml").write_text("{apiVersion: v2, name: metacontroller-helm, version: 4.17.2}\n")
    template = STATEFULSET.replace("namespace: metacontroller", "namespace: {{ .Release.Namespace }}")
    template = template.replace("{name: metacontroller,", "{name: {{ .Values.fullnameOverride }},")
    template = template.replace("[--zap-log-level=4, --discovery-interval=20s]", "{{ toJson .Values.commandArgs }}")
    (chart / "templates" / "statefulset.yaml").write_text(template)
    (chart / "crds" / "crds.yaml").write_text(yaml.safe_dump_all(crd_manifests()))
    return chart


def earlier(folder: Path) -> Path:
    """Return a chart with another description in a CustomResourceDefinition, as an older release has it."""
    chart = folder / "earlier"
    shutil.copytree(CHART, chart)
    definition = chart / "files" / "crds" / "postgresrows.yaml"
    definition.write_text(definition.read_text().replace("The table that holds the row.", "The row's table."))
    return chart


def described(release: Release) -> str:
    definition = release.get("crd", ROWS)
    description: str = definition["spec"]["versions"][0]["additionalPrinterColumns"][0]["description"]
    return description


def test_every_command_of_the_page_is_tried() -> None:
    blocks = {title: len(code_blocks(PAGE, title, "sh")) for _, title in headings(PAGE)}
    assert {title: number for title, number in blocks.items() if number} == TRIED_HERE | TRIED_ELSEWHERE


def test_a_release_from_the_first_command_to_the_last(release: Release, tmp_path: Path) -> None:
    release.server.kubectl("delete", "crd", *METACONTROLLERS)
    release.run("Install", 1)
    assert 'no matches for kind "CompositeController"' in release.run("Install", 2, check=False)
    release.run("Install", 0, METACONTROLLER_CHART=str(metacontrollers_chart(tmp_path)))
    found = release.server.kubectl("-n", "metacontroller", "get", "statefulset", "metacontroller", "-o", "json").stdout
    (container,) = json.loads(found)["spec"]["template"]["spec"]["containers"]
    assert "--client-go-qps=1000" in container["args"]
    notes = release.run("Install", 2)
    assert "kubectl -n postgres-writer rollout status" in notes
    assert release.controllers() == BOTH
    deployment = release.get("deployment", "postgres-writer")
    release.server.kubectl("create", "--dry-run=server", "-f", "-", input=pod_of(deployment))
    tokens = release.get("secret", TOKEN)["data"]
    assert tokens["token"] == tokens["tokens"]
    release.values = {"VALUES": release.helm.values(components=["autoscaling"], settings={"LOG_LEVEL": "DEBUG"})}
    release.run("Upgrade and roll back", 0)
    assert release.get("hpa", "postgres-writer")
    assert release.get("configmap", "postgres-writer-settings")["data"] == {"LOG_LEVEL": "DEBUG"}
    release.run("Upgrade and roll back", 1)
    assert not release.get("hpa", "postgres-writer")
    assert not release.get("configmap", "postgres-writer-settings")
    assert release.get("deployment", "postgres-writer")["spec"]["replicas"] == 2
    uninstall(release)
    assert release.get("secret", TOKEN)["data"] == tokens
    remove_the_rest(release)


def uninstall(release: Release) -> None:
    """Uninstall; what is kept is taken up by the next install, which is uninstalled too."""
    release.run("Uninstall", 0)
    release.run("Uninstall", 1)
    assert not release.get("deployment", "postgres-writer")
    assert release.controllers() == BOTH
    assert release.get("crd", ROWS)
    release.run("Install", 2)
    assert release.get("deployment", "postgres-writer")
    release.run("Uninstall", 1)


def remove_the_rest(release: Release) -> None:
    release.run("Uninstall", 2)
    assert not release.controllers()
    assert not release.get("crd", ROWS)
    assert not release.get("namespace", "postgres-writer")
    release.run("Uninstall", 3)
    left = release.server.kubectl("-n", "metacontroller", "get", "statefulsets", "-o", "name").stdout
    assert not left
    release.server.kubectl("delete", "crd", *METACONTROLLERS)


def test_an_upgrade_and_a_rollback_change_the_definitions(release: Release, tmp_path: Path) -> None:
    release.server.kubectl("apply", "-f", str(K8S / "base" / "namespace.yaml"))
    database = {"host": "db.example.com", "port": 5432, "dbname": "school", "user": "writer", "password": "s3cret"}
    release.values = {"VALUES": release.helm.values(database=database)}
    command = ("install", "postgres-writer", str(earlier(tmp_path)), "--namespace=postgres-writer")
    notes = release.helm.run(*command, f"--values={release.values['VALUES']}").stdout
    assert "Secret" not in notes
    assert release.get("secret", "postgres-writer-database")["data"].keys() == database.keys()
    assert described(release) == "The row's table."
    release.run("Upgrade and roll back", 0)
    assert described(release) == "The table that holds the row."
    release.run("Upgrade and roll back", 1)
    assert described(release) == "The row's table."


def test_an_install_of_kubectl_is_taken_over(release: Release) -> None:
    install(release.server)
    tokens = release.get("secret", TOKEN)["data"]
    before = release.get("deployment", "postgres-writer")["metadata"]["uid"]
    release.run("Take over an install of kubectl", release.helm.major - MAJORS[0])
    after = release.get("deployment", "postgres-writer")
    assert after["metadata"]["uid"] == before
    assert after["metadata"]["annotations"]["meta.helm.sh/release-name"] == "postgres-writer"
    (container,) = after["spec"]["template"]["spec"]["containers"]
    assert container["image"].startswith("registry.example.com/")
    assert release.get("secret", TOKEN)["data"] == tokens
    release.run("Upgrade and roll back", 0)


def test_what_kubectl_changed_is_a_conflict_for_helm_4_only(release: Release) -> None:
    def live() -> tuple[int, int]:
        replicas: int = release.get("deployment", "postgres-writer")["spec"]["replicas"]
        return replicas, release.server.kubectl("get", CONTROLLERS, "-o", "yaml").stdout.count("key: token-2\n")

    release.run("Install", 1)
    release.run("Install", 2)
    _, send_new, _ = guide("Rotate the token")
    shell(release.server, f"{send_new}\nkubectl -n postgres-writer scale deployment postgres-writer --replicas=1")
    assert live() == (1, 4)
    (upgrade,) = code_blocks(PAGE, "Upgrade and roll back", "sh")[0].splitlines()
    if release.helm.major == 3:
        release.execute(upgrade)
        assert live() == (2, 4)
    else:
        assert 'conflicts with "kubectl-patch"' in release.execute(upgrade, check=False)
        release.execute(f"{upgrade} --force-conflicts")
        assert live() == (2, 0)
    refuse_both_controllers(release)


def refuse_both_controllers(release: Release) -> None:
    refused = release.run("Switch controllers", check=False)
    assert "the CompositeController postgres-writer would write the same rows" in refused
    assert release.controllers() == BOTH
    release.server.kubectl("delete", CONTROLLERS, "--all")
    release.run("Switch controllers")
    assert release.controllers() == ["DecoratorController/postgres-writer"]
    assert "the DecoratorController postgres-writer" in release.run("Upgrade and roll back", 0, check=False)


@pytest.mark.parametrize("release", [4], indirect=True)
def test_what_helm_template_prints_can_be_applied(release: Release) -> None:
    release.run("helm template, Argo CD")
    assert release.controllers() == BOTH
    namespace = release.get("namespace", "postgres-writer")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert not release.get("secret", TOKEN)
    release.server.kubectl("delete", "namespace", "postgres-writer")

"""The commands of docs/helm.md with both versions of Helm: install, upgrade, rollback, uninstall on the API server."""

from __future__ import annotations

import configparser
import json
import re
import shutil
from typing import TYPE_CHECKING

import pytest
import yaml

from cluster.helm_release import BOTH, CONTROLLERS, METACONTROLLERS, PAGE, TOKEN, Release, releasing
from cluster.installation import ROWS, install
from cluster.mounted import mount, of_server, sources
from postgres_writer import __version__
from postgres_writer.config.settings import DatabaseConfig
from support.documents import ROOT, code_blocks, guide, headings
from support.helm import CHART, MAJORS, Helm, metacontrollers_chart
from support.manifests import K8S, pod_of, shell

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.apiserver import ApiServer


pytestmark = pytest.mark.usefixtures("helm_programs")
TRIED_HERE = {
    "Install": 3,
    "Install from a checkout": 3,
    "Upgrade and roll back": 2,
    "Take over an install of kubectl": 2,
    "Switch controllers": 1,
    "Uninstall": 5,
    "helm template, Argo CD": 1,
}
TRIED_ELSEWHERE = {"Metacontroller in the release": 1, "Package": 2}
CANNOT_RUN = {"Install": "its first block names a registry, which needs the network: other charts are given"}


@pytest.fixture(params=MAJORS, ids="helm-{}".format)
def release(empty: ApiServer, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Release]:
    with releasing(empty, Helm(request.param, tmp_path, empty.kubeconfig)) as made:
        yield made


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
    for title in CANNOT_RUN:
        blocks[title] -= 1
    assert {title: number for title, number in blocks.items() if number} == TRIED_HERE | TRIED_ELSEWHERE


def test_the_page_names_the_charts_of_the_project_and_of_the_checkout() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    owner = parser["metadata"]["url"].split("/")[-2].lower()
    (released, *_), (checkout, *_) = (code_blocks(PAGE, f"Install{more}", "sh") for more in ("", " from a checkout"))
    charts = [re.fullmatch(r"export CHART=(\S+) VERSION=(\S+)\n", block) for block in (released, checkout)]
    wanted = [f"oci://ghcr.io/{owner}/charts/postgres-writer", str(CHART.relative_to(ROOT))]
    assert [chart and chart.groups() for chart in charts] == [(chart, __version__) for chart in wanted]


def test_a_release_from_the_first_command_to_the_last(release: Release, tmp_path: Path) -> None:
    release.server.kubectl("delete", "crd", *METACONTROLLERS)
    release.run("Install from a checkout", 2)
    assert 'no matches for kind "CompositeController"' in release.run("Install", 1, check=False)
    release.run("Install from a checkout", 1, METACONTROLLER_CHART=str(metacontrollers_chart(tmp_path)))
    found = release.server.kubectl("-n", "metacontroller", "get", "statefulset", "metacontroller", "-o", "json").stdout
    (container,) = json.loads(found)["spec"]["template"]["spec"]["containers"]
    assert "--client-go-qps=1000" in container["args"]
    notes = release.run("Install", 1)
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
    release.run("Install", 1)
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
    release.run("Uninstall", 4)


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
    release.run("Take over an install of kubectl", [3, 4].index(release.helm.major))
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

    release.run("Install from a checkout", 2)
    release.run("Install", 1)
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
def test_the_databases_of_the_page_are_mounted_as_the_server_reads_them(release: Release, tmp_path: Path) -> None:
    (values,) = map(yaml.safe_load, code_blocks(PAGE, "Several databases", "yaml"))
    release.values = {"VALUES": release.helm.values(**values)}
    release.run("Install from a checkout", 2)
    app = {"host": "school-rw", "port": "5432", "dbname": "school", "user": "app", "password": "p", "uri": "x"}
    literals = [f"--from-literal={key}={value}" for key, value in app.items()]
    release.server.kubectl("-n", "postgres-writer", "create", "secret", "generic", "school-app", *literals)
    release.run("Install", 1)
    deployment = release.get("deployment", "postgres-writer")
    release.server.kubectl("create", "--dry-run=server", "-f", "-", input=pod_of(deployment))
    folder = tmp_path / "mounted"
    mount(release.server, sources(of_server([deployment])), folder)
    assert {file.name for file in folder.iterdir()} == {"reports", "school"}
    ca = values["databases"]["school"]["ca.crt"]
    assert (folder / "school" / "ca.crt").read_text() == ca
    assert (folder / "school" / "sslrootcert").read_text() == "/etc/postgres-writer/databases/school/ca.crt"
    (folder / "school" / "sslrootcert").write_text("system")  # it is not a certificate
    read = [DatabaseConfig.from_folder(folder / name, {}) for name in ("reports", "school")]
    assert [(one.host_names, one.dbname, one.sslmode) for one in read] == [
        (("reports.example.com",), "reports", "require"),
        (("school-rw.databases",), "school", "verify-full"),
    ]
    assert [one.passwords() for one in read] == [("change-me",), ("p",)]


@pytest.mark.parametrize("release", [4], indirect=True)
def test_what_helm_template_prints_can_be_applied(release: Release) -> None:
    release.run("helm template, Argo CD")
    assert release.controllers() == BOTH
    namespace = release.get("namespace", "postgres-writer")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert not release.get("secret", TOKEN)
    release.server.kubectl("delete", "namespace", "postgres-writer")

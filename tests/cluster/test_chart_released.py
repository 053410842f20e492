"""The package that a release makes of the chart: with the released image, and with Metacontroller's chart in it."""

from __future__ import annotations

import json
import subprocess
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from cluster.helm_release import BOTH, METACONTROLLERS, PAGE, TOKEN, Release, releasing
from cluster.installation import RESOURCE, ROWS
from postgres_writer import __version__
from support.documents import ROOT, code_blocks, guide
from support.helm import CHART, IMAGE, MAJORS, Helm
from support.manifests import COMPONENTS, COMPOSITE, K8S, Manifest, by_name, pick, pod_of
from support.metacontroller import crd_manifests
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.apiserver import ApiServer

pytestmark = pytest.mark.usefixtures("helm_programs")
FLAGS = yaml.safe_load((K8S / "components" / "metacontroller-flags" / "values.yaml").read_text())
METACONTROLLER = "metacontroller"


@pytest.fixture(params=MAJORS, ids="helm-{}".format)
def helm(request: pytest.FixtureRequest, tmp_path: Path) -> Helm:
    return Helm(request.param, tmp_path)


@pytest.fixture(params=MAJORS, ids="helm-{}".format)
def release(empty: ApiServer, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Release]:
    """Give a cluster without Metacontroller, and the values of the page."""
    helm = Helm(request.param, tmp_path, empty.kubeconfig)
    with releasing(empty, helm, helm.package(tmp_path)) as made:
        empty.kubectl("delete", "crd", *METACONTROLLERS)
        made.values = {"VALUES": helm.values(**page_values())}
        yield made


def page_values(**more: Any) -> dict[str, Any]:
    """Return the values of the page's first install, and more for Metacontroller."""
    (block,) = code_blocks(PAGE, "Install", "yaml")
    values: dict[str, Any] = yaml.safe_load(block)
    values["metacontroller"] |= more
    return values


def metacontroller(release: Release) -> Any:
    return release.get("statefulset", METACONTROLLER)


def test_a_package_makes_the_objects_of_the_checkout_with_the_released_image(helm: Helm, tmp_path: Path) -> None:
    package = helm.package(tmp_path)
    assert package.name == f"postgres-writer-{__version__}.tgz"
    repository, _, tag = IMAGE.partition(":")
    values: dict[str, Any] = {"components": COMPONENTS, "databases": {"archive": {"existingSecret": "pg"}}}
    made = helm.template(chart=package, **values)
    assert IMAGE in str(pick(made, "Deployment"))
    assert made == helm.template(**values, image={"repository": repository, "tag": tag})
    assert "0 chart(s) failed" in helm.run("lint", "--strict", str(package)).stdout


def test_metacontroller_in_the_release_adds_its_objects_and_moves_what_names_it(helm: Helm, tmp_path: Path) -> None:
    package = helm.package(tmp_path)
    without, made = (
        by_name(helm.template(chart=package, into="my-team", metacontroller={"enabled": enabled}))
        for enabled in (False, True)
    )
    added = {key: made.pop(key) for key in made.keys() - without.keys()}
    assert {name for _, name in added if not name.startswith("metacontroller-aggregate-")} == {METACONTROLLER}
    assert {kind for kind, _ in added} == {"StatefulSet", "ServiceAccount", "ClusterRole", "ClusterRoleBinding"}
    changed = [key for key, manifest in made.items() if manifest != without[key]]
    binding = ("ClusterRoleBinding", "postgres-writer-metacontroller")
    assert sorted(changed) == [binding, ("NetworkPolicy", "postgres-writer")]
    (subject,) = made[binding]["subjects"]
    account = added["ServiceAccount", METACONTROLLER]["metadata"]
    assert (subject["name"], subject["namespace"]) == (account["name"], "my-team")
    selected_by_policies(made, added["StatefulSet", METACONTROLLER])


def selected_by_policies(made: dict[tuple[str, str], Manifest], metacontroller: Manifest) -> None:
    """No policy of ours limits Metacontroller's pod, no Service leads to it, and the server's policy admits it."""
    labels = metacontroller["spec"]["template"]["metadata"]["labels"].items()
    for (kind, _), manifest in made.items():
        if kind in {"NetworkPolicy", "PodDisruptionBudget", "Service"}:
            spec = manifest["spec"]
            selector = spec.get("podSelector", spec.get("selector"))
            assert not selector.get("matchLabels", selector).items() <= labels
    (rule,) = made["NetworkPolicy", "postgres-writer"]["spec"]["ingress"]
    names = [source["namespaceSelector"]["matchLabels"] for source in rule["from"]]
    assert names == [{"kubernetes.io/metadata.name": metacontroller["metadata"].get("namespace", "my-team")}]


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("registry.example.com:5000/some/where:2.0", "registry.example.com:5000/some/where:2.0"),
        ("r.example.com/w@sha256:12", f"r.example.com/w:{__version__}@sha256:12"),
        ("r.example.com/w", f"r.example.com/w:{__version__}"),
    ],
)
def test_every_form_of_an_image_becomes_a_valid_reference(tmp_path: Path, given: str, used: str) -> None:
    helm = Helm(4, tmp_path)
    (container,) = pick(helm.template(chart=helm.package(tmp_path, given)), "Deployment")["spec"]["template"]["spec"][
        "containers"
    ]
    assert container["image"] == used


def test_the_package_names_the_metacontroller_of_the_guide_and_its_flags(tmp_path: Path) -> None:
    package = Helm(MAJORS[-1], tmp_path).package(tmp_path)
    with tarfile.open(package) as archive:
        read = {name: archive.extractfile(f"postgres-writer/{name}") for name in ("Chart.yaml", "values.yaml")}
        chart, values = (yaml.safe_load(file) for file in read.values() if file)
        archive.getmember("postgres-writer/LICENSE")
    (dependency,) = chart["dependencies"]
    assert f"?ref=v{dependency['version']}" in guide("Install with kubectl")[1]
    assert (dependency["alias"], dependency["condition"]) == (METACONTROLLER, f"{METACONTROLLER}.enabled")
    ours = yaml.safe_load((CHART / "values.yaml").read_text())
    assert values[METACONTROLLER] == {**ours[METACONTROLLER], **FLAGS}
    assert values.keys() == ours.keys()


def test_the_registry_of_the_dependency_is_the_one_of_metacontroller_s_project() -> None:
    command = [
        "bash",
        "-c",
        "unset METACONTROLLER_CHARTS; . <(sed -n '/^METACONTROLLER_/p' .ci/release); echo \"$METACONTROLLER_CHARTS\"",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "oci://ghcr.io/metacontroller\n"


def test_one_install_of_the_package_is_all(release: Release) -> None:
    notes = release.run("Install", 1)
    assert "limit all to" not in notes
    assert release.controllers() == BOTH
    (container,) = metacontroller(release)["spec"]["template"]["spec"]["containers"]
    assert container["args"] == FLAGS["commandArgs"]
    pods_are_admitted(release)
    # pods take longer to start than the API server needs for new definitions, of which it says 503 until then
    command = ("apply", "--dry-run=server", "-k", str(K8S / "samples"))
    wait_until(lambda: release.server.kubectl(*command, check=False).returncode == 0, "the kinds to be served")
    release.run("Install", 2)
    release.values = {"VALUES": release.helm.values(**page_values(resources={"requests": {"cpu": "1"}}))}
    release.run("Upgrade and roll back", 0)
    assert requests(release) == {"cpu": "1"}
    release.run("Upgrade and roll back", 1)
    assert requests(release) is None
    release.run("Metacontroller in the release", 0)
    uninstalled_in_the_wrong_order(release)
    for number in (0, 1, 2):
        release.run("Uninstall", number)
    assert not metacontroller(release)
    assert not release.get("crd", ROWS)
    assert release.get("crd", METACONTROLLERS[0])
    release.run("Uninstall", 4)
    assert not release.get("crd", METACONTROLLERS[0])


def requests(release: Release) -> Any:
    return metacontroller(release)["spec"]["template"]["spec"]["containers"][0]["resources"].get("requests")


def pods_are_admitted(release: Release) -> None:
    """With the label of the page the namespace admits the pods of the release, and refuses one with more rights."""
    release.run("Install", 3)
    create = ("create", "--dry-run=server", "-f", "-")
    stateful = metacontroller(release)
    for workload in (release.get("deployment", "postgres-writer"), stateful):
        release.server.kubectl(*create, input=pod_of(workload))
    stateful["spec"]["template"]["spec"]["containers"][0]["securityContext"] = {}
    refused = release.server.kubectl(*create, input=pod_of(stateful), check=False)
    assert 'violates PodSecurity "restricted' in refused.stderr


def uninstalled_in_the_wrong_order(release: Release) -> None:
    """Uninstall before the resource is deleted: it stays with its finalizer, and the same install takes it up."""
    where = ("-n", "default", RESOURCE, "sample-student")
    release.server.kubectl("patch", *where, "--type=merge", "-p", json.dumps({"metadata": {"finalizers": [COMPOSITE]}}))
    tokens = release.get("secret", TOKEN)["data"]
    release.run("Uninstall", 1)
    release.server.kubectl("delete", *where, "--wait=false")
    assert not metacontroller(release)
    assert release.controllers() == BOTH
    release.values = {"VALUES": release.helm.values(**page_values())}
    release.run("Install", 1)
    assert metacontroller(release)
    assert release.get("secret", TOKEN)["data"] == tokens
    found = json.loads(release.server.kubectl("get", *where, "-o", "json").stdout)["metadata"]
    assert found["deletionTimestamp"]
    assert found["finalizers"] == [COMPOSITE]
    # what Metacontroller would do now
    release.server.kubectl("patch", *where, "--type=merge", "-p", '{"metadata": {"finalizers": null}}')


def test_metacontroller_comes_only_when_it_is_asked_for(release: Release) -> None:
    release.values = {"VALUES": release.helm.values()}
    assert 'no matches for kind "CompositeController"' in release.run("Install", 1, check=False)
    assert not release.get("crd", METACONTROLLERS[0])


def test_definitions_that_another_metacontroller_has_left_are_replaced_as_the_page_says(release: Release) -> None:
    crds = crd_manifests()
    for crd in crds:
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"] = "Older."
    release.server.kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump_all(crds))
    release.server.kubectl("wait", "--for=condition=Established", *(f"crd/{name}" for name in METACONTROLLERS))
    if release.helm.major == 4:
        assert "failed to install CRD" in release.run("Install", 1, check=False)
    release.run("Metacontroller in the release", 0)
    release.run("Install", 1)
    assert metacontroller(release)
    assert "Older." not in str(release.get("crd", METACONTROLLERS[0]))
    release.run("Uninstall", 1)
    release.run("Uninstall", 4)


def test_a_second_metacontroller_is_refused_as_the_page_says(release: Release) -> None:
    release.server.kubectl("create", "clusterrole", METACONTROLLER, "--verb=get", "--resource=pods")
    try:
        refused = release.run("Install", 1, check=False)
    finally:
        release.server.kubectl("delete", "clusterrole", METACONTROLLER)
        # Helm installs those of a chart's folder crds before it looks for what is there
        release.server.kubectl("delete", "crd", *METACONTROLLERS, "--ignore-not-found")
    sentence = 'ClusterRole "metacontroller" in namespace "" exists and cannot be imported into the current release'
    assert sentence in refused
    assert sentence in " ".join(PAGE.read_text().split())

"""What docs/gitops.md says of the manifests holds on the real API server."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from cluster.installation import install
from support.documents import ROOT
from support.manifests import K8S, build, overlay, pick

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.apiserver import ApiServer

PAGE = (ROOT / "docs" / "gitops.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PROTECTION: dict[str, str] = yaml.safe_load(BLOCKS[0])
KEPT = [*["CompositeController"] * 2, *["CustomResourceDefinition"] * 2, "Namespace"]


@pytest.fixture(scope="module")
def installed(new_cluster: Callable[[], ApiServer]) -> Iterator[ApiServer]:
    """Install as the guide says."""
    server = new_cluster()
    install(server)
    yield server
    server.stop()


def protected(manifests: list[dict[str, Any]]) -> list[str]:
    """Return the kinds of what no tool prunes."""
    found = [m for m in manifests if PROTECTION.items() <= m["metadata"].get("annotations", {}).items()]
    return sorted(manifest["kind"] for manifest in found)


def test_what_others_depend_on_is_not_pruned(installed: ApiServer, tmp_path: Path) -> None:
    assert protected(build(installed, K8S)) == KEPT
    decorator = build(installed, overlay(tmp_path, ("decorator",)))
    assert protected(decorator) == [
        "CustomResourceDefinition",
        "CustomResourceDefinition",
        "DecoratorController",
        "Namespace",
    ]


@pytest.mark.parametrize("mode", [(), ("--server-side",)], ids=["client-side", "server-side"])
def test_an_applied_install_differs_in_nothing(installed: ApiServer, mode: tuple[str, ...]) -> None:
    """So Argo CD needs no ignoreDifferences."""
    installed.kubectl("apply", *mode, "--force-conflicts" if mode else "--overwrite", "--kustomize", str(K8S))
    found = installed.kubectl("diff", *mode, "--kustomize", str(K8S), check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_with_autoscaling_no_number_of_replicas_is_fought_over(installed: ApiServer, tmp_path: Path) -> None:
    deployment = pick(build(installed, overlay(tmp_path, ("autoscaling",))), "Deployment")
    assert "replicas" not in deployment["spec"]


def test_the_pages_examples_name_what_there_is(installed: ApiServer) -> None:
    examples = [one for block in BLOCKS for one in yaml.safe_load_all(block) if "spec" in one]
    checks = [check for one in examples for check in one["spec"].get("healthChecks", [])]
    made = {(m["apiVersion"], m["kind"], m["metadata"]["name"]) for m in build(installed, K8S)}
    assert len(checks) == 3
    assert {(check["apiVersion"], check["kind"], check["name"]) for check in checks} <= made
    paths = [one["spec"].get("path") or one["spec"]["source"]["path"] for one in examples]
    assert [(ROOT / path / "kustomization.yaml").is_file() for path in paths] == [True, True, False]

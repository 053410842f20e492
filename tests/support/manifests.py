"""The manifests and the installation guide as tests use them: builds, overlays, and the guide's own commands."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from support.metacontroller import crd_manifests

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from support.apiserver import ApiServer

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
GUIDE = ROOT / "docs" / "install.md"
EARLY_FINALIZER = K8S / "components" / "early-finalizer" / "policies.yaml"
COMPOSITE = "metacontroller.io/compositecontroller-postgres-writer"
DECORATOR = "metacontroller.io/decoratorcontroller-postgres-writer"
HOLD = "demo.yash.com/hold"
ORIGINAL = "finalizers.postgreswriters.demo.yash.com/cleanup-row"
COMMAND_SECONDS = 120

STATEFULSET = """
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: metacontroller, namespace: metacontroller}
spec:
  serviceName: ""
  selector: {matchLabels: {app: metacontroller}}
  template:
    metadata: {labels: {app: metacontroller}}
    spec:
      containers:
      - name: metacontroller
        image: metacontroller
        args: [--zap-log-level=4, --discovery-interval=20s]
"""
"""Metacontroller as its own manifests have it, as far as our patch looks."""

Manifest = dict[str, Any]

_FOREIGN_KINDS = {
    "cert-manager.io": ("v1", ("Issuer", "Certificate")),
    "monitoring.coreos.com": ("v1", ("ServiceMonitor", "PrometheusRule")),
}


def documents(text: str) -> list[Manifest]:
    """Return the YAML documents of a text, the items of a List one by one and without parts in common."""
    found = [document for document in yaml.safe_load_all(text) if document]
    return [copy.deepcopy(item) for one in found for item in (one["items"] if one["kind"] == "List" else [one])]


def build(server: ApiServer, folder: Path) -> list[Manifest]:
    """Return what `kubectl kustomize` makes of a folder."""
    return documents(server.kubectl("kustomize", str(folder)).stdout)


def pick(manifests: Iterable[Manifest], kind: str, name: str = "postgres-writer") -> Manifest:
    """Return the one manifest of this kind and name."""
    (found,) = [m for m in manifests if (m["kind"], m["metadata"]["name"]) == (kind, name)]
    return found


def overlay(folder: Path, components: Sequence[str] = (), base: Path = K8S, example: str = "") -> Path:
    """Write a kustomization that adds components to the default install, as a user would, and return its folder.

    ``example`` is YAML to add, written as in a folder beside k8s/overlays/example.
    """
    folder.mkdir(parents=True, exist_ok=True)
    start = folder.resolve()
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(base, start)],
        "components": [os.path.relpath(K8S / "components" / name, start) for name in components],
    }
    added = yaml.safe_load(example) or {}
    for key in {"components", "transformers"} & added.keys():
        added[key] = [os.path.relpath((K8S / "overlays" / "example" / path).resolve(), start) for path in added[key]]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump({**kustomization, **added}))
    return folder


def pod_of(deployment: Manifest) -> str:
    """Return a pod, as JSON, as the Deployment's controller would make it."""
    template = deployment["spec"]["template"]
    metadata = {**template["metadata"], "generateName": "pod-", "namespace": deployment["metadata"]["namespace"]}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})


def foreign_crds() -> list[Manifest]:
    """Return open CRDs of the kinds of other projects that the manifests use."""
    made = []
    for group, (version, kinds) in _FOREIGN_KINDS.items():
        for kind in kinds:
            plural = f"{kind.lower()}s"
            schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
            made.append(
                {
                    "apiVersion": "apiextensions.k8s.io/v1",
                    "kind": "CustomResourceDefinition",
                    "metadata": {"name": f"{plural}.{group}"},
                    "spec": {
                        "group": group,
                        "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
                        "scope": "Namespaced",
                        "versions": [
                            {
                                "name": version,
                                "served": True,
                                "storage": True,
                                "schema": {"openAPIV3Schema": schema},
                            }
                        ],
                    },
                }
            )
    return made


def prepare(server: ApiServer, *, foreign: bool = False) -> None:
    """Give the API server Metacontroller's kinds and namespace, and on request those of cert-manager and Prometheus."""
    crds = crd_manifests() + (foreign_crds() if foreign else [])
    metacontroller = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "metacontroller"}}
    server.kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump_all([*crds, metacontroller]))
    names = [f"crd/{crd['metadata']['name']}" for crd in crds]
    server.kubectl("wait", "--for=condition=Established", "--timeout=60s", *names)


def section(page: Path, title: str) -> str:
    """Return one section of a page, up to the next heading."""
    text = page.read_text(encoding="utf-8")
    found = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#+ |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"{page.name} has no section {title!r}"
    return found[2]


def code_blocks(page: Path, title: str, language: str) -> list[str]:
    """Return the code blocks of one language in a section of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", section(page, title), re.MULTILINE | re.DOTALL)


def guide_text(title: str) -> str:
    """Return one section of the installation guide, up to the next heading."""
    return section(GUIDE, title)


def guide(title: str, language: str = "sh") -> list[str]:
    """Return the code blocks of one section of the installation guide, by default its shell commands."""
    return code_blocks(GUIDE, title, language)


def shell(server: ApiServer, script: str, *, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run commands of the guide in the checkout with the server's kubectl.

    AssertionError says what they printed, when they fail and `check` is true.
    """
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", script],
        cwd=ROOT,
        env={**server.environment(), **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert not check or done.returncode == 0, f"exit code {done.returncode} of:\n{script}\n{done.stdout}"
    return done

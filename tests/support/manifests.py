"""The manifests as tests use them: builds, overlays, and the commands of the documents."""

from __future__ import annotations

import copy
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from support.documents import ROOT
from support.metacontroller import crd_manifests

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from support.apiserver import ApiServer

K8S = ROOT / "k8s"
EARLY_FINALIZER = K8S / "components" / "early-finalizer" / "policies.yaml"
COMPOSITE = "metacontroller.io/compositecontroller-postgres-writer"
DECORATOR = "metacontroller.io/decoratorcontroller-postgres-writer"
HOLD = "demo.yash.com/hold"
ORIGINAL = "finalizers.postgreswriters.demo.yash.com/cleanup-row"
COMMAND_SECONDS = 120
# auth is part of the default install; metacontroller-flags is for Metacontroller's manifests
COMPONENTS = sorted(
    path.parent.name
    for path in (K8S / "components").glob("*/kustomization.yaml")
    if path.parent.name not in {"auth", "metacontroller-flags"}
)

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
    # with libyaml, where PyYAML was built with it: ten times as fast
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found = [document for document in yaml.load_all(text, Loader=loader) if document]
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


def by_name(manifests: Sequence[Manifest]) -> dict[tuple[str, str], Manifest]:
    """Return manifests by kind and name; the order in which they are printed is not ours to test."""
    found = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in manifests}
    assert len(found) == len(manifests)
    return found


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


def shell(server: ApiServer, script: str, *, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run commands of the guides in the checkout with the server's kubectl; OVERLAY is the default install.

    AssertionError says what they printed, when they fail and `check` is true.
    """
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", script],
        cwd=ROOT,
        env={**server.environment(), "OVERLAY": "k8s", **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert not check or done.returncode == 0, f"exit code {done.returncode} of:\n{script}\n{done.stdout}"
    return done

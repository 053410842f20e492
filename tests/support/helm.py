"""Helm as the tests run it: one major version, with caches of its own and nothing of the developer's settings.

And the charts that it installs: ours, the package that a release makes of it, and Metacontroller's.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

from support.documents import ROOT
from support.kube_tools import HELM, find_helm
from support.manifests import K8S, Manifest, documents
from support.metacontroller import crd_manifests
from support.programs import found_or_skipped

CHART: Final = K8S / "chart"
MAJORS: Final = tuple(int(major) for major in os.environ.get("HELM_MAJORS", "").split()) or tuple(HELM)
"""The major versions with which the tests run; HELM_MAJORS=4 leaves the other out."""
IMAGE: Final = f"ghcr.io/postgres-writer/postgres-writer:1.2.3@sha256:{'0123456789abcdef' * 4}"
"""A released image."""
SECONDS: Final = 300


class HelmError(AssertionError):
    """A call of Helm that a test expected to succeed has failed; the text is what it printed."""


class Helm:
    """Runs Helm of a major version, on the cluster of a kubeconfig or, without one, on none."""

    def __init__(self, major: int, folder: Path, kubeconfig: Path | None = None) -> None:
        self.major = major
        self.program = found_or_skipped(lambda: find_helm(major))
        self.folder = folder
        self.environment = {
            "KUBECONFIG": str(kubeconfig or folder / "no-cluster"),
            **{f"HELM_{name}_HOME": str(folder / "helm" / name.lower()) for name in ("CACHE", "CONFIG", "DATA")},
        }

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command; raises `HelmError` when it fails and `check` is true."""
        done = subprocess.run(
            [str(self.program), *arguments],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        if check and done.returncode != 0:
            raise HelmError(f"helm {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def values(self, **values: Any) -> str:
        """Write a file of values and return its path."""
        path = self.folder / "values.yaml"
        path.write_text(yaml.safe_dump(values))
        return str(path)

    def template(self, *, chart: Path = CHART, into: str = "postgres-writer", **values: Any) -> list[Manifest]:
        """Return what the chart makes of the values for a namespace, without what depends on the cluster's version."""
        given = self.values(**{"earlyFinalizer": False, **values})
        command = ("template", "postgres-writer", str(chart), f"--namespace={into}", f"--values={given}")
        return documents(self.run(*command).stdout)

    def package(self, folder: Path, image: str = IMAGE) -> Path:
        """Return the chart's package as a release makes it, with the chart that `metacontrollers_chart` gives."""
        charts = f"file://{metacontrollers_chart(folder)}"
        environ = {**os.environ, **self.environment, "HELM": str(self.program), "METACONTROLLER_CHARTS": charts}
        made = folder / "package"
        command = [str(ROOT / ".ci" / "release"), "chart", image, str(made)]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=SECONDS, check=False)
        if done.returncode != 0:
            raise HelmError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        (package,) = made.iterdir()
        return package


def metacontrollers_chart(folder: Path) -> Path:
    """Return the chart that METACONTROLLER_CHART names, or one with its name, version and values, as far as we look."""
    if "METACONTROLLER_CHART" in os.environ:
        return Path(os.environ["METACONTROLLER_CHART"])
    chart = folder / "metacontroller"
    if not chart.exists():
        for name in ("templates", "crds"):
            (chart / name).mkdir(parents=True)
        (chart / "Chart.yaml").write_text("{apiVersion: v2, name: metacontroller-helm, version: 4.17.2}\n")
        (chart / "values.yaml").write_text(_VALUES)
        (chart / "templates" / "all.yaml").write_text(_TEMPLATE)
        (chart / "crds" / "crds.yaml").write_text(yaml.safe_dump_all(crd_manifests()))
    return chart


_VALUES = """
rbac: {create: true}
image: {repository: ghcr.io/metacontroller/metacontroller, pullPolicy: IfNotPresent, tag: ""}
imagePullSecrets: []
nameOverride: ""
namespaceOverride: ""
fullnameOverride: ""
serviceAccount: {create: true, annotations: {}, name: ""}
podAnnotations: {}
podSecurityContext: {}
securityContext: {}
resources: {}
nodeSelector: {}
tolerations: []
affinity: {}
env: []
command: /usr/bin/metacontroller
commandArgs: [--zap-log-level=4]
probes: {port: 8081}
priorityClassName: ""
clusterRole: {aggregationRule: {}, rules: [{apiGroups: ["*"], resources: ["*"], verbs: ["*"]}]}
replicas: 1
podDisruptionBudget: {}
service: {enabled: false, ports: []}
"""
"""Every value of Metacontroller's chart 4.17.2, which our schema must let through."""
_TEMPLATE = """
{{- $labels := dict "app.kubernetes.io/name" .Chart.Name "app.kubernetes.io/instance" .Release.Name }}
apiVersion: v1
kind: ServiceAccount
metadata: {name: {{ .Values.fullnameOverride }}, namespace: {{ .Release.Namespace }}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: {{ .Values.fullnameOverride }}}
rules: {{ toJson .Values.clusterRole.rules }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: {{ .Values.fullnameOverride }}}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {{ .Values.fullnameOverride }}}
subjects: [{kind: ServiceAccount, name: {{ .Values.fullnameOverride }}, namespace: {{ .Release.Namespace }}}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: {{ .Values.fullnameOverride }}, namespace: {{ .Release.Namespace }}}
spec:
  replicas: {{ .Values.replicas }}
  serviceName: ""
  selector: {matchLabels: {{ toJson $labels }}}
  template:
    metadata: {labels: {{ toJson $labels }}}
    spec:
      serviceAccountName: {{ .Values.fullnameOverride }}
      securityContext: {{ toJson .Values.podSecurityContext }}
      containers:
      - name: {{ .Chart.Name }}
        image: "{{ .Values.image.repository }}:v{{ .Chart.Version }}"
        args: {{ toJson .Values.commandArgs }}
        resources: {{ toJson .Values.resources }}
        securityContext: {{ toJson .Values.securityContext }}
"""

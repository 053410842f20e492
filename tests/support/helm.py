"""Helm as the tests run it: one major version, with caches of its own and nothing of the developer's settings."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any, Final

import yaml

from support.kube_tools import HELM, find_helm
from support.manifests import K8S, Manifest, documents
from support.programs import found_or_skipped

if TYPE_CHECKING:
    from pathlib import Path

CHART: Final = K8S / "chart"
MAJORS: Final = tuple(HELM)
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

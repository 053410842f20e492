"""The versions that the tests run with, and the table of docs/install.md that says so (`make docs`).

setup.cfg lists the Pythons (its classifiers) and the PostgreSQLs; the others are those that the tests build or install.
"""

from __future__ import annotations

import configparser
import re
from typing import Final

from support.documents import ROOT
from support.kube_tools import HELM, KUBERNETES
from support.reference import table

_SETUP = configparser.ConfigParser()
_SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
_KIND = (ROOT / "k8s" / "kind" / "metacontroller" / "kustomization.yaml").read_text(encoding="utf-8")
POSTGRESQL: Final = _SETUP["tested"]["postgresql"].split()
PYTHON: Final[list[str]] = re.findall(r":: (3\.\d+)$", _SETUP["metadata"]["classifiers"], re.MULTILINE)
METACONTROLLER: Final[list[str]] = re.findall(r"ref=v([\d.]+)", _KIND)
PAGE: Final = ROOT / "docs" / "install.md"


def current(page: str) -> str:
    """Return docs/install.md with the table of today's versions."""
    rows = "\n".join(table(("", "supported", "tested with every change"), _rows()))
    return re.sub(r"(?<=\n## Supported versions\n\n)(\|.*\n)+", lambda _: rows, page)


def _rows() -> list[tuple[str, str, str]]:
    kubernetes, *helm = (version.rpartition(".")[0] for version in (KUBERNETES, *HELM.values()))
    metacontroller = METACONTROLLER[0]
    return [
        (
            "Kubernetes, kubectl",
            "1.30 or newer; [early-finalizer](#finalizers-from-the-start) 1.36",
            f"{kubernetes}: kube-apiserver, kube-controller-manager, kubectl",
        ),
        (
            "Metacontroller",
            f"{metacontroller} or newer",
            f"{metacontroller}, on a machine that has it; by hand the main branch of August 2026",
        ),
        ("PostgreSQL", f"{POSTGRESQL[0]} or newer", ", ".join(POSTGRESQL)),
        ("PgBouncer", "1.18 or newer", "the system's (Debian 12, Ubuntu 24.04)"),
        ("Python, outside of the image", f"{PYTHON[0]} or newer", ", ".join(PYTHON)),
        ("Python packages", "the ranges in [setup.cfg](../setup.cfg)", "the newest, and the oldest of each range"),
        ("Argo CD, Flux, Helm", "see [GitOps](gitops.md)", f"their health checks; Helm {' and '.join(helm)}"),
    ]


if __name__ == "__main__":
    PAGE.write_text(current(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

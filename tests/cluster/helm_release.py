"""A release of the chart on a real API server, made and changed by the commands of docs/helm.md."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

from cluster.installation import wipe
from postgres_writer import __version__
from support.documents import ROOT, code_blocks
from support.helm import CHART, Helm
from support.manifests import prepare, shell

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.apiserver import ApiServer

PAGE = ROOT / "docs" / "helm.md"
CONTROLLERS = "compositecontrollers.metacontroller.k8s.io,decoratorcontrollers.metacontroller.k8s.io"
METACONTROLLERS = [
    f"{kind}s.metacontroller.k8s.io" for kind in ("compositecontroller", "decoratorcontroller", "controllerrevision")
]
BOTH = ["CompositeController/postgres-writer", "CompositeController/postgres-writer-row"]
DATABASE = {"PGHOST": "db.example.com", "PGPORT": "5432", "PGDATABASE": "school", "PGUSER": "writer", "PGPASSWORD": "x"}
TOKEN = "postgres-writer-hook-tokens"


class Release:
    """The page's commands, run with one version of Helm, and what they leave on the API server."""

    def __init__(self, server: ApiServer, helm: Helm, chart: Path = CHART) -> None:
        self.server, self.helm, self.chart = server, helm, chart
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
            CHART=str(self.chart),
            VERSION=__version__,
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


@contextlib.contextmanager
def releasing(server: ApiServer, helm: Helm, chart: Path = CHART) -> Iterator[Release]:
    """Give Metacontroller's kinds, and remove the release and what it kept afterwards."""
    prepare(server)
    made = Release(server, helm, chart)
    yield made
    helm.run("uninstall", "postgres-writer", "--namespace=postgres-writer", "--ignore-not-found")
    wipe(server)

"""The commands of the documents that cannot run beside an API server alone, and what is done in their place."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from support.documents import as_shown
from support.manifests import K8S, STATEFULSET
from support.postgres import program
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.apiserver import ApiServer
    from support.helm import Helm
    from support.postgres import Database

CANNOT_RUN = {
    r"^docker ": "needs a container builder and a registry: the arguments are noted",
    r"^make kind(-down)?$": "calls docker and kind, which needs containers for its nodes: their arguments are noted",
    r"github\.com/metacontroller": "needs the network: a StatefulSet as in those manifests is applied",
    r"github\.com/postgres-writer.*samples": "needs the network: the samples of the checkout are applied",
    r"^curl .*RELEASE": "needs the network: the files are made as the release workflow makes them",
    r"^helm install .*oci:": "needs the network: the package is made as the release workflow makes it",
    r" rollout status ": "needs nodes, on which pods run: the arguments are printed",
    r"^make test\b": "would run this test again: only the target is looked for",
}
"""Commands of README.md and docs/install.md, the reason, and what is done instead."""
_KUBECTL = """#!/bin/bash
{cases}
case "$*" in
*github.com/metacontroller*) exec kubectl-real apply --server-side -f "$TEST_STATEFULSET" ;;
*github.com/postgres-writer*samples*) exec kubectl-real apply -k "$TEST_SAMPLES" ;;
*"rollout status"*) echo "$*" ;;
*) exec kubectl-real "$@" ;;
esac
"""
_HELM = """#!/bin/bash
arguments=()
for argument; do
    case $argument in oci://*) argument=$TEST_CHART ;; esac
    arguments+=("$argument")
done
exec helm-real "${arguments[@]}"
"""
_NOTED = '#!/bin/sh\necho "$(basename "$0") $*" >>"$TEST_CALLS"\n'


def played_programs(folder: Path, server: ApiServer, database: Database, cases: str = "") -> dict[str, str]:
    """Write the programs into a folder, and return the environment in which they come first on PATH.

    kubectl is the server's and psql the database's. ``cases`` are lines of the shell script that stands for kubectl.
    What docker and kind are called with is in the file ``calls`` of the folder.
    """
    programs = folder / "bin"
    programs.mkdir()
    for name, text in (("kubectl", _KUBECTL.format(cases=cases)), ("docker", _NOTED), ("kind", _NOTED)):
        (programs / name).write_text(text)
        (programs / name).chmod(stat.S_IRWXU)
    (programs / "kubectl-real").symlink_to(server.tools.kubectl)
    (folder / "metacontroller.yaml").write_text(STATEFULSET)
    path = os.pathsep.join((str(programs), str(program("psql").parent), server.environment()["PATH"]))
    return {
        **libpq_variables(database),
        "PATH": path,
        "TEST_SAMPLES": str(K8S / "samples"),
        "TEST_STATEFULSET": str(folder / "metacontroller.yaml"),
        "TEST_CALLS": str(folder / "calls"),
    }


def played_helm(played: dict[str, str], helm: Helm, folder: Path) -> dict[str, str]:
    """Put Helm beside the other programs, with the package of a release in place of any registry's."""
    programs = folder / "bin"
    (programs / "helm").write_text(_HELM)
    (programs / "helm").chmod(stat.S_IRWXU)
    (programs / "helm-real").symlink_to(helm.program)
    return {**played, **helm.environment, "TEST_CHART": str(helm.package(folder))}


def libpq_variables(database: Database) -> dict[str, str]:
    """Return the variables that psql reads."""
    names = {"host": "PGHOST", "port": "PGPORT", "dbname": "PGDATABASE", "user": "PGUSER", "password": "PGPASSWORD"}
    return {names[keyword]: value for keyword, value in database.connect.items() if keyword in names}


def check_transcript(run: Callable[[str], str], command: str, output: str) -> None:
    """Run a command, one that only reads until it shows what the page shows; fails if it does not."""
    printed = [run(command)]
    if " get " in command or command.startswith("psql"):

        def seen() -> bool:
            printed.append(run(command))
            return as_shown(printed[-1]) == as_shown(output)

        wait_until(seen, lambda: f"$ {command}\n{printed[-1]}")
    assert as_shown(printed[-1]) == as_shown(output)

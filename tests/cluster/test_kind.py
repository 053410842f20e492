"""`make kind` as far as it goes without nodes: the script runs against a real API server, hook server and database.

Played are docker and kind (they do nothing), and of kubectl the waiting for pods, the download of Metacontroller's
manifests and psql in the pod, which asks the test's database.
"""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from cluster.installation import Installation
from cluster.played_metacontroller import playing
from support.documents import ROOT, guide
from support.manifests import STATEFULSET, prepare
from support.server import running_server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.apiserver import ApiServer
    from support.postgres import Database

PSQL = """
import os, sys, psycopg2
connection = psycopg2.connect(os.environ["TEST_DSN"])
connection.autocommit = True
cursor = connection.cursor()
cursor.execute(sys.argv[1])
for row in cursor.fetchall() if cursor.description else []:
    print("|".join(map(str, row)))
"""
KUBECTL = """#!/bin/bash
[ "$1 $2" = "--context kind-postgres-writer" ] || { echo "the context is not named: $*" >&2; exit 1; }
shift 2
case "$*" in
*github.com*) exec kubectl-real apply -f "$TEST_STATEFULSET" ;;
*"rollout status"*) echo "$*" ;;
*"exec deploy/postgres"*) exec "$TEST_PYTHON" "$TEST_PSQL" "${@: -1}" ;;
*) exec kubectl-real "$@" ;;
esac
"""
NOTHING = '#!/bin/sh\necho "$(basename "$0") $*" >>"$TEST_CALLS"\n'


@pytest.fixture(scope="module")
def server(empty: ApiServer) -> ApiServer:
    prepare(empty)
    return empty


@pytest.fixture
def run(server: ApiServer, database: Database, tmp_path: Path) -> Callable[..., str]:
    """Give a function that runs a make target with the played programs first on PATH, and returns what it printed."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("kubectl", KUBECTL), ("docker", NOTHING), ("kind", NOTHING)):
        (programs / name).write_text(text)
        (programs / name).chmod(stat.S_IRWXU)
    (programs / "kubectl-real").symlink_to(server.tools.kubectl)
    (tmp_path / "psql.py").write_text(PSQL)
    (tmp_path / "metacontroller.yaml").write_text(STATEFULSET)
    environ = {
        **server.environment(),
        "TEST_DSN": " ".join(f"{key}='{value}'" for key, value in database.connect.items()),
        "TEST_PSQL": str(tmp_path / "psql.py"),
        "TEST_PYTHON": sys.executable,
        "TEST_STATEFULSET": str(tmp_path / "metacontroller.yaml"),
        "TEST_CALLS": str(tmp_path / "calls"),
    }
    environ["PATH"] = f"{programs}{os.pathsep}{environ['PATH']}"

    def call(command: str) -> str:
        done = subprocess.run(
            shlex.split(command), cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=240
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return call


def test_one_command_shows_the_row_and_another_takes_all_away(
    server: ApiServer, database: Database, tmp_path: Path, run: Callable[..., str]
) -> None:
    installation = Installation(server, database)
    _, up, down = (command.strip() for command in guide("Try it on your own machine"))
    with running_server(database) as hooks, playing(server, hooks.url):
        shown = run(up)
        assert "default/sample-student|alex|23|canada" in shown
        assert shown.count("RowSynced") == 2
        before = installation.secret("postgres-writer-hook-tokens")
        run(up)  # once more changes no Secret, which pods and Metacontroller would have to read again
        assert installation.secret("postgres-writer-hook-tokens") == before
        run("k8s/kind/kind.sh check")
    assert database.rows() == []
    run(down)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[-1] == "kind delete cluster --name postgres-writer"
    assert "docker build -t postgres-writer:kind ." in calls
    assert "kind load docker-image postgres-writer:kind --name postgres-writer" in calls
    flags = server.kubectl("-n", "metacontroller", "get", "statefulset", "metacontroller", "-o", "yaml").stdout
    assert flags.count("--client-go-qps=1000") == 1
    image = "jsonpath={.spec.template.spec.containers[0].image}"
    deployed = server.kubectl("-n", "postgres-writer", "get", "deployment", "postgres-writer", "-o", image).stdout
    assert deployed == "postgres-writer:kind"


def test_a_wrong_argument_is_refused_with_a_sentence(run: Callable[..., str]) -> None:
    with pytest.raises(AssertionError, match=r"usage: kind\.sh up \| check \| down"):
        run("k8s/kind/kind.sh sideways")

"""`make kind` as far as it goes without nodes: the script runs against a real API server, hook server and database.

Played are docker and kind, and of kubectl the waiting for pods, the download of Metacontroller's manifests and psql in
the pod, which asks the test's database.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import yaml

from cluster.installation import Installation
from cluster.played_metacontroller import playing
from cluster.played_programs import played_programs
from support.documents import ROOT, guide
from support.manifests import K8S, STATEFULSET, prepare
from support.metacontroller import TUNED_FLAGS
from support.server import running_server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.apiserver import ApiServer
    from support.postgres import Database

pytestmark = pytest.mark.long
PSQL = """
import os, sys, psycopg2
connection = psycopg2.connect(os.environ["TEST_DSN"])
connection.autocommit = True
cursor = connection.cursor()
cursor.execute(sys.argv[1])
for row in cursor.fetchall() if cursor.description else []:
    print("|".join(map(str, row)))
"""
CASES = """
[ "$1 $2" = "--context kind-postgres-writer" ] || { echo "the context is not named: $*" >&2; exit 1; }
shift 2
case "$*" in
*"exec deploy/postgres"*) exec "$TEST_PYTHON" "$TEST_PSQL" "${@: -1}" ;;
*"-k k8s/kind/metacontroller") exec kubectl-real "${@:1:$#-1}" "$TEST_METACONTROLLER" ;;
esac
"""


@pytest.fixture(scope="module")
def server(empty: ApiServer) -> ApiServer:
    prepare(empty)
    return empty


@pytest.fixture
def run(server: ApiServer, database: Database, tmp_path: Path) -> Callable[..., str]:
    """Give a function that runs a make target with the played programs first on PATH, and returns what it printed."""
    environ = {
        **server.environment(),
        **played_programs(tmp_path, server, database, CASES),
        "TEST_DSN": " ".join(f"{key}='{value}'" for key, value in database.connect.items()),
        "TEST_PSQL": str(tmp_path / "psql.py"),
        "TEST_PYTHON": sys.executable,
        "TEST_METACONTROLLER": str(without_download(tmp_path / "metacontroller")),
    }
    (tmp_path / "psql.py").write_text(PSQL)

    def call(command: str) -> str:
        done = subprocess.run(
            shlex.split(command), cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=240
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return call


def without_download(folder: Path) -> Path:
    """Write the kustomization of Metacontroller with a file in place of the address, and return its folder."""
    kustomization = yaml.safe_load((K8S / "kind" / "metacontroller" / "kustomization.yaml").read_text())
    assert [urlsplit(address).hostname for address in kustomization["resources"]] == ["github.com"]
    folder.mkdir()
    (folder / "statefulset.yaml").write_text(STATEFULSET)
    flags = os.path.relpath(K8S / "components" / "metacontroller-flags", folder.resolve())
    built = {**kustomization, "resources": ["statefulset.yaml"], "components": [flags]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(built))
    return folder


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
        generation = metacontroller(server)["metadata"]["generation"]
        # by hand, so that the next apply finds another owner of these fields
        server.kubectl("-n", "postgres-writer", "scale", "deployment", "postgres-writer", "--replicas=1")
        server.kubectl("-n", "postgres-writer", "set", "image", "deployment/postgres-writer", "server=mine:1")
        run(up)  # once more changes no Secret, which pods and Metacontroller would have to read again
        assert installation.secret("postgres-writer-hook-tokens") == before
        assert metacontroller(server)["metadata"]["generation"] == generation, "it would be restarted"
        run("k8s/kind/kind.sh check")
    assert database.rows() == []
    run(down)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[-1] == "kind delete cluster --name postgres-writer"
    assert "docker build -t postgres-writer:kind ." in calls
    assert "kind load docker-image postgres-writer:kind --name postgres-writer" in calls
    assert metacontroller(server)["spec"]["template"]["spec"]["containers"][0]["args"][-3:] == list(TUNED_FLAGS)
    image = "jsonpath={.spec.template.spec.containers[0].image}"
    deployed = server.kubectl("-n", "postgres-writer", "get", "deployment", "postgres-writer", "-o", image).stdout
    assert deployed == "postgres-writer:kind"


def metacontroller(server: ApiServer) -> Any:
    found = server.kubectl("-n", "metacontroller", "get", "statefulset", "metacontroller", "-o", "json").stdout
    return json.loads(found)


def test_a_wrong_argument_is_refused_with_a_sentence(run: Callable[..., str]) -> None:
    with pytest.raises(AssertionError, match=r"usage: kind\.sh up \| check \| down"):
        run("k8s/kind/kind.sh sideways")

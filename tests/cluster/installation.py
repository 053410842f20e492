"""An install as docs/install.md makes it, with a real hook server, a real database and a simulated Metacontroller."""

from __future__ import annotations

import base64
import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.played_metacontroller import playing
from support.documents import guide
from support.manifests import prepare, shell
from support.server import running_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.played_metacontroller import PlayedMetacontroller
    from support.apiserver import ApiServer
    from support.postgres import Database

RESOURCE = "postgreswriters.demo.yash.com"
ROWS = "postgresrows.demo.yash.com"
NAMESPACE, SECRETS = "default", "postgres-writer"
WAIT_SECONDS = 60


@dataclass
class Installation:
    """An API server with its resources in the namespace default, and the database with their rows."""

    cluster: ApiServer
    database: Database

    def create(self, name: str, *, table: str = "students", finalizers: tuple[str, ...] = ()) -> None:
        """Create a PostgresWriter."""
        manifest = {
            "apiVersion": "demo.yash.com/v1",
            "kind": "PostgresWriter",
            "metadata": {"name": name, "namespace": NAMESPACE, "finalizers": list(finalizers)},
            "spec": {"table": table, "name": "alex", "age": 23, "country": "canada"},
        }
        self.cluster.kubectl("create", "-f", "-", input=json.dumps(manifest))

    def create_row(self, name: str, *, table: str = "tenants", **columns: Any) -> None:
        """Create a PostgresRow."""
        manifest = {
            "apiVersion": "demo.yash.com/v1alpha1",
            "kind": "PostgresRow",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"table": table, "columns": [{"name": key, "value": value} for key, value in columns.items()]},
        }
        self.cluster.kubectl("create", "-f", "-", input=json.dumps(manifest))

    def delete(self, *names: str) -> None:
        """Ask for the deletion of PostgresWriters and do not wait for it."""
        self.cluster.kubectl("-n", NAMESPACE, "delete", RESOURCE, *names, "--wait=false")

    def finalizers(self, resource: str = RESOURCE) -> dict[str, list[str]]:
        """Return the finalizers of each resource of a kind; empty when there is no such kind (any more)."""
        listed = self.cluster.kubectl("-n", NAMESPACE, "get", resource, "-o", "json", check=False)
        if listed.returncode != 0:
            return {}
        items = json.loads(listed.stdout)["items"]
        return {item["metadata"]["name"]: item["metadata"].get("finalizers", []) for item in items}

    def ids(self) -> list[str]:
        """Return the names of the resources that have a row."""
        return [str(row[0]).removeprefix(f"{NAMESPACE}/") for row in self.database.rows()]

    def wait_ready(self, *names: str) -> None:
        """Wait until these resources are Ready."""
        arguments = ("--for=condition=Ready", f"--timeout={WAIT_SECONDS}s")
        self.cluster.kubectl("-n", NAMESPACE, "wait", *arguments, *(f"{RESOURCE}/{name}" for name in names))

    def exists(self, *resource: str) -> bool:
        """Say whether `kubectl get` finds the resource, its kind included."""
        return self.cluster.kubectl("get", *resource, check=False).returncode == 0

    def secret(self, name: str) -> dict[str, str]:
        """Return what a Secret of the install holds."""
        found = self.cluster.kubectl("-n", SECRETS, "get", "secret", name, "-o", "json")
        return {key: base64.b64decode(value).decode() for key, value in json.loads(found.stdout)["data"].items()}

    def mount_tokens(self, folder: Path) -> Path:
        """Write the file of tokens that a pod would see, as the kubelet does, and return its path."""
        (folder / "new").write_text(self.secret("postgres-writer-hook-tokens")["tokens"])
        return (folder / "new").replace(folder / "tokens")

    @contextlib.contextmanager
    def served(self, folder: Path, **environ: str) -> Iterator[PlayedMetacontroller]:
        """Run a hook server with the tokens of the install's Secret, and play Metacontroller before it."""
        tokens = self.mount_tokens(folder)
        with (
            running_server(self.database, HOOK_TOKENS_FILE=str(tokens), **environ) as server,
            playing(self.cluster, server.url) as player,
        ):
            yield player


class InstallSteps(NamedTuple):
    """The steps of docs/install.md: of "Install", of "Install with kubectl" and of "Install from a checkout"."""

    variables: str
    database: str
    release: str
    rollout: str
    retry: str
    rows: str
    files: str
    metacontroller: str
    token: str
    manifests: str
    flags: str
    image: str
    overlay: str
    apply: str


def install_steps() -> InstallSteps:
    """Return the commands of docs/install.md that install."""
    return InstallSteps(*guide("Install"), *guide("Install with kubectl"), *guide("Install from a checkout"))


def install(cluster: ApiServer) -> None:
    """Run the guide's commands up to the point where a node would start the pods, for the default install."""
    prepare(cluster)
    steps = install_steps()
    shell(cluster, f"{steps.variables}\n{steps.database}\n{steps.token}\n{steps.apply}")
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", f"crd/{RESOURCE}", f"crd/{ROWS}")


def wipe(cluster: ApiServer) -> None:
    """Undo an install in whatever state a test left it.

    What the next one may find stays: the end of a namespace takes seconds.
    """
    prepare(cluster)  # kubectl deletes nothing of a kind that it does not find
    kinds = "compositecontrollers.metacontroller.k8s.io,decoratorcontrollers.metacontroller.k8s.io"
    cluster.kubectl("delete", kinds, "--all")
    cluster.kubectl("delete", "crd", RESOURCE, ROWS, "--ignore-not-found", "--wait=false")
    for resource in (RESOURCE, ROWS):
        listed = cluster.kubectl("get", resource, "--all-namespaces", "-o", "json", check=False)
        for item in json.loads(listed.stdout)["items"] if listed.returncode == 0 else []:
            where = ("-n", item["metadata"]["namespace"], resource, item["metadata"]["name"])
            cluster.kubectl("patch", *where, "--type=merge", "-p", '{"metadata": {"finalizers": null}}', check=False)
    cluster.kubectl("wait", "--for=delete", f"crd/{RESOURCE}", f"crd/{ROWS}", f"--timeout={WAIT_SECONDS}s")
    cluster.kubectl("-n", SECRETS, "delete", "secrets", "--all")

"""The component early-finalizer on a real API server: a new resource has the finalizer of its controller."""

from __future__ import annotations

import json
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from cluster.conftest import apply_crd
from support.api_client import ApiClient, path_of, resource
from support.documents import ROOT, guide
from support.manifests import COMPOSITE, DECORATOR, documents, prepare, shell
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.apiserver import ApiServer

KINDS = {"composite": COMPOSITE, "decorator": DECORATOR}
_numbers = count(1)


@pytest.fixture(scope="module")
def served(new_cluster: Callable[[], ApiServer]) -> Iterator[ApiServer]:
    """Give an API server that had the policies before it knew Metacontroller's kinds and ours."""
    server = new_cluster()
    shell(server, guide("Finalizers from the start")[0])
    prepare(server)
    apply_crd(server)
    yield server
    server.stop()


@pytest.fixture
def client(served: ApiServer) -> ApiClient:
    return ApiClient(served.url, served.token, str(served.certificate))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, served: ApiServer, client: ApiClient) -> Iterator[str]:
    """Install one kind of controller for the test, and wait until the policies have seen it come and go."""
    kind: str = request.param
    served.kubectl("apply", "-f", str(ROOT / "metacontroller" / f"{kind}.yaml"))
    wait_until(lambda: born_with(client) == [KINDS[kind]], "the policy to be at work")
    yield kind
    served.kubectl("delete", "--ignore-not-found", "-f", str(ROOT / "metacontroller" / f"{kind}.yaml"))
    wait_until(lambda: born_with(client) == [], "the policy to see that its controller is gone")


def born_with(client: ApiClient, *finalizers: str) -> list[str] | None:
    """Return the finalizers of a new resource, created with these; None while the policies do not know its schema."""
    return client.finalizers_at_birth(manifest("probe", *finalizers))


def shipped_controller(kind: str) -> dict[str, Any]:
    """Return the shipped controller of PostgresWriters."""
    return documents((ROOT / "metacontroller" / f"{kind}.yaml").read_text(encoding="utf-8"))[0]


def manifest(name: str, *finalizers: str) -> dict[str, Any]:
    made = resource("default", name)
    if finalizers:
        made["metadata"]["finalizers"] = list(finalizers)
    return made


def test_what_is_there_is_kept_and_nothing_is_there_twice(client: ApiClient, kind: str) -> None:
    own = KINDS[kind]
    assert born_with(client, "example.com/a") == ["example.com/a", own]
    assert born_with(client, own, "example.com/a") == [own, "example.com/a"]
    empty = manifest("probe")
    empty["metadata"]["finalizers"] = []
    assert client.finalizers_at_birth(empty) == [own]
    empty["metadata"]["finalizers"] = None
    assert client.finalizers_at_birth(empty) == [own]


def test_a_row_has_the_finalizer_of_its_own_controller(served: ApiServer, kind: str) -> None:
    row = {
        "apiVersion": "demo.yash.com/v1alpha1",
        "kind": "PostgresRow",
        "metadata": {"name": "probe", "namespace": "default"},
        "spec": {"table": "tenants"},
    }

    def born() -> list[str]:
        made = served.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", input=json.dumps(row), check=False)
        return json.loads(made.stdout)["metadata"].get("finalizers", []) if made.returncode == 0 else ["unknown yet"]

    own = COMPOSITE + "-row" if kind == "composite" else DECORATOR
    wait_until(lambda: born() == [own], "the policy to see the controller of rows")
    served.kubectl("delete", "--ignore-not-found", "-f", str(ROOT / "metacontroller" / f"{kind}.yaml"))
    wait_until(lambda: born() == [], "the policy to see that it is gone")


@pytest.mark.parametrize("mode", [(), ("--server-side",)], ids=["client-side", "server-side"])
def test_who_applies_again_neither_sees_nor_removes_it(
    served: ApiServer, client: ApiClient, kind: str, mode: tuple[str, ...]
) -> None:
    name = f"applied-{next(_numbers)}"
    text = json.dumps(manifest(name))
    for _ in range(2):
        served.kubectl("apply", *mode, "-f", "-", input=text)
        found = client.get("default", name)
        assert found is not None
        assert found["metadata"]["finalizers"] == [KINDS[kind]]
        assert "f:finalizers" not in json.dumps(found["metadata"]["managedFields"])
    shown = served.kubectl("diff", *mode, "-f", "-", input=text, check=False)
    assert (shown.returncode, shown.stdout) == (0, "")
    text = json.dumps(manifest(name) | {"spec": {**manifest(name)["spec"], "age": 24}})
    served.kubectl("apply", *mode, "-f", "-", input=text)
    assert client.request("GET", path_of("default", name))["metadata"]["finalizers"] == [KINDS[kind]]
    remove(client, name)


def test_one_that_was_taken_away_stays_away(client: ApiClient, kind: str) -> None:
    """A resource that its controller released may go; only a new one gets the finalizer."""
    name = f"released-{next(_numbers)}"
    client.create(manifest(name))
    client.merge("default", name, {"metadata": {"finalizers": None}})
    changed = client.edit("default", name, age=24)
    assert "finalizers" not in changed["metadata"]
    client.delete("default", name)
    assert client.get("default", name) is None


@pytest.mark.parametrize(
    "change",
    [
        {"labelSelector": {"matchLabels": {"shard": "a"}}},
        {"resource": "configmaps"},
        {"apiVersion": "example.com/v1"},
    ],
    ids=["selector", "another-resource", "another-group"],
)
def test_a_controller_that_does_not_manage_every_resource_adds_its_finalizer_itself(
    served: ApiServer, client: ApiClient, kind: str, change: dict[str, Any]
) -> None:
    shipped = shipped_controller(kind)
    spec = shipped["spec"]
    rule = spec["parentResource"] if kind == "composite" else spec["resources"][0]
    rule |= change
    served.kubectl("apply", "-f", "-", input=yaml.safe_dump(shipped))
    wait_until(lambda: born_with(client) == [], "the policy to see the change")


def test_a_controller_that_is_being_deleted_gives_none(served: ApiServer, client: ApiClient, kind: str) -> None:
    name = f"{kind}controllers.metacontroller.k8s.io/postgres-writer"
    served.kubectl("patch", name, "--type=merge", "-p", '{"metadata": {"finalizers": ["example.com/held"]}}')
    served.kubectl("delete", name, "--wait=false")
    wait_until(lambda: born_with(client) == [], "the policy to see the deletion")
    served.kubectl("patch", name, "--type=merge", "-p", '{"metadata": {"finalizers": null}}')


def test_without_a_controller_or_with_one_that_is_not_ours_there_is_none(served: ApiServer, client: ApiClient) -> None:
    shipped = shipped_controller("composite")
    served.kubectl("apply", "-f", "-", input=yaml.safe_dump(shipped))
    wait_until(lambda: born_with(client) == [COMPOSITE], "the policy to be at work")
    served.kubectl("delete", "compositecontrollers.metacontroller.k8s.io", "postgres-writer")
    wait_until(lambda: born_with(client) == [], "the policy to see that its controller is gone")
    shipped["metadata"] |= {"name": "another", "labels": {"app.kubernetes.io/name": "another"}}
    served.kubectl("apply", "-f", "-", input=yaml.safe_dump(shipped))
    client.create(manifest("unmanaged"))
    client.delete("default", "unmanaged")
    assert client.get("default", "unmanaged") is None
    served.kubectl("delete", "compositecontrollers.metacontroller.k8s.io", "another")


def remove(client: ApiClient, name: str) -> None:
    """Delete a resource as if its controller had finished with it."""
    client.delete("default", name)
    client.merge("default", name, {"metadata": {"finalizers": None}})

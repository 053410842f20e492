"""The component deletion-protection on a real API server: what carries the annotation is not deleted, by any way."""

from __future__ import annotations

import json
from itertools import count
from typing import TYPE_CHECKING

import pytest

from cluster.conftest import apply_crd
from cluster.installation import RESOURCE, ROWS
from postgres_writer.core.row import POSTGRES_ROW
from support.api_client import ApiClient, ApiError, path_of, resource
from support.custom_resource import Resource
from support.documents import guide
from support.manifests import K8S, overlay, shell
from support.waiting import wait_until

if TYPE_CHECKING:
    from support.apiserver import ApiServer

ANNOTATION = "demo.yash.com/protected"
_numbers = count(1)
REFUSAL = f"is protected from deletion; remove its annotation {ANNOTATION} first"


@pytest.fixture(scope="module")
def protected(empty: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> ApiServer:
    """Give an API server with the CRD and the policy at work; the policy has no effect on the tests of others."""
    server = empty
    folder = overlay(tmp_path_factory.mktemp("protection"), ["deletion-protection"], base=K8S.parent / "crds")
    server.kubectl("apply", "--server-side", "--validate=strict", "-k", str(folder))
    server.kubectl("wait", "--for=condition=Established", "--timeout=60s", f"crd/{RESOURCE}")
    create(server, "default", "probe", protect="true")
    wait_until(lambda: not delete(server, RESOURCE, "probe", dry_run=True), "the policy to be at work")
    return server


def create(server: ApiServer, namespace: str, name: str, protect: str | None = None) -> None:
    manifest = resource(namespace, name)
    if protect is not None:
        manifest["metadata"]["annotations"] = {ANNOTATION: protect}
    server.kubectl("create", "-f", "-", input=json.dumps(manifest))


def delete(server: ApiServer, kind: str, name: str, namespace: str = "default", *, dry_run: bool = False) -> str:
    """Ask for a deletion; return what it printed when it was allowed, or an empty text when the policy refused it."""
    tried = [f"--dry-run={'server' if dry_run else 'none'}", "--wait=false"]
    done = server.kubectl("-n", namespace, "delete", kind, name, *tried, check=False)
    assert done.returncode == 0 or REFUSAL in done.stderr, done.stderr
    return done.stdout if done.returncode == 0 else ""


@pytest.fixture
def own_namespace(protected: ApiServer) -> str:
    name = f"case-{next(_numbers)}"
    protected.kubectl("create", "namespace", name)
    return name


NO = [None, "", "0", *(form(word) for word in ("false", "no", "off", "n") for form in (str, str.title, str.upper))]
YES = ["true", "True", "yes", "on", "1", "2", "flase", " false", "nein"]


def test_the_annotation_is_read_as_a_boolean_and_what_cannot_be_read_protects(
    protected: ApiServer, own_namespace: str
) -> None:
    items = []
    for number, value in enumerate([*NO, *YES]):
        items.append(resource(own_namespace, f"one-{number}"))
        items[-1]["metadata"]["annotations"] = {} if value is None else {ANNOTATION: value}
    protected.kubectl("create", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    names = [item["metadata"]["name"] for item in items]
    protected.kubectl("-n", own_namespace, "delete", RESOURCE, *names, "--wait=false", check=False)
    left = json.loads(protected.kubectl("-n", own_namespace, "get", RESOURCE, "-o", "json").stdout)["items"]
    assert {item["metadata"].get("annotations", {}).get(ANNOTATION) for item in left} == set(YES)
    assert len(left) == len(YES)


def test_the_refusal_names_the_resource_and_the_way_out(protected: ApiServer, own_namespace: str) -> None:
    create(protected, own_namespace, "one", "true")
    refused = protected.kubectl("-n", own_namespace, "delete", RESOURCE, "one", check=False)
    assert f"PostgresWriter {own_namespace}/one {REFUSAL}" in refused.stderr
    protect, unprotect, _ = guide("Protect from deletion")
    shell(protected, unprotect, NAMESPACE=own_namespace, NAME="one")
    assert delete(protected, RESOURCE, "one", own_namespace)
    create(protected, own_namespace, "two")
    shell(protected, protect, NAMESPACE=own_namespace, NAME="two")
    assert not delete(protected, RESOURCE, "two", own_namespace)


def test_a_row_is_protected_in_the_same_way(protected: ApiServer, own_namespace: str) -> None:
    Resource(protected, own_namespace, "one", POSTGRES_ROW).create(
        {"table": "tenants"}, annotations={ANNOTATION: "true"}
    )
    refused = protected.kubectl("-n", own_namespace, "delete", ROWS, "one", check=False)
    assert f"PostgresRow {own_namespace}/one {REFUSAL}" in refused.stderr
    protected.kubectl("-n", own_namespace, "annotate", ROWS, "one", f"{ANNOTATION}-")
    assert delete(protected, ROWS, "one", own_namespace)


def test_a_collection_is_not_deleted_over_a_protected_one(protected: ApiServer, own_namespace: str) -> None:
    create(protected, own_namespace, "guarded", "true")
    client = ApiClient(protected.url, protected.token, str(protected.certificate))
    with pytest.raises(ApiError, match=REFUSAL):
        client.request("DELETE", path_of(own_namespace))
    assert protected.kubectl("-n", own_namespace, "get", RESOURCE, "guarded").returncode == 0


def test_a_namespace_that_is_deleted_stays_terminating_until_the_annotation_is_gone(
    protected: ApiServer, own_namespace: str
) -> None:
    create(protected, own_namespace, "guarded", "true")
    create(protected, own_namespace, "plain")
    assert delete(protected, "namespace", own_namespace)

    def said() -> str:
        path = '{.status.conditions[?(@.type=="NamespaceDeletionContentFailure")].message}'
        return protected.kubectl("get", "namespace", own_namespace, "-o", f"jsonpath={path}").stdout

    wait_until(lambda: REFUSAL in said(), "the namespace's condition that names the protected resource")
    assert protected.kubectl("-n", own_namespace, "get", RESOURCE, "guarded").returncode == 0
    _, unprotect, _ = guide("Protect from deletion")
    shell(protected, unprotect, NAMESPACE=own_namespace, NAME="guarded")
    gone = ("get", "namespace", own_namespace)
    wait_until(lambda: protected.kubectl(*gone, check=False).returncode != 0, "the end of the namespace")


def test_a_namespace_and_the_definition_are_protected_in_the_same_way(protected: ApiServer, own_namespace: str) -> None:
    targets = [("namespace", own_namespace), ("crd", RESOURCE), ("crd", ROWS)]
    assert all(delete(protected, kind, name, dry_run=True) for kind, name in targets)
    shell(protected, guide("Protect from deletion")[2], NAMESPACE=own_namespace)
    assert not any(delete(protected, kind, name) for kind, name in targets)
    for kind, name in targets:
        protected.kubectl("annotate", kind, name, f"{ANNOTATION}-")
    assert all(delete(protected, kind, name, dry_run=True) for kind, name in targets)


def test_a_definition_without_the_annotation_takes_protected_resources_along(protected: ApiServer) -> None:
    create(protected, "default", "guarded", "true")
    protected.kubectl("delete", "crd", RESOURCE, "--timeout=60s")
    assert protected.kubectl("get", "crd", RESOURCE, check=False).returncode != 0
    apply_crd(protected)
    assert "guarded" not in protected.kubectl("-n", "default", "get", RESOURCE, "-o", "name").stdout

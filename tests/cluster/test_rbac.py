"""Who may do what with PostgresWriters, asked of the real API server's authorizer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml

from support.manifests import K8S, prepare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from support.apiserver import ApiServer

    Question = tuple[str, str]

METACONTROLLER = "system:serviceaccount:metacontroller:metacontroller"
HOOK_SERVER = "system:serviceaccount:postgres-writer:postgres-writer"
READ = ("get", "list", "watch")
WRITE = ("create", "update", "patch", "delete", "deletecollection")
RESOURCES = ("postgreswriters.demo.yash.com", "postgresrows.demo.yash.com")
RESOURCE = RESOURCES[0]


def on_both(*verbs: str, status: str) -> set[tuple[str, str]]:
    """Return the rights to do this with both kinds, and one thing with their status."""
    return {(kind, verb) for kind in RESOURCES for verb in verbs} | {(f"{kind}/status", status) for kind in RESOURCES}


ALLOWED = {
    "viewer": on_both(*READ, status="get"),
    "editor": on_both(*READ, *WRITE, status="get"),
    "administrator": on_both(*READ, *WRITE, status="get"),
    METACONTROLLER: on_both(*READ, "update", status="update") | {("events", "create"), ("events", "patch")},
    HOOK_SERVER: set(),
}
QUESTIONS = [
    *((kind, verb) for kind in RESOURCES for verb in (*READ, *WRITE)),
    *((f"{kind}/status", verb) for kind in RESOURCES for verb in ("get", "update", "patch")),
    ("events", "create"),
    ("events", "patch"),
    ("secrets", "get"),
]
# what the roles view, edit and admin of Kubernetes itself say about other kinds is not ours to test
THEIRS = {("events", "create"), ("events", "patch"), ("secrets", "get")}


@pytest.fixture(scope="module")
def installed(cluster: ApiServer) -> ApiServer:
    prepare(cluster)
    cluster.kubectl("apply", "--server-side", "-k", str(K8S / "base"))
    return cluster


def granted(server: ApiServer, user: str, namespace: str, questions: Sequence[Question]) -> set[Question]:
    """Return those questions that the authorizer answers with yes; one call of kubectl asks them all."""
    asked = [
        {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {"namespace": namespace, "verb": verb, **attributes(resource)}},
        }
        for resource, verb in questions
    ]
    # most users may not read the definitions with which kubectl would validate
    command = ("create", "--validate=false", "-f", "-", "-o", "jsonpath={.status.allowed} ")
    answers = server.kubectl(*command, input=yaml.safe_dump_all(asked), user=user).stdout.split()
    assert len(answers) == len(asked)
    return {question for question, answer in zip(questions, answers, strict=True) if answer == "true"}


def attributes(resource: str) -> dict[str, str]:
    """Take resource.group/subresource apart."""
    name, _, subresource = resource.partition("/")
    plural, _, group = name.partition(".")
    return {"resource": plural, "group": group, "subresource": subresource}


@pytest.mark.parametrize("user", [METACONTROLLER, HOOK_SERVER])
def test_a_service_account_may_do_what_it_needs_and_nothing_else(
    installed: ApiServer, namespace: str, user: str
) -> None:
    assert granted(installed, user, namespace, QUESTIONS) == ALLOWED[user]


@pytest.mark.parametrize(("user", "role"), [("viewer", "view"), ("editor", "edit"), ("administrator", "admin")])
def test_a_user_gets_the_rights_with_the_role_in_the_namespace(
    installed: ApiServer, namespace: str, user: str, role: str
) -> None:
    questions = [question for question in QUESTIONS if question not in THEIRS]
    assert not granted(installed, user, namespace, questions)
    installed.kubectl("-n", namespace, "create", "rolebinding", user, f"--clusterrole={role}", f"--user={user}")
    assert granted(installed, user, namespace, questions) == ALLOWED[user]
    assert not granted(installed, user, "default", questions)


def test_metacontroller_can_keep_a_finalizer_and_write_status_with_its_role_alone(
    installed: ApiServer, namespace: str
) -> None:
    spec = {"table": "students", "name": "alex", "age": 23, "country": "canada"}
    resource = {
        "apiVersion": "demo.yash.com/v1",
        "kind": "PostgresWriter",
        "metadata": {"name": "one", "namespace": namespace},
        "spec": spec,
    }
    installed.kubectl("create", "-f", "-", input=json.dumps(resource))
    read = ("-n", namespace, "get", RESOURCE, "one", "-o", "json")
    found = json.loads(installed.kubectl(*read, user=METACONTROLLER).stdout)
    found["metadata"]["finalizers"] = ["metacontroller.io/compositecontroller-postgres-writer"]
    installed.kubectl("replace", "-f", "-", input=json.dumps(found), user=METACONTROLLER)
    found = json.loads(installed.kubectl(*read, user=METACONTROLLER).stdout)
    found["status"] = {"observedTable": "students", "tables": ["students"]}
    installed.kubectl("replace", "--subresource=status", "-f", "-", input=json.dumps(found), user=METACONTROLLER)
    found = json.loads(installed.kubectl(*read, user=METACONTROLLER).stdout)
    assert found["status"]["observedTable"] == "students"
    found["metadata"]["finalizers"] = []
    installed.kubectl("replace", "-f", "-", input=json.dumps(found), user=METACONTROLLER)


def test_the_hook_server_gets_no_token(installed: ApiServer) -> None:
    account = installed.kubectl("-n", "postgres-writer", "get", "serviceaccount", "postgres-writer", "-o", "json")
    assert json.loads(account.stdout)["automountServiceAccountToken"] is False
    pods = installed.kubectl("-n", "postgres-writer", "get", "deployment", "postgres-writer", "-o", "json")
    assert json.loads(pods.stdout)["spec"]["template"]["spec"]["automountServiceAccountToken"] is False

"""Install, uninstall, and uninstall in the wrong order, with the commands of docs/install.md and docs/switch.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cluster.installation import RESOURCE, ROWS, Installation, install_steps
from cluster.played_programs import check_transcript, played_programs
from support.documents import guide, transcript
from support.manifests import COMPOSITE, K8S, shell
from support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from support.apiserver import ApiServer

SCRIPT = "k8s/finalizers.sh"


@pytest.fixture
def used(installation: Installation, tmp_path: Path) -> Installation:
    """Give an install with two resources and their rows, whose Metacontroller and server are gone."""
    with installation.served(tmp_path):
        installation.create("one")
        installation.create("two")
        installation.wait_ready("one", "two")
    return installation


def test_the_guide_s_install_serves_the_sample(installation: Installation, tmp_path: Path) -> None:
    steps = install_steps()
    played = played_programs(tmp_path, installation.cluster, installation.database)

    def run(command: str) -> str:
        return shell(installation.cluster, command, check=True, **played).stdout

    installation.database.query("DROP TABLE students")
    with installation.served(tmp_path):
        run(f"{steps.rollout}\n{steps.retry}\n{steps.rows}")
        (shown,) = guide("Install", "console")
        for command, output in transcript(shown):
            check_transcript(run, command, output)
    assert installation.database.rows() == [("default/sample-student", "alex", 23, "canada")]
    found = installation.database.query("SELECT plan, seats, limits, regions, trial_ends FROM tenants")
    assert found == [("gold", 250, {"cpu": 4, "memory": "8Gi"}, ["eu", "us"], None)]


def test_the_guide_s_table_and_grants_are_enough(installation: Installation, tmp_path: Path) -> None:
    database = installation.database
    database.query("DROP TABLE students")
    database.query((K8S / "samples" / "students.sql").read_text())
    (grants,) = guide("What you need", "sql")
    database.query(grants)
    try:
        role = type(database)({**database.connect, "user": "postgres_writer"})
        with Installation(installation.cluster, role).served(tmp_path):
            installation.create("one")
            installation.wait_ready("one")
            assert installation.ids() == ["one"]
            installation.delete("one")
            wait_until(lambda: not installation.finalizers(), "the deletion")
        assert installation.ids() == []
    finally:
        database.query("DROP OWNED BY postgres_writer; DROP ROLE postgres_writer")


def test_the_documented_order_deletes_rows_and_everything_else(installation: Installation, tmp_path: Path) -> None:
    resources, _, everything = guide("Uninstall")
    with installation.served(tmp_path):
        installation.create("one")
        installation.create("two")
        installation.wait_ready("one", "two")
        installation.database.query("CREATE TABLE tenants (id text PRIMARY KEY, plan text)")
        installation.create_row("one", plan="gold")
        installation.cluster.kubectl("wait", "--for=condition=Ready", "--timeout=60s", f"{ROWS}/one", "-n", "default")
        shell(installation.cluster, resources)
        assert installation.ids() == []
        assert installation.database.query("SELECT * FROM tenants") == []
        shell(installation.cluster, everything)
    for gone in (
        ("namespace", "postgres-writer"),
        ("crd", RESOURCE),
        ("crd", ROWS),
        ("compositecontrollers.metacontroller.k8s.io", "postgres-writer"),
        ("compositecontrollers.metacontroller.k8s.io", "postgres-writer-row"),
        ("clusterrole", "postgres-writer-edit"),
    ):
        assert not installation.exists(*gone)


def test_rows_stay_when_the_guide_s_command_said_so_before(installation: Installation, tmp_path: Path) -> None:
    resources, retain, _ = guide("Uninstall")
    with installation.served(tmp_path):
        installation.create("one")
        installation.create("two")
        installation.wait_ready("one", "two")
        shell(installation.cluster, retain)
        shell(installation.cluster, resources)
    assert installation.finalizers() == {}
    assert installation.ids() == ["one", "two"]


def test_without_metacontroller_a_deletion_hangs_until_the_guide_s_command_frees_it(used: Installation) -> None:
    used.delete("one")
    assert used.finalizers() == {"one": [COMPOSITE], "two": [COMPOSITE]}
    (command,) = guide("Uninstall in the wrong order")
    shell(used.cluster, command)
    assert used.finalizers() == {"two": []}
    assert used.ids() == ["one", "two"]


def test_everything_deleted_first_is_freed_too(used: Installation) -> None:
    used.cluster.kubectl("delete", "-k", str(K8S), "--wait=false")
    assert used.exists("crd", RESOURCE)  # it waits for its resources
    (command,) = guide("Uninstall in the wrong order")
    shell(used.cluster, command)
    wait_until(lambda: not used.exists("crd", RESOURCE), "the end of the CustomResourceDefinition")
    assert used.ids() == ["one", "two"]


def test_with_metacontroller_s_own_kinds_gone_the_second_line_is_enough(used: Installation) -> None:
    crds = ("compositecontrollers.metacontroller.k8s.io", "decoratorcontrollers.metacontroller.k8s.io")
    used.cluster.kubectl("delete", "crd", *crds)
    used.delete("one", "two")
    (command,) = guide("Uninstall in the wrong order")
    shell(used.cluster, command.splitlines()[1])
    assert used.finalizers() == {}
    shell(used.cluster, "kubectl delete -k k8s --ignore-not-found", check=False)
    # kubectl complains of the missing kind, deletes the rest, and does not wait for it
    wait_until(lambda: not used.exists("crd", RESOURCE), "the end of the CustomResourceDefinition")
    wait_until(lambda: not used.exists("namespace", "postgres-writer"), "the end of the namespace")


def test_installing_again_finishes_what_hung(used: Installation, tmp_path: Path) -> None:
    used.cluster.kubectl("delete", "compositecontrollers.metacontroller.k8s.io", "--all")
    used.delete("one")
    shell(used.cluster, install_steps().apply)
    with used.served(tmp_path):
        wait_until(lambda: "one" not in used.finalizers(), "the deletion")
    assert used.ids() == ["two"]


def test_finalizers_of_an_installed_controller_are_not_taken_off(used: Installation) -> None:
    refused = shell(used.cluster, f"{SCRIPT} remove {COMPOSITE}", check=False)
    assert refused.returncode == 1
    assert "is still installed" in refused.stdout
    assert "kubectl delete compositecontroller.metacontroller.k8s.io/postgres-writer" in refused.stdout
    assert used.finalizers() == {"one": [COMPOSITE], "two": [COMPOSITE]}


def test_only_the_finalizer_that_is_named_goes(installation: Installation) -> None:
    for name, finalizers in {
        "first": (COMPOSITE, "a.example.com/x"),
        "last": ("a.example.com/x", "b.example.com/y", COMPOSITE),
        "123": (COMPOSITE,),
        "without": ("a.example.com/x",),
    }.items():
        installation.create(name, finalizers=finalizers)
    installation.cluster.kubectl("delete", "compositecontrollers.metacontroller.k8s.io", "--all")
    listed = shell(installation.cluster, f"{SCRIPT} list {COMPOSITE}").stdout.split()
    assert sorted(set(listed)) == ["PostgresWriter", "default/123", "default/first", "default/last"]
    shell(installation.cluster, f"{SCRIPT} remove {COMPOSITE}")
    assert installation.finalizers() == {
        "123": [],
        "first": ["a.example.com/x"],
        "last": ["a.example.com/x", "b.example.com/y"],
        "without": ["a.example.com/x"],
    }
    assert shell(installation.cluster, f"{SCRIPT} list {COMPOSITE}").stdout == ""


@pytest.mark.parametrize(
    "arguments",
    ["", "list", "erase x", "remove a b", "handover a", "remove 'a b'", "handover a a", "hold a", "release"],
)
def test_wrong_arguments_are_refused_with_a_sentence(empty: ApiServer, arguments: str) -> None:
    refused = shell(empty, f"{SCRIPT} {arguments}", check=False)
    assert refused.returncode == 1
    assert refused.stdout.startswith("finalizers.sh: ")

"""Switch from composite to decorator and back with the commands of docs/switch.md, on a live install."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.installation import ROWS, Installation
from support.documents import guide
from support.manifests import COMPOSITE, DECORATOR, HOLD, K8S, overlay, shell
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


BOTH = frozenset({"composite", "decorator"})


def steps(*, back: bool = False) -> list[str]:
    """Return the guide's three code blocks, for the way back with the two kinds exchanged."""
    commands = [command.replace("sleep 15", "sleep 1") for command in guide("Switch controllers")]
    if not back:
        return commands
    swapped = [command.replace("composite", "#").replace("decorator", "composite") for command in commands]
    return [command.replace("#", "decorator") for command in swapped]


def switch(installation: Installation, commands: list[str], target: Path, meanwhile: Callable[[], None]) -> None:
    """Run the three steps, and `meanwhile` while no controller is installed."""
    delete_old, apply_new, hand_over = commands
    shell(installation.cluster, delete_old)
    meanwhile()
    shell(installation.cluster, apply_new, OVERLAY=str(target))
    shell(installation.cluster, hand_over)


def test_there_and_back_no_row_is_lost_and_the_two_never_work_together(
    installation: Installation, tmp_path: Path
) -> None:
    names = ["deleted-meanwhile", "one", "two"]
    with installation.served(tmp_path) as metacontroller:
        for name in names:
            installation.create(name)
        installation.database.query("CREATE TABLE tenants (id text PRIMARY KEY, plan text)")
        installation.create_row("one", plan="gold")
        installation.wait_ready(*names)
        wait_until(lambda: installation.finalizers(ROWS) == {"one": [f"{COMPOSITE}-row"]}, "the row's own controller")
        rows = installation.database.query(
            "SELECT id, xmin::text FROM students WHERE id != 'default/deleted-meanwhile'"
        )

        def change_meanwhile() -> None:
            installation.delete("deleted-meanwhile")
            installation.create("created-meanwhile")
            assert installation.ids() == names

        switch(installation, steps(), overlay(tmp_path / "decorator", ["decorator"]), change_meanwhile)
        installation.wait_ready("one", "two", "created-meanwhile")
        assert installation.finalizers() == {name: [DECORATOR] for name in ("one", "two", "created-meanwhile")}
        assert installation.finalizers(ROWS) == {"one": [DECORATOR]}
        assert installation.ids() == ["created-meanwhile", "one", "two"]

        switch(installation, steps(back=True), K8S, lambda: installation.delete("created-meanwhile"))
        wait_until(lambda: installation.finalizers() == {"one": [COMPOSITE], "two": [COMPOSITE]}, "the way back")
        assert installation.finalizers(ROWS) == {"one": [f"{COMPOSITE}-row"]}
        assert installation.database.query("SELECT * FROM tenants") == [("row/default/one", "gold")]
        assert installation.ids() == ["one", "two"]
        # xmin is the transaction that last wrote a row: no one wrote these two
        assert installation.database.query("SELECT id, xmin::text FROM students") == rows

        installation.delete("one", "two")
        wait_until(lambda: not installation.finalizers(), "the deletion")
        assert installation.ids() == []
    assert BOTH not in metacontroller.at_work


def test_nothing_is_handed_over_that_the_new_controller_does_not_keep(
    installation: Installation, tmp_path: Path
) -> None:
    with installation.served(tmp_path):
        installation.create("kept")
        installation.create("deleted")
        installation.wait_ready("kept", "deleted")
    delete_old, apply_new, hand_over = steps()
    shell(installation.cluster, delete_old)
    installation.delete("deleted")
    shell(installation.cluster, apply_new, OVERLAY=str(overlay(tmp_path / "decorator", ["decorator"])))
    once = hand_over.replace("until ", "").split("\ndo ")[0]
    refused = shell(installation.cluster, once, check=False)  # no controller manages the resources yet
    assert refused.returncode == 1
    assert "default/kept" in refused.stdout
    assert "default/deleted" in refused.stdout
    assert installation.finalizers() == {"kept": [COMPOSITE, HOLD], "deleted": [COMPOSITE, HOLD]}
    with installation.served(tmp_path):
        shell(installation.cluster, hand_over)
        installation.wait_ready("kept")
    assert installation.finalizers() == {"kept": [DECORATOR]}
    assert installation.ids() == ["kept"]


def test_a_hand_over_is_refused_while_the_old_controller_is_installed(installation: Installation) -> None:
    installation.create("one", finalizers=(COMPOSITE, DECORATOR))
    refused = shell(installation.cluster, f"k8s/finalizers.sh handover {COMPOSITE} {DECORATOR}", check=False)
    assert refused.returncode == 1
    assert "is still installed" in refused.stdout
    assert installation.finalizers() == {"one": [COMPOSITE, DECORATOR]}


def test_nothing_vanishes_when_the_old_controller_s_finalizers_go_with_it(
    installation: Installation, tmp_path: Path
) -> None:
    delete_old, apply_new, hand_over = steps()
    with installation.served(tmp_path):
        for name in ("kept", "deleted"):
            installation.create(name)
        installation.wait_ready("kept", "deleted")
        shell(installation.cluster, delete_old)
        shell(installation.cluster, f"k8s/finalizers.sh remove {COMPOSITE}")  # as a later Metacontroller may do
        installation.delete("deleted")
        assert installation.finalizers() == {"kept": [HOLD], "deleted": [HOLD]}
        assert installation.ids() == ["deleted", "kept"]
        shell(installation.cluster, apply_new, OVERLAY=str(overlay(tmp_path / "decorator", ["decorator"])))
        shell(installation.cluster, hand_over)
        wait_until(lambda: installation.finalizers() == {"kept": [DECORATOR]}, "the end of the deletion")
    assert installation.ids() == ["kept"]


def test_hold_fails_while_something_that_it_cannot_hold_is_being_deleted(installation: Installation) -> None:
    installation.create("leaving", finalizers=(COMPOSITE,))
    installation.create("staying", finalizers=(COMPOSITE,))
    installation.delete("leaving")
    refused = shell(installation.cluster, "k8s/finalizers.sh hold", check=False)
    assert refused.returncode == 1
    complaint = refused.stdout.partition("These resources are not held")[2]
    assert "default/leaving" in complaint
    assert "staying" not in complaint
    assert installation.finalizers() == {"leaving": [COMPOSITE], "staying": [COMPOSITE, HOLD]}
    installation.delete("staying")
    shell(installation.cluster, 'kubectl patch pgw leaving --type=merge -p \'{"metadata": {"finalizers": null}}\'')
    shell(installation.cluster, "k8s/finalizers.sh hold")  # what is held may be deleted


def test_hold_adds_to_the_finalizers_that_are_there_and_can_be_repeated(installation: Installation) -> None:
    installation.create("none")
    installation.create("two", finalizers=(COMPOSITE, "a.example.com/x"))
    for _ in range(2):
        shell(installation.cluster, "k8s/finalizers.sh hold")
        assert installation.finalizers() == {"none": [HOLD], "two": [COMPOSITE, "a.example.com/x", HOLD]}
    listed = shell(installation.cluster, f"k8s/finalizers.sh list {HOLD}").stdout.split()
    assert listed == ["PostgresWriter", "default/none", "PostgresWriter", "default/two"]
    shell(installation.cluster, f"k8s/finalizers.sh remove {HOLD}")
    assert installation.finalizers() == {"none": [], "two": [COMPOSITE, "a.example.com/x"]}


def test_only_what_the_new_controller_keeps_is_released(installation: Installation) -> None:
    installation.create("kept", finalizers=(DECORATOR,))
    installation.create("not-yet")
    shell(installation.cluster, "k8s/finalizers.sh hold")
    refused = shell(installation.cluster, f"k8s/finalizers.sh release {DECORATOR}", check=False)
    assert refused.returncode == 1
    assert "default/not-yet" in refused.stdout
    assert "default/kept\n" not in refused.stdout
    assert installation.finalizers() == {"kept": [DECORATOR], "not-yet": [HOLD]}


def test_an_install_without_resources_is_held_and_released(installation: Installation) -> None:
    shell(installation.cluster, f"k8s/finalizers.sh hold && k8s/finalizers.sh release {DECORATOR}")

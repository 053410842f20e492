"""`postgres-writer audit` with a real kubectl, a real API server and a real database.

Metacontroller is not there; what it would do (write a row, record a status) the tests do.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cluster.audit_setting import PGR, PGW, PROGRAM, Asked, Setting
from postgres_writer.audit.resources import Kubectl
from postgres_writer.errors import ListExpired

if TYPE_CHECKING:
    from support.apiserver import ApiServer


def test_repair_asks_for_a_sync_of_what_is_missing_or_differs_and_of_nothing_else(setting: Setting) -> None:
    setting.apply("ok", "missing", "differs", "paused")
    setting.kubectl("annotate", PGW, "paused", "demo.yash.com/paused=true")
    setting.row("ok", "differs", "orphan")
    setting.database.query("UPDATE students SET age = 1 WHERE id LIKE '%%/differs'")
    expected = [("missing", "missing"), ("missing", "paused"), ("differs", "differs"), ("no-resource", "orphan")]
    assert setting.findings() == expected
    assert setting.annotated() == set(), "looking changes nothing"
    done = setting.audit("--repair")
    assert done.returncode == 1
    assert "Requested a sync of 2 resources" in done.stderr
    assert setting.annotated() == {"missing", "differs"}
    generations = setting.kubectl("get", PGW, "-o", "jsonpath={.items[*].metadata.generation}")
    assert set(generations.split()) == {"1"}, "an annotation is no change of the spec"
    assert setting.rows() == ["differs", "ok", "orphan"], "the rows are the hook's to write"
    first = setting.kubectl("get", PGW, "missing", "-o", "jsonpath={.metadata.annotations}")
    time.sleep(1.1)
    setting.audit("--repair")
    assert setting.kubectl("get", PGW, "missing", "-o", "jsonpath={.metadata.annotations}") != first, "requested again"


def test_prune_shows_the_rows_asks_and_deletes_only_those(setting: Setting) -> None:
    setting.apply("kept", "deleting")
    setting.row("kept", "orphan-1", "orphan-2", "deleting")
    setting.kubectl("patch", PGW, "deleting", "--type=merge", '--patch={"metadata":{"finalizers":["test.local/stay"]}}')
    setting.kubectl("delete", PGW, "deleting", "--wait=false")
    asked = Asked(setting, "--prune", f"{setting.namespace}/orphan-1")
    assert "orphan-1" in asked.shown
    assert "orphan-2" not in asked.shown
    assert "test" in asked.shown, "the context is named"
    code, said = asked.answer("n")
    assert (code, "Nothing was deleted." in said) == (1, True)
    assert len(setting.rows()) == 4
    code, said = Asked(setting, "--prune", f"{setting.namespace}/orphan-1").answer("y")
    assert code == 0, said
    assert setting.rows() == ["deleting", "kept", "orphan-2"]
    done = setting.audit("--prune", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 rows deleted." in done.stdout
    assert setting.rows() == ["deleting", "kept"]
    setting.kubectl("patch", PGW, "deleting", "--type=merge", '--patch={"metadata":{"finalizers":null}}')


def test_a_name_that_is_used_again_between_show_and_delete_keeps_its_row(setting: Setting) -> None:
    setting.apply("bystander")
    setting.row("bystander", "back", "gone")
    asked = Asked(setting, "--prune")
    setting.apply("back")
    code, said = asked.answer("y")
    assert code == 1
    assert f"Kept {setting.namespace}/back in public.students: it has a resource again." in said
    assert "1 of 2 rows deleted." in said
    assert setting.rows() == ["back", "bystander"]


def test_a_row_that_changes_or_goes_between_show_and_delete_is_left(setting: Setting) -> None:
    setting.apply("bystander")
    setting.row("bystander", "changed", "gone")
    asked = Asked(setting, "--prune")
    setting.database.query("UPDATE students SET country = 'cuba' WHERE id LIKE '%%/changed'")
    setting.database.query("DELETE FROM students WHERE id LIKE '%%/gone'")
    code, said = asked.answer("yes")
    assert code == 1
    assert "changed in public.students: it is gone, or was changed since it was shown." in said
    assert "gone in public.students: it is gone, or was changed since it was shown." in said
    assert setting.rows() == ["bystander", "changed"]


def test_a_delete_that_is_swallowed_is_not_called_done(setting: Setting) -> None:
    setting.apply("bystander")
    setting.row("bystander", "stuck")
    setting.database.query("CREATE RULE kept AS ON DELETE TO students DO INSTEAD NOTHING")
    done = setting.audit("--prune", "--yes")
    assert done.returncode == 1
    assert "keeps it" in done.stdout
    assert "0 of 1 rows deleted." in done.stdout


def test_a_second_row_that_no_status_lists_can_be_pruned_and_the_first_cannot(setting: Setting) -> None:
    setting.database.create_table("old")
    setting.double()
    about = f"{setting.namespace}/double"
    assert setting.findings("--table", "old") == [("duplicate", "double")]
    assert setting.audit("--prune", about, "--yes").returncode == 2, "without --table old it is recorded nowhere"
    done = setting.audit("--table", "old", "--prune", about, "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert setting.rows() == ["double"]
    assert setting.rows("old") == []


def test_a_second_row_is_kept_once_its_resource_names_that_table(setting: Setting) -> None:
    setting.database.create_table("old")
    setting.double()
    asked = Asked(setting, "--table", "old", "--prune")
    setting.kubectl("patch", PGW, "double", "--type=merge", '--patch={"spec":{"table":"old"}}')
    code, said = asked.answer("y")
    assert (code, "it may be the row that its resource needs" in said) == (1, True)
    assert setting.rows("old") == ["double"]


def test_rows_of_both_kinds_are_repaired_and_pruned_by_their_own_ids(setting: Setting) -> None:
    setting.apply("same", "missing")
    setting.apply_row("same", "gone")
    setting.apply_row("changed", age=24)
    space = setting.namespace
    rows = ("same", "orphan"), ("same", "changed", "orphan")
    setting.row(*rows[0])
    for name in rows[1]:
        setting.database.query("INSERT INTO students VALUES (%s, 'alex', 23, NULL)", f"row/{space}/{name}")
    found = json.loads(setting.audit("-o", "json", "--repair").stdout)["findings"]
    assert [(one["finding"], one["id"]) for one in found] == [
        ("missing", f"row/{space}/gone"),
        ("missing", f"{space}/missing"),
        ("differs", f"row/{space}/changed"),
        ("no-resource", f"row/{space}/orphan"),
        ("no-resource", f"{space}/orphan"),
    ]
    assert (setting.annotated(), setting.annotated(PGR)) == ({"missing"}, {"gone", "changed"})
    done = setting.audit("--prune", f"row/{space}/orphan", "--yes", "--context", "test")
    assert "1 of 1 rows deleted." in done.stdout, done.stdout + done.stderr
    left = {f"{space}/same", f"{space}/orphan", f"row/{space}/same", f"row/{space}/changed"}
    assert {about for about, *_ in setting.database.rows("students")} == left
    asked = Asked(setting, "--prune")
    setting.apply_row("same-2")
    setting.kubectl("delete", PGR, "changed")
    code, said = asked.answer("y")
    assert (code, "1 of 1 rows deleted." in said) == (0, True), said
    asked = Asked(setting, "--prune", f"row/{space}/changed")
    setting.apply_row("changed", age=24)
    code, said = asked.answer("y")
    assert (code, f"Kept row/{space}/changed in public.students: it has a resource again." in said) == (1, True), said


def test_what_a_sync_is_just_doing_is_no_finding(setting: Setting) -> None:
    setting.apply("late")
    done = subprocess.Popen(
        [*setting.command("-o", "json"), "--confirm-after", "3"],
        env=setting.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    time.sleep(2)  # the first look is over, the second is to come
    setting.row("late")
    out, _ = done.communicate(timeout=60)
    assert done.returncode == 0, out
    assert json.loads(out)["findings"] == []


def test_a_namespace_without_any_resource_is_not_emptied_by_mistake(setting: Setting) -> None:
    setting.row("a", "b")
    done = setting.audit("--table", "students", "--prune", "--yes")
    assert done.returncode == 2
    assert "has its row in this database" in done.stderr
    named = ("--table", "students", "--prune", f"{setting.namespace}/a", "--yes")
    done = setting.audit(*named)
    assert done.returncode == 2
    assert "--context" in done.stderr
    assert setting.rows() == ["a", "b"]
    done = setting.audit(*named, "--context", "test")
    assert done.returncode == 0, done.stderr
    assert setting.rows() == ["b"]


def test_nobody_to_ask_means_nothing_is_deleted(setting: Setting) -> None:
    setting.apply("bystander")
    setting.row("bystander", "orphan")
    done = setting.audit("--prune")
    assert done.returncode == 2
    assert "--yes" in done.stderr
    assert setting.rows() == ["bystander", "orphan"]


def test_ids_that_are_not_surplus_are_refused_as_a_whole(setting: Setting) -> None:
    setting.apply("kept")
    setting.row("kept", "orphan")
    done = setting.audit("--prune", f"{setting.namespace}/orphan", f"{setting.namespace}/kept", "--yes")
    assert done.returncode == 2
    assert f"{setting.namespace}/kept" in done.stderr
    assert setting.rows() == ["kept", "orphan"]


def test_a_context_that_is_wrong_and_a_missing_kubectl_are_one_sentence(setting: Setting, tmp_path: Path) -> None:
    setting.apply("ok")
    setting.row("ok")
    wrong = setting.audit("--context", "elsewhere")
    assert wrong.returncode == 2
    assert "elsewhere" in wrong.stderr
    right = setting.audit("--context", "test")
    assert right.returncode == 0, right.stderr
    missing = setting.audit(PATH=str(tmp_path))
    assert missing.returncode == 2
    assert "kubectl is not on PATH" in missing.stderr
    for done in (wrong, missing):
        assert len(done.stderr.splitlines()) == 1


def test_a_list_that_expires_on_the_way_is_told_apart(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, cluster: ApiServer
) -> None:
    setting.apply(*(f"student-{number}" for number in range(6)))
    for name, value in setting.environ.items():
        monkeypatch.setenv(name, value)
    pages = Kubectl().pages(setting.namespace, page=2)
    assert len(next(pages)) == 2
    setting.kubectl("annotate", PGW, "student-1", "changed=since")
    cluster.compact()
    cluster.restart()  # it keeps older states in memory
    with pytest.raises(ListExpired):
        list(pages)


def test_kubectl_s_own_list_says_the_same_as_its_pages(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"student-{number}" for number in range(25)]
    setting.apply(*names)
    setting.row(*names[:20])
    setting.apply_row("student-3")
    printed = setting.kubectl("get", "pgw,pgr", "-o", "json")
    done = subprocess.run(
        [str(PROGRAM), "audit", "-", "-o", "json"],
        input=printed,
        env=setting.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    by_file: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
    assert [(one["finding"], one["id"].partition("/")[2]) for one in by_file] == setting.findings()
    assert ("missing", f"row/{setting.namespace}/student-3") in [(one["finding"], one["id"]) for one in by_file]
    for name, value in setting.environ.items():
        monkeypatch.setenv(name, value)
    pages = list(Kubectl().pages(setting.namespace, page=10))
    assert [len(items) for items in pages] == [10, 10, 5, 1]
    assert [item["metadata"]["name"] for items in pages[:3] for item in items] == sorted(names)

"""`postgres-writer audit` with a real kubectl, a real API server and a real database.

Metacontroller is not there; what it would do (write a row, record a status) the tests do.
"""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from postgres_writer.audit.resources import Kubectl, ListExpired
from support.payloads import recorded
from support.postgres import Database, private_instance

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.apiserver import ApiServer

PROGRAM = Path(sys.executable).with_name("postgres-writer")
ANNOTATION = "demo.yash.com/resync-requested"
PGW = "postgreswriters.demo.yash.com"


@pytest.fixture(scope="module")
def server() -> Iterator[Database]:
    with private_instance() as instance:
        yield instance.maintenance


@pytest.fixture
def database(server: Database) -> Iterator[Database]:
    """Make a database with an empty table students."""
    made = server.create_sibling()
    yield made
    server.drop_sibling(made)


class Setting:
    """A namespace, a database, and the command between them."""

    def __init__(self, cluster: ApiServer, namespace: str, database: Database) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.database = database
        self.environ = {**cluster.environment(), **database.environ}

    def apply(self, *names: str, table: str = "students") -> None:
        """Make resources, with the status that a sync to the table would have left."""
        manifests = [
            {
                "apiVersion": "demo.yash.com/v1",
                "kind": "PostgresWriter",
                "metadata": {"name": name, "namespace": self.namespace},
                "spec": {"table": table, "name": "alex", "age": 23, "country": "canada"},
            }
            for name in names
        ]
        listed = {"apiVersion": "v1", "kind": "List", "items": manifests}
        self.cluster.kubectl("create", "-f", "-", input=json.dumps(listed))
        for name in names:
            patch = json.dumps({"status": recorded(table)})
            self.kubectl("patch", PGW, name, "--subresource=status", "--type=merge", f"--patch={patch}")

    def kubectl(self, *arguments: str) -> str:
        return self.cluster.kubectl(*arguments, "--namespace", self.namespace).stdout

    def row(self, *names: str, table: str = "students") -> None:
        for name in names:
            self.database.query(f"INSERT INTO {table} VALUES (%s, 'alex', 23, 'canada')", f"{self.namespace}/{name}")

    def rows(self, table: str = "students") -> list[str]:
        return [about.partition("/")[2] for about, *_ in self.database.rows(table)]

    def annotated(self) -> set[str]:
        """Return the names of the resources for which a sync was asked."""
        items = json.loads(self.kubectl("get", PGW, "-o", "json"))["items"]
        return {item["metadata"]["name"] for item in items if ANNOTATION in item["metadata"].get("annotations", {})}

    def command(self, *arguments: str) -> list[str]:
        return [str(PROGRAM), "audit", "-n", self.namespace, "--confirm-after", "0.1", *arguments]

    def audit(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env={**self.environ, **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )

    def findings(self, *arguments: str) -> list[tuple[str, str]]:
        done = self.audit("-o", "json", *arguments)
        assert done.returncode in (0, 1), done.stderr
        found = [(one["finding"], one["id"].partition("/")[2]) for one in json.loads(done.stdout)["findings"]]
        assert done.returncode == int(bool(found))
        return found


@pytest.fixture
def setting(cluster: ApiServer, namespace: str, database: Database) -> Setting:
    return Setting(cluster, namespace, database)


class Asked:
    """A run of the command on a terminal, up to its question."""

    def __init__(self, setting: Setting, *arguments: str) -> None:
        self._terminal, their_end = pty.openpty()
        self.process = subprocess.Popen(
            setting.command(*arguments), env=setting.environ, stdin=their_end, stdout=their_end, stderr=their_end
        )
        os.close(their_end)
        self.shown = ""
        self._read_until("[y/N]")

    def answer(self, text: str) -> tuple[int, str]:
        """Answer the question; returns the exit code and what was printed after it."""
        before = len(self.shown)
        os.write(self._terminal, f"{text}\n".encode())
        self._read_until(None)
        code = self.process.wait(60)
        os.close(self._terminal)
        return code, self.shown[before:]

    def _read_until(self, text: str | None) -> None:
        deadline = time.monotonic() + 60
        while text is None or text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            if select.select([self._terminal], [], [], 0.2)[0]:
                try:
                    some = os.read(self._terminal, 4096)
                except OSError:  # Linux: the other end is closed
                    return
                self.shown += some.decode()


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
    assert "asked for 2 resources" in done.stderr
    assert setting.annotated() == {"missing", "differs"}
    generations = setting.kubectl("get", PGW, "-o", "jsonpath={.items[*].metadata.generation}")
    assert set(generations.split()) == {"1"}, "an annotation is no change of the spec"
    assert setting.rows() == ["differs", "ok", "orphan"], "the rows are the hook's to write"
    first = setting.kubectl("get", PGW, "missing", "-o", "jsonpath={.metadata.annotations}")
    time.sleep(1.1)
    setting.audit("--repair")
    assert setting.kubectl("get", PGW, "missing", "-o", "jsonpath={.metadata.annotations}") != first, "asked anew"


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
    assert "changed in public.students: it has changed since it was shown." in said
    assert "gone in public.students: it is gone already." in said
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
    setting.apply("double")
    setting.row("double")
    setting.row("double", table="old")
    about = f"{setting.namespace}/double"
    assert setting.findings("--table", "old") == [("duplicate", "double")]
    assert setting.audit("--prune", about, "--yes").returncode == 2, "without --table old nobody knows of it"
    done = setting.audit("--table", "old", "--prune", about, "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert setting.rows() == ["double"]
    assert setting.rows("old") == []


def test_a_second_row_is_kept_once_its_resource_names_that_table(setting: Setting) -> None:
    setting.database.create_table("old")
    setting.apply("double")
    setting.row("double")
    setting.row("double", table="old")
    asked = Asked(setting, "--table", "old", "--prune")
    setting.kubectl("patch", PGW, "double", "--type=merge", '--patch={"spec":{"table":"old"}}')
    code, said = asked.answer("y")
    assert (code, "it has a resource again" in said) == (1, True)
    assert setting.rows("old") == ["double"]


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
    assert "no PostgresWriter at all" in done.stderr
    done = setting.audit("--table", "students", "--prune", f"{setting.namespace}/a", "--yes")
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
    assert len(next(pages)[0]) == 2
    setting.kubectl("annotate", PGW, "student-1", "changed=since")
    cluster.compact()
    cluster.restart()  # it keeps older states in memory
    with pytest.raises(ListExpired):
        list(pages)


def test_kubectl_s_own_list_says_the_same_as_its_pages(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"student-{number}" for number in range(25)]
    setting.apply(*names)
    setting.row(*names[:20])
    printed = setting.kubectl("get", "pgw", "-o", "json")
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
    for name, value in setting.environ.items():
        monkeypatch.setenv(name, value)
    pages = list(Kubectl().pages(setting.namespace, page=10))
    assert [(len(items), remaining) for items, remaining in pages] == [(10, 15), (10, 5), (5, 0)]
    assert [item["metadata"]["name"] for items, _ in pages for item in items] == sorted(names)

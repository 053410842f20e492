"""`postgres-writer audit` with --repair and --prune where a real cluster's resources name several databases."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from cluster.audit_setting import PGW, Asked, Setting
from postgres_writer.audit.compare import Audit
from postgres_writer.audit.resources import Kubectl
from postgres_writer.audit.spool import Spool
from support.databases import write_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.postgres import Database


@pytest.fixture
def archive(setting: Setting, tmp_path: Path) -> Iterator[Setting]:
    """Make a second database, configured as archive, in the same namespace."""
    with setting.database.sibling() as database:
        write_folder(tmp_path, "archive", database)
        setting.environ["PSQL_DATABASES_DIR"] = str(tmp_path)
        yield Setting(setting.cluster, setting.namespace, database)


def test_prune_deletes_in_the_database_that_was_shown(setting: Setting, archive: Setting) -> None:
    setting.apply("here")
    setting.apply("there", database="archive")
    for one in (setting, archive):
        one.row("here", "there", "orphan")
    only = setting.audit("--database", "archive", "--prune", f"{setting.namespace}/here", "--yes")
    assert "1 of 1 rows deleted." in only.stdout, only.stdout + only.stderr
    assert (setting.rows(), archive.rows()) == (["here", "orphan", "there"], ["orphan", "there"])
    asked = Asked(setting, "--prune")
    shown = {tuple(line.split()[1:3]) for line in asked.shown.splitlines() if line.startswith("no-resource")}
    space = setting.namespace
    assert shown == {
        (f"{space}/orphan", "archive"),
        (f"{space}/orphan", "default"),
        (f"{space}/there", "default"),
    }
    code, said = asked.answer("y")
    assert (code, "3 of 3 rows deleted." in said) == (0, True), said
    assert (setting.rows(), archive.rows()) == (["here"], ["there"])
    assert setting.annotated() == set(), "the resource of another database needs no sync"


def test_a_row_is_judged_again_by_the_resource_of_its_own_database(setting: Setting, archive: Setting) -> None:
    setting.apply("bystander", database="archive")
    archive.row("bystander", "back", "elsewhere")
    asked = Asked(setting, "--prune")
    setting.apply("back", database="archive")
    setting.apply("elsewhere")
    code, said = asked.answer("y")
    assert (code, "1 of 2 rows deleted." in said) == (1, True), said
    kept = f"Kept {setting.namespace}/back in public.students of database archive: it has a resource again."
    assert kept in said
    assert archive.rows() == ["back", "bystander"]


def test_a_database_that_has_two_names_loses_no_row(setting: Setting, tmp_path: Path) -> None:
    write_folder(tmp_path, "again", setting.database)
    setting.environ["PSQL_DATABASES_DIR"] = str(tmp_path)
    setting.apply("one")
    setting.apply("two", database="again")
    setting.row("one", "two", "back")
    asked = Asked(setting, "--database", "default", "--prune")
    setting.apply("back", database="again")
    code, said = asked.answer("y")
    assert (code, "0 of 1 rows deleted." in said) == (1, True), said
    assert setting.rows() == ["back", "one", "two"]


def test_a_database_in_which_nothing_fits_is_not_emptied_for_another_in_which_all_does(
    setting: Setting, archive: Setting
) -> None:
    setting.apply("here")
    setting.apply("lost", database="archive")
    setting.row("here")
    archive.row("orphan")
    done = setting.audit("--prune", "--yes")
    assert (done.returncode, "has its row in database archive" in done.stderr) == (2, True), done.stderr
    assert archive.rows() == ["orphan"]


def test_repair_asks_for_a_sync_whichever_database_it_is(setting: Setting, archive: Setting) -> None:
    setting.apply("here")
    setting.apply("there", "well", database="archive")
    setting.apply("nowhere", database="absent")
    # of another database
    setting.row("there")
    archive.row("well")
    done = setting.audit("--repair")
    assert "Requested a sync of 2 resources" in done.stderr, done.stderr
    assert setting.annotated() == {"here", "there"}


class Counting(Kubectl):
    """The real API server, whose answers are counted."""

    lists: list[str]

    def read(self, path: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self.lists.append(path)
        return super().read(path, parameters)


def test_the_resources_are_listed_once_for_each_look(
    setting: Setting, archive: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in setting.cluster.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("postgres_writer.audit.compare._FEW_IDS", 0)
    setting.apply("here")
    setting.apply("there", database="archive")
    source = Counting()
    object.__setattr__(source, "lists", [])
    databases: dict[str, Database] = {"default": setting.database, "archive": archive.database}
    with closing(Spool()) as spool:
        configs = {name: database.config() for name, database in databases.items()}
        audit = Audit(source, configs, spool, namespace=setting.namespace, confirm_after=0)
        audit.run()
        assert [(one.database, one.id.partition("/")[2]) for one in spool.findings()] == [
            ("default", "here"),
            ("archive", "there"),
        ]
    # of each kind in both looks
    assert len(source.lists) == 4
    assert {PGW.partition(".")[0] in path for path in source.lists} == {True, False}

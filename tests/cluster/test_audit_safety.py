"""Pruning on a real API server and a real database: what must not be deleted, however it is looked at."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from support.audit_setting import Asked, Setting
from support.postgres import Database, private_instance

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.apiserver import ApiServer


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


@pytest.fixture
def setting(cluster: ApiServer, namespace: str, database: Database) -> Setting:
    return Setting(cluster, namespace, database)


def prune(setting: Setting, *arguments: str) -> subprocess.CompletedProcess[str]:
    return setting.audit("--prune", "--yes", *arguments)


def test_a_search_path_that_hides_the_live_table_deletes_nothing(setting: Setting) -> None:
    setting.apply("live")
    setting.apply("bystander", table="public.students")
    setting.row("live", "bystander")
    for copied in (False, True):
        if copied:
            setting.database.query("INSERT INTO copies.students SELECT * FROM public.students")
        else:
            setting.database.query("CREATE SCHEMA copies")
            setting.database.create_table("copies.students")
            role = setting.database.query("SELECT current_user")[0][0]
            name = setting.database.name
            setting.database.query(f"ALTER ROLE {role} IN DATABASE {name} SET search_path = copies, public")
        done = prune(setting)
        assert done.returncode == 0, done.stderr
        assert "no row to prune" in done.stdout
        named = prune(setting, f"{setting.namespace}/live")
        assert named.returncode == 2
        assert setting.rows("public.students") == ["bystander", "live"]


def test_the_stray_row_of_a_parent_goes_without_the_child_s_row(setting: Setting) -> None:
    setting.database.create_table("parent")
    setting.database.query("CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent)")
    setting.apply("both", table="child")
    setting.row("both", table="parent")
    setting.row("both", table="child")
    done = prune(setting, "--table", "parent")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 rows deleted." in done.stdout
    assert setting.database.query("SELECT count(*) FROM ONLY parent") == [(0,)]
    assert setting.database.query("SELECT count(*) FROM child") == [(1,)]


def test_a_duplicate_is_kept_once_it_is_the_only_row(setting: Setting) -> None:
    setting.database.create_table("old")
    setting.apply("double")
    setting.row("double")
    setting.row("double", table="old")
    asked = Asked(setting, "--table", "old", "--prune")
    setting.database.query("DELETE FROM students")
    code, said = asked.answer("y")
    assert (code, "it may be the row that its resource needs" in said) == (1, True), said
    assert setting.rows("old") == ["double"]


def test_a_table_that_was_exchanged_between_show_and_delete_keeps_its_rows(setting: Setting) -> None:
    setting.apply("bystander")
    setting.row("bystander", "orphan")
    asked = Asked(setting, "--prune")
    setting.database.query("ALTER TABLE students RENAME TO former")
    setting.database.query("CREATE TABLE students AS TABLE former")
    code, said = asked.answer("y")
    assert (code, "0 of 1 rows deleted." in said) == (1, True), said
    assert setting.rows("students") == setting.rows("former") == ["bystander", "orphan"]


def test_of_two_rows_with_one_id_in_a_table_without_a_key_the_statement_takes_one(setting: Setting) -> None:
    setting.database.query("CREATE TABLE loose (id text, name text, age int, country text)")
    setting.apply("bystander")
    setting.row("bystander")
    setting.row("twin", "twin", table="loose")
    asked = Asked(setting, "--table", "loose", "--prune")
    assert asked.shown.count("/twin") == 2
    code, said = asked.answer("y")
    assert (code, "2 of 2 rows deleted." in said) == (0, True), said
    setting.apply("double", table="loose")
    setting.row("double", "double", table="loose")
    assert setting.findings() == [("duplicate", "double")]
    assert "no row to prune" in prune(setting).stdout


def test_a_partition_s_row_is_pruned_through_its_parent(setting: Setting) -> None:
    setting.database.query(
        "CREATE TABLE parted (id text PRIMARY KEY, name text, age int, country text) PARTITION BY HASH (id)"
    )
    for number in range(2):
        bounds = f"FOR VALUES WITH (MODULUS 2, REMAINDER {number})"
        setting.database.query(f"CREATE TABLE part_{number} PARTITION OF parted {bounds}")
    setting.apply("kept", table="parted")
    setting.row("kept", *(f"orphan-{number}" for number in range(6)), table="parted")
    done = prune(setting)
    assert "6 of 6 rows deleted." in done.stdout, done.stdout + done.stderr
    assert setting.rows("parted") == ["kept"]


def test_a_row_that_only_a_view_shows_is_never_pruned(setting: Setting) -> None:
    setting.database.query("CREATE VIEW seen AS SELECT * FROM students")
    setting.apply("bystander", table="seen")
    setting.row("bystander", "orphan")
    assert setting.findings() == [("no-resource", "orphan")]
    assert "no row to prune" in prune(setting).stdout
    assert setting.rows() == ["bystander", "orphan"]


def test_a_database_or_cluster_in_which_nothing_fits_is_not_emptied(setting: Setting) -> None:
    setting.apply("elsewhere")
    setting.row("orphan-1", "orphan-2")
    done = prune(setting)
    assert done.returncode == 2
    assert "has its row in this database" in done.stderr
    assert setting.rows() == ["orphan-1", "orphan-2"]

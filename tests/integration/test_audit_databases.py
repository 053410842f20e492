"""`postgres-writer audit` where resources name several databases."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from integration.audits import audit, made, role, row
from support.databases import write_folder
from support.payloads import DELETED, recorded
from support.spec_cases import spec_with

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.postgres import Database


@pytest.fixture
def archive(database: Database, tmp_path: Path) -> Iterator[Database]:
    """Make a second database, configured as archive."""
    with database.sibling() as other:
        write_folder(tmp_path, "archive", other)
        yield other


@pytest.fixture
def folder(tmp_path: Path) -> dict[str, str]:
    return {"PSQL_DATABASES_DIR": str(tmp_path)}


def in_database(name: str, about: str, table: str = "students", **changes: Any) -> dict[str, Any]:
    return made(about, table, spec=spec_with(table=table, database=name), **changes)


def told(
    database: Database, *arguments: str, resources: list[dict[str, Any]], **variables: str
) -> list[tuple[str, str, str, str]]:
    """Return (finding, database, id, table) of a run with -o json."""
    done = audit(database, "-o", "json", *arguments, resources=resources, **variables)
    assert done.returncode in (0, 1), done.stderr
    found = json.loads(done.stdout)["findings"]
    assert done.returncode == int(bool(found))
    return [(one["finding"], one["database"], one["id"], one["table"]) for one in found]


def test_each_resource_is_compared_with_its_own_database(
    database: Database, archive: Database, folder: dict[str, str]
) -> None:
    row(database, "default/here", "default/left")
    row(archive, "default/there", "default/changed", "default/here", "default/old")
    archive.query("UPDATE students SET age = 1 WHERE id = 'default/changed'")
    resources = [made("here"), made("lost")]
    resources += [in_database("archive", name) for name in ("there", "changed", "lost-there")]
    done = audit(database, "-o", "json", resources=resources, **folder)
    found = [
        ("missing", "default", "default/lost", "public.students"),
        ("missing", "archive", "default/lost-there", "public.students"),
        ("differs", "archive", "default/changed", "public.students"),
        ("no-resource", "archive", "default/here", "public.students"),
        ("no-resource", "default", "default/left", "public.students"),
        ("no-resource", "archive", "default/old", "public.students"),
    ]
    told_of = json.loads(done.stdout)
    assert [(one["finding"], one["database"], one["id"], one["table"]) for one in told_of["findings"]] == found
    assert {name: told_of["summary"][name] for name in ("resources", "rows", "tables")} == {
        "resources": 5,
        "rows": 6,
        "tables": 2,
    }
    for name in ("archive", "default"):
        only = told(database, "--database", name, resources=resources, **folder)
        assert only == [finding for finding in found if finding[1] == name]
    assert told(database, "--database=default", "--database=archive", resources=resources, **folder) == found


def test_the_output_names_the_database_where_there_are_several(
    database: Database, archive: Database, folder: dict[str, str]
) -> None:
    row(archive, "default/left")
    resources = [in_database("archive", "a")]
    lines = audit(database, resources=resources, **folder).stdout.splitlines()
    assert [line.split()[:4] for line in lines[:3]] == [
        ["FINDING", "ID", "DATABASE", "TABLE"],
        ["missing", "default/a", "archive", "public.students"],
        ["no-resource", "default/left", "archive", "public.students"],
    ]
    logged = audit(database, "-o", "log", resources=resources, **folder).stdout.splitlines()
    assert [json.loads(line).get("database") for line in logged] == ["archive", "archive", None]
    assert "DATABASE" not in audit(database, resources=[made("a")]).stdout


def test_a_name_without_a_schema_is_in_the_schema_of_its_database(
    database: Database, archive: Database, folder: dict[str, str], tmp_path: Path
) -> None:
    write_folder(tmp_path, "archive", archive, schema="school")
    archive.query("CREATE SCHEMA school")
    archive.create_table("school.students")
    row(database, "default/here")
    row(archive, "default/there", "default/left", table="school.students")
    row(archive, "default/not-read")
    there = in_database("archive", "there", status=recorded("school.students", observed="students"))
    for arguments in ((), ("--table", "students")):
        found = told(database, *arguments, resources=[made("here"), there], **folder)
        assert found == [("no-resource", "archive", "default/left", "school.students")]


@pytest.mark.parametrize("trouble", ["unreachable", "without a host", "without a password"])
def test_one_that_cannot_be_read_is_told_beside_one_that_can(
    database: Database, folder: dict[str, str], tmp_path: Path, trouble: str
) -> None:
    row(database, "default/left", "default/there")
    elsewhere = type(database)({**database.connect, "host": "127.0.0.1", "port": "1", "password": "very-secret"})
    files = write_folder(tmp_path, "archive", elsewhere)
    if trouble == "without a host":
        (files / "host").unlink()
    if trouble == "without a password":
        (files / "password").chmod(0)
        (files / "password").unlink()
        (files / "password").symlink_to("absent")
    resources = [made("here"), in_database("archive", "there")]
    done = audit(database, "-o", "json", "--table=students", resources=resources, **folder)
    assert done.returncode == 1, done.stderr
    assert [(one["finding"], one["database"], one["id"]) for one in json.loads(done.stdout)["findings"]] == [
        ("missing", "default", "default/here"),
        # default/there: as long as it is not known that archive is another database
        ("no-resource", "default", "default/left"),
        ("unreadable", "archive", ""),
    ]
    assert "very-secret" not in done.stdout
    only = audit(database, "--database", "archive", resources=resources, **folder)
    assert (only.returncode, only.stdout) == (2, "")
    assert only.stderr.startswith("postgres-writer: Database archive: ")


def test_the_default_database_may_be_the_one_that_is_down(
    database: Database, archive: Database, folder: dict[str, str]
) -> None:
    row(archive, "default/there", "default/left")
    down = {**folder, "PSQL_HOST": "127.0.0.1", "PSQL_PORT": "1"}
    resources = [made("here"), in_database("archive", "there")]
    assert told(database, resources=resources, **down) == [
        ("no-resource", "archive", "default/left", "public.students"),
        ("unreadable", "default", "", ""),
    ]


def test_a_resource_whose_database_is_not_configured_is_told(
    database: Database, archive: Database, folder: dict[str, str]
) -> None:
    row(archive, "default/b", "default/there")
    resources = [in_database("archive", "there"), in_database("archiv", "b"), in_database("archiv", "c", **DELETED)]
    found = [("unreadable", "archiv", f"default/{name}", "public.students") for name in ("b", "c")]
    assert told(database, resources=resources, **folder) == found
    assert told(database, "--database", "archive", resources=resources, **folder) == []
    # with one database, too
    assert told(database, resources=resources[1:]) == found


def test_a_database_with_two_names_has_each_row_once(
    database: Database, folder: dict[str, str], tmp_path: Path
) -> None:
    write_folder(tmp_path, "again", database)
    row(database, "default/a", "default/b", "default/left")
    found = told(database, resources=[made("a"), in_database("again", "b")], **folder)
    assert found == [
        ("no-resource", "again", "default/left", "public.students"),
        ("no-resource", "default", "default/left", "public.students"),
    ]


def test_a_database_that_the_role_may_not_identify_may_be_any(
    database: Database, archive: Database, folder: dict[str, str], tmp_path: Path
) -> None:
    row(database, "default/here")
    row(archive, "default/here", "default/left")
    resources = [made("here"), in_database("archive", "there")]
    archive.query("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    with role(archive, "reader", "GRANT SELECT ON students TO {role}") as reader:
        write_folder(tmp_path, "archive", reader)
        assert told(database, resources=resources, **folder) == [
            ("missing", "archive", "default/there", "public.students"),
            ("no-resource", "archive", "default/left", "public.students"),
        ]


def test_a_name_that_is_not_configured_is_told_in_one_sentence(
    database: Database, archive: Database, folder: dict[str, str]
) -> None:
    done = audit(database, "--database", "archiv", resources=[], **folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "postgres-writer: --database archiv: PSQL_DATABASES_DIR has no folder of that name.\n"
    done = audit(database, "--database", "archive", "--table", "absent", resources=[], **folder)
    assert done.returncode == 2
    assert "--table absent: there is no such table" in done.stderr


def test_a_namespace_of_which_nothing_is_read_is_no_all_clear(
    database: Database, folder: dict[str, str], tmp_path: Path
) -> None:
    elsewhere = type(database)({**database.connect, "host": "127.0.0.1", "port": "1"})
    write_folder(tmp_path, "archive", elsewhere)
    done = audit(database, "-n", "team-a", resources=[made("a", namespace="team-b")], **folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert "No resource of namespace team-a names a table, so no row was read" in done.stderr

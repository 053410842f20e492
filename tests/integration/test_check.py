"""`postgres-writer check` on a real PostgreSQL: what it finds, in one line each, and its exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.command import run_here
from support.databases import write_folder
from support.payloads import resource
from support.postgres import STUDENTS
from support.spec_cases import spec_with

if TYPE_CHECKING:
    from support.postgres import Database


def found(database: Database, *arguments: str, **environ: str) -> tuple[int, list[list[str]]]:
    """Run the command; gives its exit code, and result, subject and sentence of each line."""
    done = run_here("check", "--no-cluster", *arguments, environ={**database.environ, **environ})
    assert not done.stderr, done.stderr
    return done.returncode, [
        [part.strip() for part in line.split("   ") if part.strip()] for line in done.stdout.splitlines()
    ]


def said(lines: list[list[str]], about: str) -> list[str]:
    return [f"{line[0]}: {line[2]}" for line in lines if line[1] == about]


def test_a_sound_server_passes(database: Database, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("token\n")
    code, lines = found(database, HOOK_TOKENS_FILE=str(tokens))
    assert (code, {line[0] for line in lines}) == (0, {"ok"})
    (about,) = said(lines, "database default")
    assert about.startswith("ok: PostgreSQL ")
    assert f"database {database.name}, role {database.environ['PSQL_USER']}, schema public" in about
    assert said(lines, "settings") == [f"ok: tokens {tokens}"]


def test_each_database_has_a_line_of_its_own(database: Database, tmp_path: Path) -> None:
    write_folder(tmp_path, "archive", database)
    write_folder(tmp_path, "broken", database, port="x")
    write_folder(tmp_path, "missing", database, dbname="missing")
    write_folder(tmp_path, "elsewhere", database, schema="nowhere")
    (tmp_path / "..data").mkdir()
    code, lines = found(database, PSQL_DATABASES_DIR=str(tmp_path))
    assert code == 1
    assert {line[1] for line in lines if line[1].startswith("database ")} == {
        f"database {name}" for name in ("default", "archive", "broken", "missing", "elsewhere")
    }
    assert said(lines, "database archive")[0].startswith("ok: ")
    assert "PSQL_PORT must be" in said(lines, "database broken")[0]
    assert said(lines, "database missing") == [
        "fail: PostgreSQL has no database missing; create it, or correct PSQL_DBNAME."
    ]
    assert "schema nowhere, which does not exist" in said(lines, "database elsewhere")[0]


@pytest.mark.parametrize(
    ("spec", "result"),
    [
        (spec_with(), "ok: The role can write public.students."),
        (spec_with(table="Students"), "fail: Table public.Students does not exist in database {}, but public.students"),
        (spec_with(table="keyless"), "fail: Table public.keyless rejected the row: it needs a primary key"),
        (spec_with(table="narrow"), "fail: Table public.narrow rejected the row: it has no columns age, country"),
        (spec_with(table="shown"), "fail: public.shown is not a table"),
        (spec_with(age=-1), "fail: spec.age must be a whole number"),
        (spec_with(table="secret"), "fail: The table policy does not allow namespace default to write to table"),
        (spec_with(database="unknown"), "fail: Database unknown is not configured"),
    ],
    ids=["sound", "another case", "no key", "no columns", "a view", "invalid", "not allowed", "no such database"],
)
def test_a_manifest_is_checked_without_a_write(database: Database, tmp_path: Path, spec: Any, result: str) -> None:
    database.query(
        "CREATE TABLE keyless (id text, name text, age int, country text); CREATE VIEW shown AS SELECT * FROM students;"
        "CREATE TABLE narrow (id text PRIMARY KEY, name text)"
    )
    manifest, policy = tmp_path / "manifest.json", tmp_path / "policy.yaml"
    manifest.write_text(json.dumps(resource(spec)))
    policy.write_text("rules: [{namespaces: ['*'], tables: ['[!s]*', students, shown, Students], databases: ['*']}]")
    code, lines = found(database, str(manifest), HOOK_TABLE_POLICY_FILE=str(policy))
    assert said(lines, "default/sample")[0].startswith(result.format(database.name))
    assert code == result.startswith("fail")
    assert database.rows() == []


def test_triggers_that_run_with_the_role_s_rights_are_named(database: Database) -> None:
    database.query(
        "CREATE FUNCTION own() RETURNS trigger LANGUAGE plpgsql AS 'begin return new; end';"
        "CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS 'begin return new; end';"
        "CREATE TRIGGER ours BEFORE INSERT ON students FOR EACH ROW EXECUTE FUNCTION own();"
        "CREATE TRIGGER theirs BEFORE INSERT ON students FOR EACH ROW EXECUTE FUNCTION other()"
    )
    code, lines = found(database, "--table", "students")
    assert (code, said(lines, "table public.students")[1]) == (
        0,
        "note: Triggers of public.students run with the rights of the server's role: ours.",
    )


def test_the_database_of_a_table_can_be_named(database: Database, tmp_path: Path) -> None:
    with database.sibling() as archive:
        archive.query(STUDENTS.replace("students", "papers"))
        write_folder(tmp_path, "archive", archive)
        environ = {"PSQL_DATABASES_DIR": str(tmp_path)}
        assert found(database, "--table", "papers", **environ)[0] == 1
        assert found(database, "--table", "papers", "--database", "archive", **environ)[0] == 0


def test_files_that_cannot_be_used_are_told(database: Database, tmp_path: Path) -> None:
    code, lines = found(database, HOOK_TOKENS_FILE=str(tmp_path / "missing"))
    assert code == 1
    assert said(lines, "settings")[0].startswith("fail: HOOK_TOKENS_FILE cannot be read")

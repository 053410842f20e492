"""`audit --manifests` and `audit -f`: resources for rows that lost theirs, and rows for resources that are to come."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from integration.audits import audit, findings, made, row
from support.spec_cases import spec_with

if TYPE_CHECKING:
    from pathlib import Path

    from support.postgres import Database


def printed(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    listed = json.loads(done.stdout)
    assert (listed["apiVersion"], listed["kind"]) == ("v1", "List")
    items: list[dict[str, Any]] = listed["items"]
    return items


def test_a_row_without_a_resource_gets_one_that_says_the_same(database: Database) -> None:
    texts = ["Zoë", "y", "null", "0x1F", "a: b # c", "\U0001f600", "x\u2028y\u0085z", '"q"', " lead", "1e3"]
    for number, text in enumerate(texts):
        database.query("INSERT INTO students VALUES (%s, %s, %s, %s)", f"team-a/s-{number}", text, number, text)
    row(database, "default/kept")
    done = audit(database, "--manifests", resources=[made("kept")])
    assert (done.returncode, done.stderr) == (0, "")
    specs = {item["metadata"]["name"]: item["spec"] for item in printed(done)}
    for number, text in enumerate(texts):
        assert specs.pop(f"s-{number}") == {"table": "students", "name": text, "age": number, "country": text}
    assert specs == {}
    again = audit(database, "-o", "json", resources=[made("kept"), *printed(done)])
    assert findings(again) == []


def test_rows_that_no_spec_can_say_are_left_out_with_a_reason(database: Database) -> None:
    database.create_table("second")
    database.query("INSERT INTO students VALUES ('a/no-age', 'n', NULL, 'c'), ('a/empty', '', 1, 'c')")
    database.query("INSERT INTO students VALUES ('a/do..ts', 'n', 1, 'c')")
    row(database, "a/twice", "a/fine")
    row(database, "a/twice", table="second")
    done = audit(database, "--all-tables", "--manifests", resources=[])
    assert done.returncode == 1
    assert [item["metadata"]["name"] for item in printed(done)] == ["fine"]
    reasons = sorted(line.partition(":")[0] for line in done.stderr.splitlines())
    assert reasons == ["Left out a/do..ts", "Left out a/empty", "Left out a/no-age", "Left out a/twice"]


@pytest.mark.parametrize(
    ("kind", "age"),
    [
        ("numeric", "1e5000"),
        ("text", "repeat('9', 5000)"),
        ("date", "date '99999-01-01'"),
        ("timestamptz", "timestamptz '0044-03-15 BC'"),
        ("float8", "float8 'NaN'"),
        ("bytea", "'\\x00ff'"),
    ],
)
def test_an_age_that_is_none_is_shown_as_it_is_and_fits_into_no_manifest(
    database: Database, kind: str, age: str
) -> None:
    database.query(f"CREATE TABLE odd (id text PRIMARY KEY, name text, age {kind}, country text)")
    database.query(f"INSERT INTO odd VALUES ('a/b', 'alex', {age}, 'canada')")
    [(shown,)] = database.query("SELECT age::text FROM odd")
    given = [made("b", "odd", namespace="a")]
    done = audit(database, "-o", "json", "--show-values", resources=given)
    [finding] = json.loads(done.stdout, parse_constant=pytest.fail)["findings"]
    assert finding["differences"] == [{"field": "age", "resource": 23, "row": shown}]
    done = audit(database, "--table", "odd", "--manifests", resources=[])
    assert (done.returncode, printed(done)) == (1, [])
    assert "Left out a/b: spec.age must be a whole number" in done.stderr


def test_tables_are_spelled_as_others_do_and_with_the_schema_where_it_matters(database: Database) -> None:
    database.query("CREATE SCHEMA other")
    for table in ("other.students", "other.pupils", "numeric_age"):
        if table == "numeric_age":
            database.query("CREATE TABLE numeric_age (id text PRIMARY KEY, name text, age numeric, country text)")
        else:
            database.create_table(table)
    row(database, "a/one")
    row(database, "a/two", table="other.students")
    row(database, "a/three", table="other.pupils")
    row(database, "a/four", table="numeric_age")
    done = audit(database, "--all-tables", "--manifests", resources=[])
    tables = {item["metadata"]["name"]: item["spec"]["table"] for item in printed(done)}
    assert tables == {
        "one": "public.students",
        "two": "other.students",
        "three": "other.pupils",
        "four": "numeric_age",
    }
    assert [item["spec"]["age"] for item in printed(done)] == [23] * 4


def manifest(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "demo.yash.com/v1",
        "kind": "PostgresWriter",
        "metadata": {"name": name},
        "spec": spec_with(**spec),
    }


POLICY = """\
rules:
- namespaces: ["team-*"]
  tables: [students, absent, numbers]
"""


@pytest.mark.parametrize("output", ["json", "table"])
def test_a_dry_run_says_what_would_become_of_each_manifest(database: Database, tmp_path: Path, output: str) -> None:
    database.query("CREATE TABLE numbers (id bigserial PRIMARY KEY, name text, age int, country text)")
    database.create_table("secret")
    row(database, "team-a/same", "team-a/other")
    database.query("UPDATE students SET country = 'cuba' WHERE id = 'team-a/other'")
    documents = [
        manifest("new"),
        manifest("same"),
        manifest("other"),
        manifest("nowhere", table="absent"),
        manifest("hidden", table="secret"),
        manifest("odd", table="numbers"),
        manifest("broken", age=-1),
    ]
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    file = tmp_path / "manifests.yaml"
    file.write_text(yaml.safe_dump_all(documents))
    done = audit(database, "-f", str(file), "-n", "team-a", "--policy", str(policy), "-o", output)
    assert (done.returncode, done.stderr) == (1, "")
    expected = [
        ("would-insert", "team-a/new", "students"),
        ("unchanged", "team-a/same", "students"),
        ("would-take-over", "team-a/other", "students"),
        ("table-missing", "team-a/nowhere", "absent"),
        ("not-allowed", "team-a/hidden", "secret"),
        ("unreadable", "team-a/odd", "numbers"),
        ("invalid", "team-a/broken", "students"),
    ]
    if output == "json":
        listed = json.loads(done.stdout)["findings"]
        assert [(one["finding"], one["id"], one["table"]) for one in listed] == expected
        assert listed[2]["fields"] == ["country"]
    else:
        lines = [line.split()[:3] for line in done.stdout.splitlines()[1:8]]
        assert [tuple(line) for line in lines] == expected
    assert "cuba" not in done.stdout, "values only on demand"
    assert [about for about, *_ in database.rows()] == ["team-a/other", "team-a/same"], "a dry run writes nothing"


def test_a_dry_run_without_obstacles_ends_with_zero_and_reads_standard_input(database: Database) -> None:
    text = json.dumps({"kind": "List", "items": [manifest("a"), manifest("b")]})
    done = audit(database, "-f", text=text)
    assert done.returncode == 0, done.stderr
    assert "default/a" in done.stdout


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("", "no manifest"), ("kind: Pod", "of kind Pod"), ("a: [", "neither YAML nor JSON")],
)
def test_a_dry_run_of_something_else_is_refused(database: Database, text: str, sentence: str) -> None:
    done = audit(database, "-f", text=text)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


TWO_MODES = (["-f", "x", "--repair"], ["-f", "x", "--context", "y"], ["--manifests", "--prune", "a/b"])


@pytest.mark.parametrize("arguments", TWO_MODES, ids=" ".join)
def test_two_modes_at_once_are_refused(database: Database, arguments: list[str]) -> None:
    done = audit(database, *arguments)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)

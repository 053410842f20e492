"""`postgres-writer audit` on a real database, with lists of resources as kubectl prints them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from integration.audits import audit, findings, made, row, synced
from support.payloads import DELETED, condition, recorded
from support.postgres import scrubbed_environment
from support.server import PROGRAM

if TYPE_CHECKING:
    from support.postgres import Database

UNMANAGED = condition("Unknown", "Unmanaged")


def test_nothing_is_found_where_all_is_well(database: Database) -> None:
    database.create_table("Pupils")
    row(database, "default/a", "default/b-1.c", "team-a/a")
    row(database, "default/p", table='"Pupils"')
    resources = [made("a"), made("b-1.c"), made("p", "Pupils"), made("a", "public.students", "team-a")]
    done = audit(database, resources=resources)
    assert done.returncode == 0, done.stdout
    assert done.stdout == "0 findings (resources: 4, rows: 4, tables: 2).\n"
    assert done.stderr == ""


def test_every_kind_of_finding_is_told(database: Database) -> None:
    database.create_table("old")
    row(
        database,
        "default/ok",
        "default/changed",
        "default/double",
        "default/left",
        "default/given-up",
        "default/moving",
    )
    row(database, "default/double", "default/moving", table="old")
    database.query("UPDATE students SET age = 24, country = 'cuba' WHERE id = 'default/changed'")
    resources = [
        made("given-up", status={**recorded("students"), "conditions": [UNMANAGED]}),
        made("ok"),
        made("changed"),
        made("double"),
        made("moving", status=synced("old", "students")),
        made("never", status=None),
        made("nowhere", "absent"),
    ]
    done = audit(database, "--table", "old", "-o", "json", resources=resources)
    assert findings(done) == [
        ("missing", "default/never", "public.students"),
        ("missing", "default/nowhere", "public.absent"),
        ("differs", "default/changed", "public.students"),
        ("duplicate", "default/double", "public.old"),
        ("duplicate", "default/moving", "public.old"),
        ("no-resource", "default/left", "public.students"),
        ("unmanaged", "default/given-up", "public.students"),
    ]
    told = {one["id"]: one for one in json.loads(done.stdout)["findings"]}
    assert told["default/changed"]["fields"] == ["age", "country"]
    assert told["default/never"]["detail"] == "never synced"
    assert told["default/nowhere"]["detail"] == "the table does not exist, or has no column id"
    assert "status.tables" in told["default/moving"]["detail"]
    assert told["default/double"]["detail"] != told["default/moving"]["detail"]
    summary = json.loads(done.stdout)["summary"]
    assert (summary["resources"], summary["rows"], summary["tables"]) == (7, 8, 2)


def test_no_value_is_shown(database: Database) -> None:
    database.query("INSERT INTO students VALUES ('default/a', 'Zoë', 99, NULL), ('default/left', 'Yara', 5, 'oman')")
    silent = audit(database, resources=[made("a")])
    assert silent.returncode == 1
    assert "default/a    " in silent.stdout
    assert "name, age, country" in silent.stdout
    assert "kept on purpose" in silent.stdout
    for value in ("Zoë", "99", "Yara", "oman"):
        assert value not in silent.stdout
    as_json = json.loads(audit(database, "-o", "json", resources=[made("a")]).stdout)["findings"]
    assert as_json[0]["fields"] == ["name", "age", "country"]


def test_order_and_repetition_of_the_list_do_not_matter(database: Database) -> None:
    names = ["b", "a-1", "a", "a.b", "a0", "c"]
    row(database, *(f"default/{name}" for name in names), "a/z", "default-x/a")
    resources = [made(name) for name in names]
    resources += [made("z", namespace="a"), made("a", namespace="default-x")]
    assert findings(audit(database, "-o", "json", resources=resources)) == []
    assert findings(audit(database, "-o", "json", resources=resources[::-1] + resources)) == []


def test_ids_are_ordered_by_their_bytes_as_the_api_server_does(database: Database) -> None:
    if not database.query("SELECT 1 FROM pg_collation WHERE collname = 'pg_unicode_fast'"):
        pytest.skip("needs PostgreSQL 18 for a collation that orders by more than bytes")
    database.query(
        'CREATE TABLE sorted (id varchar COLLATE "pg_unicode_fast" PRIMARY KEY, name text, age int, country text)'
    )
    names = ["a-b", "ab", "a.c", "b", "a-c", "aa", "a0"]
    row(database, *(f"team-a/{name}" for name in names), "team/z", table="sorted")
    resources = [made(name, "sorted", "team-a") for name in names]
    assert findings(audit(database, "-o", "json", resources=resources)) == [("no-resource", "team/z", "public.sorted")]


def test_only_rows_with_the_shape_of_an_id_count(database: Database) -> None:
    row(database, "17", "a/b/c", "Upper/case", "/x", "x/", "_/a", "default/a b", "default/é", "a" * 64 + "/x", "ok/row")
    done = audit(database, "-o", "json", "--table", "students", resources=[])
    assert findings(done) == [("no-resource", "ok/row", "public.students")]


def test_paused_deleting_and_invalid_resources_are_judged_as_what_they_are(database: Database) -> None:
    row(database, "default/deleting", "default/paused")
    database.query("UPDATE students SET age = 1")
    resources = [
        made("deleting", **DELETED),
        made("gone", **DELETED),
        made("paused", annotations={"demo.yash.com/paused": "true"}),
        made("invalid", spec={"table": "students"}),
    ]
    done = audit(database, "-o", "json", resources=resources)
    assert findings(done) == [
        ("missing", "default/invalid", "public.students"),
        ("differs", "default/paused", "public.students"),
    ]
    assert [one["detail"] for one in json.loads(done.stdout)["findings"]] == ["the spec is invalid", "paused"]


def test_spellings_and_partitions_of_one_table_are_no_duplicates(database: Database) -> None:
    database.query("CREATE TABLE parted (id text PRIMARY KEY, name text, age int, country text) PARTITION BY HASH (id)")
    database.query("CREATE TABLE part PARTITION OF parted FOR VALUES WITH (MODULUS 1, REMAINDER 0)")
    row(database, "default/parted", "default/part", table="parted")
    row(database, "default/short", "default/long")
    resources = [
        made("parted", "parted"),
        made("part", "part"),
        made("short", status=recorded("students")),
        made("long", "public.students", status=recorded("students", "public.students")),
    ]
    assert findings(audit(database, "-o", "json", resources=resources)) == []
    row(database, "default/left", "default/left-2", table="parted")
    row(database, "default/left")
    found = findings(audit(database, "-o", "json", resources=resources))
    assert [(kind, about) for kind, about, _ in found] == [
        ("no-resource", "default/left"),
        ("no-resource", "default/left"),
        ("no-resource", "default/left-2"),
    ]


def test_a_namespace_alone_can_be_audited(database: Database) -> None:
    row(database, "team-a/left", "team-a0/left", "team/left", "team-a/ok")
    resources = [made("ok", namespace="team-a"), made("missing", namespace="team-b")]
    done = audit(database, "-o", "json", "-n", "team-a", resources=resources)
    assert findings(done) == [("no-resource", "team-a/left", "public.students")]


def test_tables_that_nobody_names_are_found_on_demand(database: Database) -> None:
    database.create_table("forgotten")
    database.query("CREATE TABLE other (id text, name text, age int, country text)")
    row(database, "default/left", table="forgotten")
    row(database, "default/left", table="other")
    assert findings(audit(database, "-o", "json", resources=[])) == []
    found = findings(audit(database, "-o", "json", "--all-tables", resources=[]))
    assert found == [("no-resource", "default/left", "public.forgotten")], "other has no unique id: not one of ours"


def test_a_table_that_cannot_be_read_is_told_and_the_others_are_compared(database: Database) -> None:
    database.query("CREATE TABLE numbered (id bigint PRIMARY KEY, name text, age int, country text)")
    row(database, "default/left")
    done = audit(database, "-o", "json", resources=[made("a", "numbered"), made("b")])
    assert findings(done) == [
        ("missing", "default/b", "public.students"),
        ("no-resource", "default/left", "public.students"),
        ("unreadable", "", "public.numbered"),
    ]


def test_a_role_that_may_only_read_is_enough(database: Database) -> None:
    role = f"reader_{database.name}"
    database.query(f"CREATE ROLE {role} LOGIN")
    try:
        row(database, "default/left")
        database.create_table("secret")
        database.query(f"GRANT SELECT ON students TO {role}")
        reader = type(database)({**database.connect, "user": role})
        found = findings(audit(reader, "-o", "json", "--table", "secret", resources=[]))
        assert found == [("unreadable", "", "public.secret")]
        found = findings(audit(reader, "-o", "json", resources=[made("a")]))
        assert [kind for kind, _, _ in found] == ["missing", "no-resource"]
    finally:
        database.query(f"DROP OWNED BY {role}")
        database.query(f"DROP ROLE {role}")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("", "not complete JSON", id="nothing at all"),
        pytest.param('{"items": [', "not complete JSON", id="cut off"),
        pytest.param('{"kind": "List"', "not complete JSON", id="cut off after the kind"),
        pytest.param("No resources found", "not complete JSON", id="a message instead of a list"),
        pytest.param("{}", "not a list of resources", id="an object without a kind"),
        pytest.param(json.dumps(made("a")), "not a list of resources", id="a single resource"),
        pytest.param('{"kind": "List", "items": [{"kind": "Pod"}]}', "not a PostgresWriter", id="another kind"),
    ],
)
def test_what_is_no_list_is_refused_before_rows_look_orphaned(database: Database, text: str, sentence: str) -> None:
    row(database, "default/a")
    done = audit(database, "--table", "students", text=text)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["list.json", "--repair"],
        ["list.json", "--prune", "default/a"],
        ["list.json", "--context", "x"],
        ["--repair", "--prune", "default/a"],
        ["--prune"],
        ["--prune", "no-slash"],
        ["-n", "Not_A_Namespace"],
        ["-n", ""],
        ["--yes"],
        ["absent.json"],
        ["-", "--table", "absent"],
    ],
    ids=" ".join,
)
def test_unusable_arguments_are_named_in_one_sentence(database: Database, arguments: list[str]) -> None:
    if arguments[0] == "-":
        done = audit(database, *arguments[1:], text='{"kind": "List", "items": []}')
    else:
        done = audit(database, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("postgres-writer: ")
    assert len(done.stderr.splitlines()) == 1


def test_an_unreachable_database_is_one_sentence_without_the_password(database: Database) -> None:
    elsewhere = type(database)({**database.connect, "host": "127.0.0.1", "port": "1", "password": "very-secret"})
    done = audit(elsewhere, resources=[])
    assert done.returncode == 2
    assert "cannot be reached" in done.stderr
    assert "very-secret" not in done.stderr


def test_memory_does_not_grow_with_the_rows(database: Database) -> None:
    """Ten thousand and forty thousand, side by side; a million was measured at 50 MB."""
    peaks = []
    for number in (10_000, 40_000):
        database.query("TRUNCATE students")
        database.query(
            "INSERT INTO students SELECT 'ns/name-' || i, repeat('n', 200), 1, 'c' FROM generate_series(1, %s) i",
            number,
        )
        program = (
            "import resource, subprocess, sys\n"
            'done = subprocess.run(sys.argv[1:], input=b\'{"kind": "List", "items": []}\', stdout=subprocess.PIPE)\n'
            "print(done.returncode, len(done.stdout.splitlines()),"
            " resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(PROGRAM), "audit", "-", "--table", "students", "-o", "json"],
            env={**scrubbed_environment(os.environ), **database.environ},
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        )
        code, lines, peak = map(int, done.stdout.split())
        assert (code, lines) == (1, number + 2)
        peaks.append(peak)
    # each row alone would need some 500 bytes as a Python object: 15 MB more
    assert peaks[1] - peaks[0] < 10_000, peaks
    assert peaks[1] < 200_000, peaks


def test_a_namespace_whose_rows_no_resource_leads_to_is_no_all_clear(database: Database) -> None:
    row(database, "team-a/left")
    others = [made("a", namespace="team-b")]
    done = audit(database, "-n", "team-a", resources=others)
    assert (done.returncode, done.stdout) == (2, "")
    assert "No resource of namespace team-a names a table, so no row was read" in done.stderr
    for option in ("--table=students", "--all-tables"):
        found = findings(audit(database, "-n", "team-a", "-o", "json", option, resources=others))
        assert found == [("no-resource", "team-a/left", "public.students")]

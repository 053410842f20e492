"""`postgres-writer audit` where one table is odd or a role sees another: what it must not conclude from that."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest

from integration.audits import audit, findings, made, role, row
from support.payloads import recorded
from support.planted import DOUBLES
from support.waiting import wait_until

if TYPE_CHECKING:
    from support.postgres import Database


def told(
    database: Database, *arguments: str, resources: list[dict[str, Any]], **variables: str
) -> list[tuple[str, str, str]]:
    return findings(audit(database, "-o", "json", *arguments, resources=resources, **variables))


def test_a_numeric_id_is_that_table_s_trouble(database: Database) -> None:
    database.query("CREATE TABLE numbers (id bigserial PRIMARY KEY, name text, age int, country text)")
    row(database, "default/left")
    found = told(database, resources=[made("n", "numbers"), made("b")])
    assert found == [
        ("missing", "default/b", "public.students"),
        ("no-resource", "default/left", "public.students"),
        ("unreadable", "", "public.numbers"),
    ]
    assert told(database, "--all-tables", resources=[]) == [("no-resource", "default/left", "public.students")]


def test_odd_relations_are_reported_and_the_rest_is_audited(database: Database) -> None:
    statements = [
        "CREATE VIEW seen AS SELECT * FROM students",
        "CREATE MATERIALIZED VIEW unfilled AS SELECT * FROM students WITH NO DATA",
        "CREATE SEQUENCE counter",
        "CREATE FOREIGN DATA WRAPPER none",
        "CREATE SERVER none FOREIGN DATA WRAPPER none",
        "CREATE FOREIGN TABLE far (id text, name text, age int, country text) SERVER none",
        # fails only while it is read
        "CREATE TABLE near (id text PRIMARY KEY, name text, age int, country text)",
        "CREATE FOREIGN TABLE beyond () INHERITS (near) SERVER none",
        "CREATE SCHEMA hidden",
        "CREATE TABLE hidden.pupils (id text PRIMARY KEY, name text, age int, country text)",
        "CREATE TABLE denied (id text PRIMARY KEY, name text, age int, country text)",
        "INSERT INTO students VALUES ('default/good', 'alex', 23, 'canada'), ('default/left', 'alex', 23, 'canada')",
    ]
    for statement in statements:
        database.query(statement)
    no_tables = ("seen", "unfilled", "counter", "far")
    tables = (*no_tables, "near", "hidden.pupils", "denied", "hidden.absent", "none.pupils")
    resources = [made("good"), *(made(f"r-{number}", table) for number, table in enumerate(tables))]
    grants = ["GRANT SELECT ON students, seen, unfilled, far, near, beyond TO {role}"]
    with role(database, "reader", *grants) as reader:
        done = audit(reader, "-o", "json", resources=resources)
    assert findings(done) == [
        ("missing", "default/r-7", "hidden.absent"),
        ("missing", "default/r-8", "none.pupils"),
        ("no-resource", "default/left", "public.students"),
        ("unreadable", "", "hidden.pupils"),
        *(("unreadable", "", f"public.{name}") for name in ("counter", "denied", "far", "near", "seen", "unfilled")),
    ]
    assert done.stdout.count("it is not an ordinary or partitioned table") == len(no_tables)


def test_a_locked_table_is_that_table_s_trouble(database: Database) -> None:
    database.create_table("locked")
    row(database, "default/left")
    with database.connection() as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE locked")
        done = audit(database, "-o", "json", "--table", "students", resources=[made("a", "locked")])
    assert findings(done) == [
        ("no-resource", "default/left", "public.students"),
        ("unreadable", "", "public.locked"),
    ]
    assert "locked (SQLSTATE 55P03)" in done.stdout


def test_a_slow_table_is_that_table_s_trouble(database: Database) -> None:
    database.create_table("slow")
    row(database, "default/b")
    with database.connection() as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE slow")
        done = audit(database, "-o", "json", "--timeout", "2", resources=[made("a", "slow"), made("b")])
    assert findings(done) == [("unreadable", "", "public.slow")]
    assert "57014" in done.stdout


def test_a_connection_that_is_ended_ends_the_audit_with_a_sentence(database: Database) -> None:
    database.create_table("slow")
    row(database, "default/b")
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
    with (
        database.connection() as connection,
        connection.cursor() as cursor,
        ThreadPoolExecutor() as pool,
    ):
        cursor.execute("BEGIN; LOCK TABLE slow")
        running = pool.submit(audit, database, "-o", "json", resources=[made("a", "slow"), made("b")])
        wait_until(lambda: database.query(end, database.name) == [(True,)], "the audit to read the locked table")
        done = running.result()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "postgres-writer: PostgreSQL ended the audit's transaction: run it again.\n"


def test_the_role_s_search_path_plays_no_part(database: Database) -> None:
    database.query("CREATE SCHEMA copies")
    database.create_table("copies.students")
    database.query("INSERT INTO copies.students VALUES ('default/other', 'alex', 23, 'canada')")
    row(database, "default/live", "default/other")
    path = "ALTER ROLE {role} SET search_path = copies, public"
    grants = ["GRANT USAGE ON SCHEMA copies TO {role}", "GRANT SELECT ON ALL TABLES IN SCHEMA copies, public TO {role}"]
    resources = [made("live"), made("other", "public.students")]
    with role(database, "reader", path, *grants) as reader:
        assert told(reader, resources=resources) == []
        assert told(reader, "--table", "students", resources=resources) == []
        found = [("duplicate", "default/other", "copies.students")]
        assert told(reader, "--table", "copies.students", resources=resources) == found


def test_a_name_without_a_schema_is_in_psql_schema(database: Database) -> None:
    database.query("CREATE SCHEMA school")
    database.create_table("school.students")
    row(database, "default/a", table="school.students")
    row(database, "default/a", "default/b")
    resources = [made("a", status=recorded("school.students", observed="students"))]
    assert told(database, resources=resources, PSQL_SCHEMA="school") == []
    found = [("duplicate", "default/a", "public.students"), ("no-resource", "default/b", "public.students")]
    assert told(database, "--table", "public.students", resources=resources, PSQL_SCHEMA="school") == found


def test_what_others_plant_in_the_search_path_is_not_run(database: Database) -> None:
    """Each function and operator of PostgreSQL has a double there; a cast, and a table of the session besides."""
    row(database, "default/a", "default/left")
    database.query(DOUBLES)
    database.query("CREATE TYPE planted.land AS ENUM ('canada')")
    database.query(
        "CREATE FUNCTION planted.told(planted.land) RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE 'planted'; END$$"
    )
    database.query("CREATE CAST (planted.land AS text) WITH FUNCTION planted.told(planted.land)")
    database.query("CREATE TABLE lands (id text PRIMARY KEY, name char(9), age int, country planted.land)")
    row(database, "default/b", "default/c", table="lands")
    path = "ALTER ROLE {role} SET search_path = planted, pg_catalog, public"
    grants = ["GRANT USAGE ON SCHEMA planted TO {role}", "GRANT SELECT ON students, lands TO {role}"]
    with role(database, "reader", path, *grants) as reader:
        with pytest.raises(psycopg2.errors.RaiseException, match="planted"):
            reader.query("SELECT FROM students WHERE id = 'default/a'")
        done = audit(reader, "-o", "json", "--all-tables", "-n", "default", resources=[made("a"), made("b", "lands")])
    assert findings(done) == [
        ("no-resource", "default/c", "public.lands"),
        ("no-resource", "default/left", "public.students"),
    ]


def test_rows_of_parents_and_children_are_told_apart(database: Database) -> None:
    database.create_table("parent")
    database.query("CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent)")
    row(database, "default/a", "default/b", table="parent")
    row(database, "default/a", table="child")
    resources = [made("a", "child"), made("b", "parent")]
    assert told(database, resources=resources) == [("duplicate", "default/a", "public.parent")]
    # the other way round the second row is one that spec.table shows itself
    done = audit(database, "-o", "json", "--table", "child", resources=[made("a", "parent"), made("b", "parent")])
    assert findings(done) == [("duplicate", "default/a", "public.child")]
    assert "inherits" in done.stdout


def test_a_table_whose_row_level_security_applies_is_not_compared(database: Database) -> None:
    row(database, "default/a")
    for statement in ("ALTER TABLE students ENABLE ROW LEVEL SECURITY", "CREATE POLICY none ON students USING (false)"):
        database.query(statement)
    with role(database, "reader", "GRANT SELECT ON students TO {role}") as reader:
        done = audit(reader, "-o", "json", resources=[made("a")])
        assert findings(done) == [("unreadable", "", "public.students")]
        assert "row-level security applies to the role, which needs BYPASSRLS" in done.stdout
        database.query(f"ALTER ROLE {reader.connect['user']} BYPASSRLS")
        assert told(reader, resources=[made("a")]) == []


def test_a_list_of_another_kind_or_group_is_refused(database: Database) -> None:
    row(database, "default/a")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "default"}, "spec": {}}
    foreign = {**made("a"), "apiVersion": "example.com/v1"}
    for item in (pod, foreign):
        done = audit(database, "--table", "students", resources=[made("b"), item])
        assert (done.returncode, done.stdout) == (2, "")
        assert "not a PostgresWriter" in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("kind", "age", "refused"),
    [
        ("numeric", "1e5000", False),
        ("text", "repeat('9', 5000)", False),
        ("float8", "float8 'NaN'", False),
        ("bytea", "'\\x00ff'", False),
        ("date", "date '99999-01-01'", True),
        ("timestamptz", "timestamptz '0044-03-15 BC'", True),
    ],
)
def test_an_age_that_is_none_differs(database: Database, kind: str, age: str, *, refused: bool) -> None:
    database.query(f"CREATE TABLE odd (id text PRIMARY KEY, name text, age {kind}, country text)")
    database.query(f"INSERT INTO odd VALUES ('a/b', 'alex', {age}, 'canada'), ('a/left', 'alex', {age}, 'canada')")
    done = audit(database, "-o", "json", resources=[made("b", "odd", namespace="a")])
    finding, left = json.loads(done.stdout, parse_constant=pytest.fail)["findings"]
    assert left["id"] == "a/left"
    expected = ("PostgreSQL refuses a value of the resource", []) if refused else ("", ["age"])
    assert (finding["detail"], finding["fields"]) == expected

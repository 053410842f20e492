"""`postgres-writer audit` where one table is odd or a role sees another: what it must not conclude from that."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from integration.audits import audit, findings, made, row
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.postgres import Database


@contextmanager
def role(database: Database, name: str, *grants: str) -> Iterator[Database]:
    """Log in as a role of the test's own with these grants."""
    full = f"{name}_{database.name}"
    database.query(f"CREATE ROLE {full} LOGIN")
    try:
        for grant in grants:
            database.query(grant.format(role=full))
        yield type(database)({**database.connect, "user": full})
    finally:
        database.query(f"DROP OWNED BY {full}")
        database.query(f"DROP ROLE {full}")


def told(database: Database, *arguments: str, resources: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return findings(audit(database, "-o", "json", *arguments, resources=resources))


def test_a_numeric_id_is_that_table_s_trouble(database: Database) -> None:
    database.query("CREATE TABLE numbers (id bigserial PRIMARY KEY, name text, age int, country text)")
    row(database, "default/left")
    found = told(database, resources=[made("n", "numbers"), made("b")])
    assert found == [
        ("missing", "default/b", "students"),
        ("no-resource", "default/left", "public.students"),
        ("unreadable", "", "public.numbers"),
    ]
    assert told(database, "--all-tables", resources=[]) == [("no-resource", "default/left", "public.students")]


def test_odd_relations_are_reported_and_the_rest_is_audited(database: Database) -> None:
    statements = [
        # fails only while it is read
        "CREATE VIEW broken AS SELECT 'default/x' || i AS id, 'n' AS name, 1 / (5000 - i) AS age, 'c' AS country"
        " FROM generate_series(1, 9000) i",
        "CREATE MATERIALIZED VIEW unfilled AS SELECT * FROM students WITH NO DATA",
        "CREATE SEQUENCE counter",
        "CREATE SCHEMA hidden",
        "CREATE TABLE hidden.pupils (id text PRIMARY KEY, name text, age int, country text)",
        "CREATE TABLE denied (id text PRIMARY KEY, name text, age int, country text)",
        "INSERT INTO students VALUES ('default/good', 'alex', 23, 'canada'), ('default/left', 'alex', 23, 'canada')",
    ]
    for statement in statements:
        database.query(statement)
    tables = ("broken", "unfilled", "counter", "hidden.pupils", "denied", "hidden.absent", "none.pupils")
    resources = [made("good"), *(made(f"r-{number}", table) for number, table in enumerate(tables))]
    grants = ["GRANT SELECT ON students, broken, unfilled TO {role}"]
    with role(database, "reader", *grants) as reader:
        found = told(reader, resources=resources)
    assert found == [
        ("missing", "default/r-5", "hidden.absent"),
        ("missing", "default/r-6", "none.pupils"),
        ("no-resource", "default/left", "public.students"),
        ("unreadable", "", "hidden.pupils"),
        *(("unreadable", "", f"public.{name}") for name in ("broken", "counter", "denied", "unfilled")),
    ]


def test_foreign_tables_whose_server_fails_hold_up_no_other(database: Database) -> None:
    statements = [
        "CREATE FOREIGN DATA WRAPPER none",
        "CREATE SERVER none FOREIGN DATA WRAPPER none",
        "CREATE FOREIGN TABLE far (id text, name text, age int, country text) SERVER none",
        # what postgres_fdw raises while the connection of ours is well
        "CREATE FUNCTION down() RETURNS text LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'could not connect' USING ERRCODE = '08001'; END $$",
        "CREATE VIEW farther AS SELECT down() AS id, 'n' AS name, 1 AS age, 'c' AS country",
    ]
    for statement in statements:
        database.query(statement)
    row(database, "default/left")
    found = told(database, resources=[made("a", "far"), made("b"), made("c", "farther")])
    assert found == [
        ("missing", "default/b", "students"),
        ("no-resource", "default/left", "public.students"),
        ("unreadable", "", "public.far"),
        ("unreadable", "", "public.farther"),
    ]


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
    database.query(
        "CREATE VIEW slow AS SELECT 'default/x' AS id, 'n' AS name, 1 AS age, 'c' AS country FROM pg_sleep(600)"
    )
    row(database, "default/b")
    done = audit(database, "-o", "json", "--timeout", "2", resources=[made("a", "slow"), made("b")])
    assert findings(done) == [("unreadable", "", "public.slow")]
    assert "57014" in done.stdout


def test_a_connection_that_is_ended_ends_the_audit_with_a_sentence(database: Database) -> None:
    database.query("CREATE VIEW slow AS SELECT pg_sleep(600)::text AS id, 'n' AS name, 1 AS age, 'c' AS country")
    row(database, "default/b")
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND wait_event = 'PgSleep'"
    with ThreadPoolExecutor() as pool:
        running = pool.submit(audit, database, "-o", "json", resources=[made("a", "slow"), made("b")])
        wait_until(lambda: database.query(end, database.name) == [(True,)], "the audit to read the slow view")
        done = running.result()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "postgres-writer: PostgreSQL ended the audit's transaction: run it again.\n"


def test_another_search_path_makes_no_duplicate_of_a_live_row(database: Database) -> None:
    database.query("CREATE SCHEMA copies")
    database.create_table("copies.students")
    row(database, "default/live")
    path = "ALTER ROLE {role} SET search_path = copies, public"
    grants = ["GRANT USAGE ON SCHEMA copies TO {role}", "GRANT SELECT ON ALL TABLES IN SCHEMA copies, public TO {role}"]
    resources = [made("live"), made("other", "public.students")]
    with role(database, "reader", path, *grants) as reader:
        found = told(reader, resources=resources)
        assert ("elsewhere", "default/live", "public.students") in found
        assert "duplicate" not in {kind for kind, _, _ in found}
        database.query("INSERT INTO copies.students SELECT * FROM students")
        done = audit(reader, "-o", "json", resources=resources)
    assert ("duplicate", "default/live", "public.students") in findings(done)
    assert "several schemas have a table students" in done.stdout


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


def test_row_level_security_is_named_where_it_may_hide_a_row(database: Database) -> None:
    row(database, "default/a")
    for statement in ("ALTER TABLE students ENABLE ROW LEVEL SECURITY", "CREATE POLICY none ON students USING (false)"):
        database.query(statement)
    with role(database, "reader", "GRANT SELECT ON students TO {role}") as reader:
        done = audit(reader, "-o", "json", resources=[made("a")])
    assert findings(done) == [("missing", "default/a", "students")]
    assert "row-level security" in done.stdout


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
def test_an_age_that_is_none_is_shown_as_it_is(database: Database, kind: str, age: str) -> None:
    database.query(f"CREATE TABLE odd (id text PRIMARY KEY, name text, age {kind}, country text)")
    database.query(f"INSERT INTO odd VALUES ('a/b', 'alex', {age}, 'canada')")
    [(shown,)] = database.query("SELECT age::text FROM odd")
    done = audit(database, "-o", "json", "--show-values", resources=[made("b", "odd", namespace="a")])
    [finding] = json.loads(done.stdout, parse_constant=pytest.fail)["findings"]
    assert finding["differences"] == [{"field": "age", "resource": 23, "row": shown}]

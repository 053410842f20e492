"""The server with exactly the grants of docs/grants.sql, and the suite of the hooks and the store as such a role."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2.errors
import pytest

from postgres_writer.core.row import POSTGRES_ROW
from support.payloads import DELETED, payload, resource
from support.postgres import Database, program, scrubbed_environment
from support.server import running_server

ROOT = Path(__file__).parents[2]
GRANTS = ROOT / "docs" / "grants.sql"
SUITE = ("tests/integration/store", "tests/integration/test_hooks.py", "tests/integration/test_metrics.py")
NEEDS_AN_OWNER = (
    # another database, and others whose whole schema is planted, which the inner role could not use
    "tests/integration/store/test_refusals.py::test_a_server_encoding_that_lacks_a_character",
)


@pytest.fixture(params=[{}])
def role(request: pytest.FixtureRequest, database: Database) -> Iterator[Database]:
    """Make a role with the grants of the script on students, run by psql as documented; nothing comes from PUBLIC."""
    name = f"least_{database.name}"
    database.query(f"REVOKE ALL ON SCHEMA public FROM PUBLIC; REVOKE ALL ON DATABASE {database.name} FROM PUBLIC")
    database.query(f"CREATE ROLE {name} LOGIN PASSWORD 'least'")
    variables = {"role": name, "database": database.name, "schema": "public", "table": "students", **request.param}
    connect = database.connect
    subprocess.run(
        [
            str(program("psql")),
            *(part for key, value in variables.items() for part in ("-v", f"{key}={value}")),
            *("-h", connect["host"], "-p", connect["port"], "-U", connect["user"], "-d", database.name),
            *("-X", "-q", "-f", str(GRANTS)),
        ],
        check=True,
        capture_output=True,
        env={**scrubbed_environment(os.environ), "PGPASSWORD": connect.get("password", "")},
        timeout=60,
    )
    yield Database({**connect, "user": name, "password": "least"})
    database.query(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_the_script_grants_enough_for_the_life_of_a_row(role: Database, database: Database) -> None:
    spec = {"table": "students", "name": "alex", "age": 23, "country": "canada"}
    with running_server(role) as server:
        status = server.post("sync", payload(resource(spec))).json()["status"]
        assert database.rows() == [("default/sample", "alex", 23, "canada")]
        status = server.post("sync", payload(resource({**spec, "age": 24}, status))).json()["status"]
        assert database.rows() == [("default/sample", "alex", 24, "canada")]
        answer = server.post("finalize", payload(resource(spec, status, **DELETED), finalizing=True)).json()
        assert answer["finalized"] is True
        assert database.rows() == []


@pytest.mark.parametrize("role", [{"id": "id", "columns": "name, age"}], ids=["on columns"], indirect=True)
def test_grants_on_columns_are_enough_for_a_row_of_them(role: Database, database: Database) -> None:
    columns = [{"name": "name", "value": "alex"}, {"name": "age", "value": 23}]
    spec: dict[str, Any] = {"table": "students", "columns": columns}
    with running_server(role) as server:
        status = server.post("sync", payload(resource(spec, kind=POSTGRES_ROW))).json()["status"]
        assert database.rows() == [("row/default/sample", "alex", 23, None)], status
        # the next one looks only, the one after it releases a column
        assert server.post("sync", payload(resource(spec, status, kind=POSTGRES_ROW))).json()["status"] == status
        fewer = resource({**spec, "columns": columns[:1]}, status, kind=POSTGRES_ROW, generation=2)
        status = server.post("sync", payload(fewer)).json()["status"]
        assert database.rows() == [("row/default/sample", "alex", None, None)], status
        more = {**spec, "columns": [*columns, {"name": "country", "value": "canada"}]}
        denied = server.post("sync", payload(resource(more, status, kind=POSTGRES_ROW, generation=3))).json()["status"]
        assert denied["conditions"][0]["reason"] == "AccessDenied"
        assert "column country" in denied["conditions"][0]["message"]
        gone = resource(more, denied, kind=POSTGRES_ROW, **DELETED)
        assert server.post("finalize", payload(gone, finalizing=True)).json()["finalized"] is True
        assert database.rows() == []


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM secret",
        "DELETE FROM secret",
        "TRUNCATE students",
        "DROP TABLE students",
        "ALTER TABLE students ADD COLUMN more text",
        "CREATE TABLE more (id int)",
        "CREATE TRIGGER more BEFORE INSERT ON students EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "GRANT SELECT ON students TO PUBLIC",
        "CREATE SCHEMA more",
        "CREATE ROLE more",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY students TO PROGRAM 'true'",
    ],
)
def test_the_script_grants_no_more(role: Database, database: Database, statement: str) -> None:
    database.create_table("secret")
    # GRANT without the option to do so is a warning, so what it did is looked at below
    if statement.startswith("GRANT"):
        role.query(statement)
        held = "SELECT 1 FROM information_schema.role_table_grants WHERE grantee = 'PUBLIC' AND table_name = 'students'"
        assert database.query(held) == []
        return
    with pytest.raises((psycopg2.errors.InsufficientPrivilege, psycopg2.errors.ReadOnlySqlTransaction)):
        role.query(statement)


def test_a_table_outside_the_grants_is_an_honest_state(role: Database, database: Database) -> None:
    database.create_table("secret")
    spec = {"table": "secret", "name": "alex", "age": 23, "country": "canada"}
    with running_server(role) as server:
        status = server.post("sync", payload(resource(spec))).json()["status"]
        assert status["conditions"][0]["reason"] == "AccessDenied"
        assert status["tables"] == [], "a mistyped table must not hold up the deletion"
        answer = server.post("finalize", payload(resource(spec, status, **DELETED), finalizing=True)).json()
        assert answer["finalized"] is True
    assert database.rows("secret") == []


@pytest.mark.skipif("TEST_PSQL_DSN" in os.environ, reason="the inner run would make its role on a server not its own")
def test_the_suite_passes_with_exactly_these_grants() -> None:
    deselected = [f"--deselect={name}" for name in NEEDS_AN_OWNER]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *deselected, *SUITE],
        cwd=ROOT,
        env={**scrubbed_environment(os.environ), "TEST_HOOK_ROLE": "least"},
        capture_output=True,
        text=True,
        check=False,
        timeout=580,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    summary = done.stdout.splitlines()[-1]
    print(f"as a role with the least grants: {summary}")  # shown by pytest -rP
    assert f"{len(NEEDS_AN_OWNER)} deselected" in summary, "a test that is excepted has another name now"

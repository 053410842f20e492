"""`postgres-writer audit` on resources of the kind PostgresRow: any columns, any column for the id."""

from __future__ import annotations

import json
import tracemalloc
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from integration.audits import audit, findings, made, row, synced
from postgres_writer.audit.compare import Audit
from postgres_writer.audit.model import parse_resource
from postgres_writer.audit.resources import PAGE, Kubectl
from postgres_writer.audit.rows import Rows, connect
from postgres_writer.audit.spool import Spool
from postgres_writer.core.row import POSTGRES_ROW
from support.payloads import condition, resource

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from postgres_writer.core.row import Kind
    from support.postgres import Database

WIDE = """CREATE TABLE wide (id text PRIMARY KEY, plan text, seats int, limits jsonb, tags text[], ends timestamptz,
    code char(4), raw json)"""
VALUES = {"plan": "gold", "seats": 25, "limits": {"cpu": 4, "b": [1.5, None]}, "tags": ["a", None], "ends": None}
VALUES |= {"code": "ab", "raw": {"x": 1}}
STORED = ("gold", 25, '{"b": [1.5, null], "cpu": 4}', ["a", None], None, "ab", '{"x": 1}')
INSERT = "INSERT INTO wide VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"


REFUSED = "PostgreSQL refuses a value of the resource"


def declared(
    name: str, values: dict[str, Any], table: str = "wide", namespace: str = "default", **changes: Any
) -> dict[str, Any]:
    """Return a PostgresRow that was synced to the table; ``changes``: of metadata, or status or idColumn."""
    spec = {"table": table, "columns": [{"name": column, "value": value} for column, value in values.items()]}
    if id_column := changes.pop("idColumn", None):
        spec["idColumn"] = id_column
    status = changes.pop("status", synced(table))
    return resource(spec, status, kind=POSTGRES_ROW, namespace=namespace, name=name, **changes)


def told(database: Database, *arguments: str, resources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    done = audit(database, "-o", "json", *arguments, resources=resources)
    assert done.returncode in (0, 1), done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
    return found


def test_values_of_any_type_are_compared_as_the_server_compares_them(database: Database) -> None:
    database.query(WIDE)
    database.query(INSERT, "row/default/same", *STORED)
    assert told(database, resources=[declared("same", VALUES)]) == []
    others: dict[str, Any] = {
        "plan": None,
        "seats": "26",
        "limits": {"cpu": 5},
        "tags": ["a"],
        "ends": "2026-01-01T00:00:00Z",
        "code": "abc",
        "raw": {"x": 2},
    }
    for column, value in others.items():
        [finding] = told(database, resources=[declared("same", {**VALUES, column: value})])
        assert (finding["finding"], finding["fields"], finding["detail"]) == ("differs", [column], ""), column
    [finding] = told(database, resources=[declared("same", {**VALUES, "tags": None, "seats": 7})])
    assert finding["fields"] == ["seats", "tags"]


def test_every_kind_of_finding_is_told_of_rows_too(database: Database) -> None:
    for table in ("wide", "old"):
        database.query(WIDE.replace("wide", table))
    for name in ("ok", "changed", "double", "left", "given-up"):
        database.query(INSERT, f"row/default/{name}", *STORED)
    for name in ("double", "moved"):
        database.query(INSERT.replace("wide", "old"), f"row/default/{name}", *STORED)
    resources = [
        declared("ok", VALUES),
        declared("changed", {**VALUES, "seats": 26}),
        declared("double", VALUES),
        declared("moved", VALUES),
        declared("never", VALUES, status=None),
        declared("nowhere", VALUES, table="absent"),
        declared("given-up", VALUES, status={**synced("wide"), "conditions": [condition("Unknown", "Unmanaged")]}),
    ]
    assert findings(audit(database, "-o", "json", "--table", "old", resources=resources)) == [
        ("missing", "row/default/moved", "public.wide"),
        ("missing", "row/default/never", "public.wide"),
        ("missing", "row/default/nowhere", "public.absent"),
        ("differs", "row/default/changed", "public.wide"),
        ("elsewhere", "row/default/moved", "public.old"),
        ("duplicate", "row/default/double", "public.old"),
        ("no-resource", "row/default/left", "public.wide"),
        ("unmanaged", "row/default/given-up", "public.wide"),
    ]


def test_both_kinds_share_a_table_and_their_ids_are_ordered_by_their_bytes(database: Database) -> None:
    spaces = ["roa", "ro", "rox", "row", "row-a", "rov"]
    resources = [made("a", namespace=space) for space in spaces]
    resources += [declared("a", {"age": 23}, "students", namespace=space) for space in spaces]
    row(database, *(f"{space}/a" for space in spaces), *(f"row/{space}/a" for space in spaces))
    assert told(database, resources=resources) == []
    row(database, "row/b", "row/row/b")
    left = [(one["finding"], one["id"]) for one in told(database, resources=resources)]
    assert left == [("no-resource", "row/b"), ("no-resource", "row/row/b")]
    named = told(database, "-n", "row", resources=resources)
    assert [one["id"] for one in named] == ["row/b", "row/row/b"]
    database.query("DELETE FROM students WHERE id IN ('row/a', 'row/rox/a')")
    assert [one["id"] for one in told(database, "-n", "row", resources=resources)] == ["row/a", "row/b", "row/row/b"]


def test_a_value_that_postgresql_refuses_is_the_trouble_of_its_own_row(database: Database) -> None:
    database.query("CREATE DOMAIN even AS int CHECK (VALUE % 2 = 0)")
    database.query("CREATE TABLE many (id text PRIMARY KEY, a int, b even, c uuid)")
    database.query("INSERT INTO many SELECT 'row/default/r-' || i, i, 2 * i, NULL FROM generate_series(1, 300) i")
    values = {number: {"a": number, "b": 2 * number, "c": None} for number in range(1, 301)}
    bad: dict[int, dict[str, Any]] = {7: {"a": "x"}, 120: {"b": 3}, 121: {"c": "no-uuid"}, 300: {"a": 2**40}}
    resources = [declared(f"r-{number}", {**each, **bad.get(number, {})}, "many") for number, each in values.items()]
    resources[49] = declared("r-50", {"a": 51}, "many")
    found = told(database, resources=resources)
    assert [(one["finding"], one["id"].removeprefix("row/default/r-"), one["detail"]) for one in found] == [
        ("differs", "120", REFUSED),
        ("differs", "121", REFUSED),
        ("differs", "300", REFUSED),
        ("differs", "50", ""),
        ("differs", "7", REFUSED),
    ]
    assert found[3]["fields"] == ["a"]


def test_a_column_that_was_dropped_is_named_and_the_others_are_compared(database: Database) -> None:
    database.query(WIDE)
    for name in ("a", "b"):
        database.query(INSERT, f"row/default/{name}", *STORED)
    database.query("ALTER TABLE wide DROP COLUMN seats")
    resources = [declared("a", {"seats": 25, "plan": "gold"}), declared("b", {"seats": 25, "plan": "x"})]
    resources.append(declared("c", {"plan": "x"}))
    found = told(database, resources=resources)
    assert [(one["finding"], one["id"], one["fields"], one["detail"]) for one in found] == [
        ("missing", "row/default/c", [], "last sync: RowSynced"),
        ("differs", "row/default/a", [], "the table has no column seats"),
        ("differs", "row/default/b", ["plan"], "the table has no column seats"),
    ]


@pytest.mark.parametrize("column", ["plan", "things"])
def test_a_function_of_a_column_that_is_dropped_meanwhile_is_not_taken_for_it(database: Database, column: str) -> None:
    """PostgreSQL reads x.plan as plan(x) where x has no such column, and the name of a table as its row."""
    database.query(f"CREATE TABLE things (id text PRIMARY KEY, {column} text)")
    database.query("INSERT INTO things VALUES ('row/default/a', 'gold')")
    wanted = parse_resource(declared("a", {column: "gold"}, "things"), lambda _: "public")
    with closing(connect(database.config())) as connection:
        reader = Rows(connection, 60)
        reader.resolve({wanted.home})
        database.query(f"""
            ALTER TABLE things DROP {column};
            CREATE FUNCTION {column}(things) RETURNS text LANGUAGE sql AS $$SELECT 'gold'$$
        """)
        with reader.snapshot():
            [own] = reader.all(None)
            assert reader.compare([(wanted, own)]) == {}
    assert reader.tables.unreadable == {wanted.home: "it was altered meanwhile (SQLSTATE 42703)"}


def test_a_column_of_ids_that_is_renamed_meanwhile_is_told(database: Database) -> None:
    """A table may be called like the column: its name alone would be its row."""
    database.query("CREATE TABLE code (code text PRIMARY KEY)")
    with closing(connect(database.config())) as connection:
        reader = Rows(connection, 60)
        reader.resolve({("public.code", "code")})
        database.query("ALTER TABLE code RENAME code TO id")
        with reader.snapshot():
            assert list(reader.all(None)) == []
    assert reader.tables.unreadable == {("public.code", "code"): "it was altered meanwhile (SQLSTATE 42703)"}


class Documents(Kubectl):
    """A cluster with 40 resources that hold a megabyte each, in pages of one."""

    def pages(
        self, namespace: str | None = None, page: int = PAGE, kinds: Iterable[Kind] = ()
    ) -> Iterator[list[dict[str, Any]]]:
        return ([self.get(f"row/default/r-{number}")] for number in range(10, 50))

    def get(self, row: str) -> dict[str, Any]:
        return declared(row.rpartition("/")[2], {"plan": row[-1] * 1_000_000})


def test_the_documents_that_are_in_memory_at_once_are_bounded(database: Database) -> None:
    database.query("CREATE TABLE wide (id text PRIMARY KEY, plan text)")
    database.query(
        "INSERT INTO wide SELECT 'row/default/r-' || i, repeat(right(i::text, 1), 1000000)"
        " FROM generate_series(10, 49) AS i"
    )
    database.query("UPDATE wide SET plan = plan || 'x' WHERE id = 'row/default/r-17'")
    with closing(Spool()) as spool:
        tracemalloc.start()
        try:
            Audit(Documents(), {"default": database.config()}, spool, confirm_after=0).run()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert [(one.id, one.differences) for one in spool.findings()] == [("row/default/r-17", ("plan",))]
    # several copies of a few of them are made on the way to PostgreSQL
    assert peak < 20_000_000


def test_a_row_of_which_no_column_can_be_compared_is_judged_by_its_id(database: Database) -> None:
    database.query(WIDE)
    for name in ("bare", "lost"):
        database.query(INSERT, f"row/default/{name}", *STORED)
    [found] = told(database, resources=[declared("bare", {}), declared("lost", {"gone": 1})])
    assert (found["id"], found["detail"]) == ("row/default/lost", "the table has no column gone")


def test_one_table_is_read_by_each_column_that_holds_ids(database: Database) -> None:
    database.query("CREATE TABLE items (id text PRIMARY KEY, code varchar UNIQUE, number bigint, plan text)")
    rows = [("row/default/by-id", None), ("theirs/1", "row/default/by-code"), ("theirs/2", "row/default/left")]
    for about, code in rows:
        database.query("INSERT INTO items VALUES (%s, %s, 1, 'gold')", about, code)
    by_code = [declared("by-code", {"plan": "gold"}, "items", idColumn="code")]
    assert [(one["finding"], one["id"]) for one in told(database, resources=by_code)] == [
        ("no-resource", "row/default/left")
    ]
    both = [*by_code, declared("by-id", {"plan": "gold"}, "items")]
    assert [(one["finding"], one["id"]) for one in told(database, resources=both)] == [
        ("no-resource", "row/default/left"),
        ("no-resource", "theirs/1"),
        ("no-resource", "theirs/2"),
    ]
    odd = [declared(column, {"plan": "gold"}, "items", idColumn=column) for column in ("number", "absent")]
    found = told(database, resources=[*by_code, *odd])
    assert [(one["finding"], one["id"], one["detail"]) for one in found] == [
        ("missing", "row/default/absent", "the table does not exist, or has no column absent"),
        ("no-resource", "row/default/left", ""),
        ("unreadable", "", "its column number is of type bigint, not a text type"),
    ]


def test_a_table_by_name_is_read_by_every_column_that_holds_ids(database: Database) -> None:
    database.query("CREATE TABLE items (number bigint PRIMARY KEY, code text UNIQUE)")
    database.query("INSERT INTO items VALUES (1, 'row/default/left')")
    by_code = [declared("by-code", {}, "items", idColumn="code")]
    expected = [("missing", "row/default/by-code"), ("no-resource", "row/default/left")]
    found = told(database, "--table", "items", resources=by_code)
    assert [(one["finding"], one["id"]) for one in found] == expected
    done = audit(database, "--table", "items", resources=[])
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no such table with a column id" in done.stderr


@pytest.mark.parametrize("encoding", ["UTF8", "SQL_ASCII", "LATIN1"])
def test_what_the_database_s_encoding_can_hold_is_compared(database: Database, encoding: str) -> None:
    name = f"{database.name}_{encoding.lower()}"
    database.query(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'")
    try:
        other = type(database)({**database.connect, "dbname": name})
        other.query("CREATE TABLE wide (id text PRIMARY KEY, plan text)")
        text = b"Zo\\303\\253" if encoding != "LATIN1" else b"Zo\\353"
        value = f"convert_from('{text.decode()}'::bytea, '{encoding}')"
        other.query(f"INSERT INTO wide VALUES ('row/default/a', {value}), ('row/default/b', 'x')")
        found = told(other, resources=[declared("a", {"plan": "Zo\u00eb"}), declared("b", {"plan": "\u65e5"})])
        detail = REFUSED if encoding == "LATIN1" else ""
        assert [(one["finding"], one["id"], one["detail"]) for one in found] == [("differs", "row/default/b", detail)]
    finally:
        database.query(f"DROP DATABASE {name}")

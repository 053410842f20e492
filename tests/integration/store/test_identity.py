"""A row belongs to a resource if its id is the same to the byte, whatever the column's type takes for equal."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from postgres_writer.core.plan import Operation
from postgres_writer.database import statements
from postgres_writer.database.store import Store
from support.postgres import Database
from support.subject import ROW, Subject

STRANGER = ("Default/Sample", "bob", 1, "chile")
TEXTS = ("id", "name", "country")
COLUMNS = "name text, age int, country text"
VALUES = ("name", "age", "country")
TYPES = {
    "citext": ("CREATE EXTENSION citext", "citext"),
    "a nondeterministic collation": (
        "CREATE COLLATION caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
        "text COLLATE caseless",
    ),
}
"""What makes the type, and its name."""


@pytest.fixture(params=TYPES)
def caseless(request: pytest.FixtureRequest, contrib: Database) -> Iterator[tuple[Database, Subject]]:
    """Make a table in which another's row has an id that differs from ours only in case."""
    made, kind = TYPES[request.param]
    contrib.query(
        f"{made}; ALTER TABLE students ALTER id TYPE {kind}, ALTER name TYPE {kind}, ALTER country TYPE {kind}"
    )
    contrib.query("INSERT INTO students VALUES (%s, %s, %s, %s)", *STRANGER)
    store = Store(contrib.config())
    yield contrib, Subject(store)
    store.close()


def rows(database: Database) -> list[tuple[object, ...]]:
    return database.query("SELECT id::text, name::text, age, country::text FROM students ORDER BY id::text")


def test_an_equal_id_of_somebody_else_is_not_overwritten(caseless: tuple[Database, Subject]) -> None:
    database, subject = caseless
    for _ in range(2):
        subject.sync()
        assert subject.ready == "False RowRejected"
        assert "as equal" in subject.message
        assert rows(database) == [STRANGER]
    assert subject.finalize()
    assert subject.done() is Operation.ABSENT
    assert rows(database) == [STRANGER]
    assert "Default/Sample" not in str(subject.answer)


def test_once_the_equal_id_is_gone_the_row_lives_its_life(caseless: tuple[Database, Subject]) -> None:
    database, subject = caseless
    subject.sync()
    database.query("DELETE FROM students")
    assert subject.sync() is Operation.INSERTED
    assert subject.edit(age=24).sync() is Operation.UPDATED
    assert subject.sync() is Operation.UNCHANGED
    database.query("UPDATE students SET id = 'DEFAULT/sample'")
    subject.sync()
    assert subject.ready == "False RowRejected"
    assert subject.finalize()
    assert rows(database) == [("DEFAULT/sample", "alex", 24, "canada")]


def test_an_equal_id_of_somebody_else_holds_up_a_move_and_stays(caseless: tuple[Database, Subject]) -> None:
    database, subject = caseless
    database.create_table("pupils")
    assert subject.edit(table="pupils").sync() is Operation.INSERTED
    subject.edit(table="students").sync()
    assert (subject.ready, subject.tables) == ("False RowRejected", ["public.pupils", "public.students"])
    assert "as equal" in subject.message
    assert (rows(database), database.rows("pupils")) == ([STRANGER], [ROW])


def test_a_move_away_from_an_equal_id_of_somebody_else_leaves_it(caseless: tuple[Database, Subject]) -> None:
    database, subject = caseless
    database.create_table("pupils")
    subject.sync()
    assert subject.edit(table="pupils").sync() is Operation.MOVED
    assert (rows(database), database.rows("pupils")) == ([STRANGER], [ROW])


def test_spellings_of_a_value_that_compare_equal_are_told_apart(caseless: tuple[Database, Subject]) -> None:
    database, subject = caseless
    database.query("DELETE FROM students")
    subject.edit(name="Alex").sync()
    assert database.query("SELECT name = 'ALEX' FROM students") == [(True,)]
    assert subject.edit(name="alex").sync() is Operation.UPDATED
    assert subject.edit(country="Canada").sync() is Operation.UPDATED
    assert rows(database) == [("default/sample", "alex", 23, "Canada")]


@pytest.mark.parametrize("event", ["INSERT", "INSERT OR UPDATE"])
def test_a_trigger_that_changes_the_id_leaves_no_row(database: Database, subject: Subject, event: str) -> None:
    database.query(
        "CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.id := NEW.id || '-' || clock_timestamp(); RETURN NEW; END $$;"
        f"CREATE TRIGGER act BEFORE {event} ON students FOR EACH ROW EXECUTE FUNCTION act()"
    )
    for _ in range(3):
        subject.sync()
        assert subject.ready == "False RowRejected"
        assert "changes its id" in subject.message
        assert database.rows() == []
    assert subject.finalize()


def test_a_trigger_that_changes_the_id_of_an_update_leaves_the_row_as_it_was(
    database: Database, subject: Subject
) -> None:
    subject.sync()
    database.query(
        "CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.id := 'x'; RETURN NEW; END $$;"
        "CREATE TRIGGER act BEFORE UPDATE ON students FOR EACH ROW EXECUTE FUNCTION act()"
    )
    subject.edit(age=24).sync()
    assert subject.ready == "False RowRejected"
    assert "changes its id" in subject.message
    assert database.rows() == [ROW]
    assert subject.finalize()
    assert database.rows() == []


@pytest.mark.parametrize(
    ("kind", "fits"),
    [
        ("text", True),
        ("varchar", True),
        ("varchar(40)", True),
        ("varchar(5)", False),
        ("char(40)", True),
        ("char(5)", False),
        ("name", True),
        ("key", True),
    ],
)
def test_other_types_of_id_hold_the_row_or_refuse_it(
    database: Database, subject: Subject, kind: str, fits: bool
) -> None:
    database.query("CREATE DOMAIN key AS text CHECK (value <> '')")
    database.query(f"CREATE TABLE odd (id {kind} PRIMARY KEY, {COLUMNS})")
    operation = subject.edit(table="odd").sync()
    if fits:
        assert operation is Operation.INSERTED
        assert subject.sync() is Operation.UNCHANGED
        assert subject.edit(age=24).sync() is Operation.UPDATED
        assert subject.edit(table="students").sync() is Operation.MOVED
        assert subject.edit(table="odd").sync() is Operation.MOVED
    else:
        assert subject.ready == "False RowRejected"
        assert "too long" in subject.message
    assert subject.finalize()
    assert database.query("SELECT * FROM odd") == []


def test_a_type_that_cuts_the_id_short_takes_no_row(database: Database, subject: Subject) -> None:
    database.query(f"CREATE TABLE odd (id name PRIMARY KEY, {COLUMNS})")
    subject.metadata = {"name": "n" * 100}
    subject.edit(table="odd").sync()
    assert subject.ready == "False RowRejected"
    assert "changes its id" in subject.message
    assert database.query("SELECT * FROM odd") == []


@pytest.mark.parametrize(
    "message",
    [statements.write("public.students", VALUES, ("public.pupils",)), statements.remove("public.students")],
    ids=["move", "remove"],
)
def test_the_row_is_found_by_the_unique_index(database: Database, message: statements.Message) -> None:
    database.create_table("pupils")
    for table in ("students", "pupils"):
        database.query(
            f"INSERT INTO {table} SELECT 'default/r' || n, 'x', n, 'y' FROM generate_series(1, 5000) n; ANALYZE {table}"
        )
    given = {"id": "default/r7", "doc": "{}", "key": 1, "until": 0.0, "by": 0.0, "word": statements.WORD}
    with database.connection() as connection, connection.cursor() as cursor:
        cursor.execute("SET plan_cache_mode = force_generic_plan")
        for part in message.parts:
            if " public." not in part.text.replace('"', ""):
                continue
            prepare, execute = part.prepared()
            cursor.execute(prepare)
            cursor.execute(f"EXPLAIN {execute}", given)
            plan = "\n".join(line for (line,) in cursor.fetchall())
            assert re.search("Index (Only )?Scan using", plan)
            assert not re.search("Seq Scan on (?!pg_inherits)", plan), plan

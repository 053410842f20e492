"""What PostgreSQL refuses: tables that do not take the row, triggers, rules. No value ever reaches message or log."""

from __future__ import annotations

import logging

import pytest

from postgres_writer.core.plan import Operation
from postgres_writer.database.store import Store
from support.postgres import Database
from support.subject import ROW, Subject

SECRET = "zanzibar-4711"
COLUMNS = "name text, age int, country text"

TABLES: list[tuple[str, str, str]] = [
    ("no primary key", f"(id text, {COLUMNS})", "needs a primary key or unique constraint"),
    ("a key over more columns", f"(id text, {COLUMNS}, PRIMARY KEY (id, age))", "needs a primary key or unique"),
    ("a deferrable key", f"(id text PRIMARY KEY DEFERRABLE, {COLUMNS})", "is DEFERRABLE"),
    ("a deferrable key beside an index", f"(id text PRIMARY KEY DEFERRABLE, {COLUMNS});"
     "CREATE UNIQUE INDEX ON odd (id)", "is DEFERRABLE"),
    ("an exclusion constraint", f"(id text, {COLUMNS}, EXCLUDE USING btree (id WITH =))", "needs a primary key"),
    ("a partial unique index", f"(id text, {COLUMNS}); CREATE UNIQUE INDEX ON odd (id) WHERE age > 0", "primary key"),
    ("no column id", f"(key text PRIMARY KEY, {COLUMNS})", "it has no column id."),
    ("no column name", "(id text PRIMARY KEY, age int, country text)", "it has no column name."),
    ("no column age and no country", "(id text PRIMARY KEY, name text)", "it has no columns age, country."),
    ("no columns", "()", "it has no columns id, name, age, country"),
    ("columns in capitals", '("ID" text PRIMARY KEY, "NAME" text)', "it has no columns id, name, age, country"),
    ("id is an integer", f"(id int PRIMARY KEY, {COLUMNS})", "must be a text column"),
    ("id is a uuid", f"(id uuid PRIMARY KEY, {COLUMNS})", "must be a text column"),
    ("name is an integer", "(id text PRIMARY KEY, name int, age int, country text)", "does not have the form"),
    ("name is an enum", "(id text PRIMARY KEY, name text, age int, country text); CREATE TYPE mood AS ENUM ('sad');"
     "ALTER TABLE odd ALTER name TYPE mood USING 'sad'", "does not have the form"),
    ("age is a date", "(id text PRIMARY KEY, name text, age date, country text)", "(SQLSTATE 22007, column age)"),
    ("age is too small", f"(id text PRIMARY KEY, {COLUMNS}); ALTER TABLE odd ALTER age TYPE smallint", "too large"),
    ("name is too short", f"(id text PRIMARY KEY, {COLUMNS}); ALTER TABLE odd ALTER name TYPE varchar(5)", "too long"),
    ("a check", f"(id text PRIMARY KEY, {COLUMNS}, CONSTRAINT children CHECK (age < 18))",
     "check constraint forbids it (SQLSTATE 23514, constraint children)"),
    ("a constraint of a strange name", f'(id text PRIMARY KEY, {COLUMNS}, CONSTRAINT "a b" CHECK (age < 18))',
     "(SQLSTATE 23514)"),
    ("a check that imitates a guard", f"(id text PRIMARY KEY, {COLUMNS}, CHECK ((name || ' missing ')::int > 0))",
     "does not have the form"),
    ("another column without a default", f"(id text PRIMARY KEY, {COLUMNS}, grade int NOT NULL)", "needs a value"),
    ("a foreign key", f"(id text PRIMARY KEY, {COLUMNS}, FOREIGN KEY (name) REFERENCES students (id))", "foreign key"),
    ("a deferred foreign key", f"(id text PRIMARY KEY, {COLUMNS}, FOREIGN KEY (name) REFERENCES students (id)"
     " DEFERRABLE INITIALLY DEFERRED)", "a foreign key forbids it"),
    ("a unique name", f"(id text PRIMARY KEY, {COLUMNS}, UNIQUE (name));"
     f"INSERT INTO odd VALUES ('x', '{SECRET}', 1, 'y')", "must be unique"),
    ("a deferred unique name", f"(id text PRIMARY KEY, {COLUMNS}, UNIQUE (name) DEFERRABLE INITIALLY DEFERRED"
     f"); INSERT INTO odd VALUES ('x', '{SECRET}', 1, 'y')", "must be unique"),
    ("a generated column", "(id text PRIMARY KEY, name text, age int, country text GENERATED ALWAYS AS (name) STORED)",
     "a column is generated"),
    ("a generated id", f"(id text GENERATED ALWAYS AS ('x') STORED PRIMARY KEY, {COLUMNS})", "a column is generated"),
    ("no partition", f"(id text PRIMARY KEY, {COLUMNS}) PARTITION BY LIST (id)", "it has no partition for the row"),
    ("a rule for inserts", f"(id text PRIMARY KEY, {COLUMNS});"
     "CREATE RULE act AS ON INSERT TO odd DO INSTEAD NOTHING", "a rule, or the kind of the table"),
]  # fmt: skip
"""What it is, the table ``odd``, and the essence of the message."""
UNLISTED = {
    *("no primary key", "a key over more columns", "a partial unique index", "an exclusion constraint"),
    *("a deferrable key", "a deferrable key beside an index", "no column id", "no columns", "columns in capitals"),
    *("id is an integer", "id is a uuid"),
}
"""Those of which it is known that the row cannot be there: listed they could block the deletion."""


def assert_silent(subject: Subject, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the answer nor the log tells a value of a row or a text of PostgreSQL."""
    for place in (str(subject.answer), caplog.text):
        assert SECRET not in place
        assert "Traceback" not in place


@pytest.mark.parametrize("case", TABLES, ids=[case[0] for case in TABLES])
def test_a_table_that_does_not_take_the_row(
    database: Database, subject: Subject, caplog: pytest.LogCaptureFixture, case: tuple[str, str, str]
) -> None:
    """As the first table, as the target of a move, as the source of one, and at the end of the resource."""
    caplog.set_level(logging.DEBUG)
    kind, table, sentence = case
    listed = [] if kind in UNLISTED else ["public.odd"]
    database.query(f"CREATE TABLE odd {table}")
    subject.edit(table="odd", name=SECRET, age=70000).sync()
    assert (subject.ready, subject.tables) == ("False RowRejected", listed)
    assert sentence in subject.message
    subject.sync()
    assert (subject.ready, subject.tables) == ("False RowRejected", listed), "and stays so"
    assert sentence in subject.message
    subject.edit(table="students").sync()
    assert (subject.ready, subject.tables) == ("True RowSynced", ["public.students"])
    subject.edit(table="odd").sync()
    assert (subject.ready, subject.tables) == ("False RowRejected", ["public.students", *listed])
    assert sentence in subject.message
    assert database.rows() == [("default/sample", SECRET, 70000, "canada")]
    assert_silent(subject, caplog)
    assert subject.finalize()
    assert database.rows() == []


def trigger(database: Database, event: str, body: str, table: str = "students") -> None:
    """Make a row trigger; ``event`` as in BEFORE INSERT."""
    database.query(
        f"CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;"
        f"CREATE TRIGGER act {event} ON {table} FOR EACH ROW EXECUTE FUNCTION act()"
    )


RAISE = f"RAISE EXCEPTION 'no % {SECRET}', NEW.name"
WRITES: list[tuple[str, str, str, str]] = [
    ("swallows the insert", "BEFORE INSERT", "RETURN NULL;", "discards it"),
    ("changes the name", "BEFORE INSERT OR UPDATE", "NEW.name := 'bob'; RETURN NEW;", "changes its values"),
    ("changes the case", "BEFORE INSERT", "NEW.country := upper(NEW.country); RETURN NEW;", "changes its values"),
    ("changes the id", "BEFORE INSERT", f"NEW.id := '{SECRET}'; RETURN NEW;", "changes its id"),
    ("raises", "BEFORE INSERT", f"{RAISE};", "(SQLSTATE P0001)"),
    ("raises afterwards", "AFTER INSERT", f"{RAISE};", "(SQLSTATE P0001)"),
    ("imitates a guard", "BEFORE INSERT", "RAISE EXCEPTION 'for type integer: \"x missing \"' USING ERRCODE = '22P02';",
     "(SQLSTATE 22P02)"),
    ("raises a denial", "BEFORE INSERT", f"{RAISE} USING ERRCODE = '42501';", "a trigger or function"),
    ("raises with a constraint that is a value", "BEFORE INSERT",
     f"{RAISE} USING ERRCODE = '23514', CONSTRAINT = 'x {SECRET}';", "(SQLSTATE 23514)"),
    ("needs a table that is missing", "BEFORE INSERT", "INSERT INTO audit VALUES (1); RETURN NEW;",
     "raised an error (SQLSTATE 42P01)"),
    ("needs a column that is missing", "BEFORE INSERT",
     "NEW.nothing := 1; RETURN NEW;", "raised an error (SQLSTATE 42703)"),
    ("divides by zero", "BEFORE INSERT", "NEW.age := 1 / 0; RETURN NEW;", "(SQLSTATE 22012)"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("event", "body", "sentence"), [case[1:] for case in WRITES], ids=[f"a trigger that {case[0]}" for case in WRITES]
)
def test_a_trigger_in_the_way_of_a_write(  # noqa: PLR0913, PLR0917
    database: Database, subject: Subject, caplog: pytest.LogCaptureFixture, event: str, body: str, sentence: str
) -> None:
    caplog.set_level(logging.DEBUG)
    trigger(database, event, body)
    subject.edit(name=SECRET).sync()
    assert subject.ready == "False RowRejected"
    assert sentence in subject.message
    assert subject.tables == ["public.students"]
    assert_silent(subject, caplog)


def test_a_deferred_trigger_that_raises_at_the_commit(
    database: Database, subject: Subject, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    database.query(
        f"CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {RAISE}; END $$;"
        "CREATE CONSTRAINT TRIGGER act AFTER INSERT OR UPDATE ON students DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION act()"
    )
    subject.edit(name=SECRET).sync()
    assert subject.ready == "False RowRejected"
    assert database.rows() == []
    assert_silent(subject, caplog)


def test_a_trigger_that_swallows_an_update(database: Database, subject: Subject) -> None:
    subject.sync()
    trigger(database, "BEFORE UPDATE", "RETURN NULL;")
    subject.edit(age=24).sync()
    assert subject.ready == "False RowRejected"
    assert database.rows() == [ROW]
    database.query("DROP TRIGGER act ON students")
    subject.sync()
    assert subject.ready == "True RowSynced"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param("RETURN NULL;", "keeps it", id="swallows"),
        pytest.param(f"RAISE EXCEPTION '{SECRET}';", "P0001", id="raises"),
        pytest.param("DELETE FROM audit; RETURN OLD;", "42P01", id="needs a table that is missing"),
    ],
)
def test_a_trigger_in_the_way_of_a_delete(
    database: Database, subject: Subject, caplog: pytest.LogCaptureFixture, body: str, message: str
) -> None:
    caplog.set_level(logging.DEBUG)
    database.create_table("pupils")
    subject.sync()
    trigger(database, "BEFORE DELETE", body)
    subject.edit(table="pupils").sync()
    assert subject.ready.startswith("False ")
    assert subject.tables == ["public.students", "public.pupils"]
    assert (database.rows(), database.rows("pupils")) == ([ROW], [])
    assert not subject.finalize()
    assert (subject.ready, subject.tables) == ("False DeleteFailed", ["public.students"])
    assert message in subject.message
    assert "Retain" in subject.message
    assert database.rows() == [ROW]
    assert_silent(subject, caplog)
    database.query("DROP TRIGGER act ON students")
    assert subject.finalize()
    assert database.rows() == []


@pytest.mark.parametrize("publish", ["update", "delete"])
def test_a_publication_without_a_replica_identity_is_named(database: Database, subject: Subject, publish: str) -> None:
    subject.sync()
    database.query(
        "ALTER TABLE students REPLICA IDENTITY NOTHING;"
        f"CREATE PUBLICATION changes FOR TABLE students WITH (publish = '{publish}')"
    )
    try:
        if publish == "update":
            subject.edit(age=24).sync()
            assert subject.ready == "False RowRejected"
        else:
            assert not subject.finalize()
        assert "without a replica identity" in subject.message
        assert "SQLSTATE 55000" in subject.message
        assert database.rows() == [ROW]
    finally:
        database.query("DROP PUBLICATION changes")


@pytest.mark.parametrize("deferred", ["", " DEFERRABLE INITIALLY DEFERRED"], ids=["at once", "deferred"])
def test_a_row_that_others_point_at_cannot_go(database: Database, subject: Subject, deferred: str) -> None:
    subject.sync()
    database.query(
        f"CREATE TABLE marks (student text REFERENCES students (id){deferred});"
        "INSERT INTO marks VALUES ('default/sample')"
    )
    assert not subject.finalize()
    assert (subject.ready, subject.tables) == ("False DeleteFailed", ["public.students"])
    assert "foreign key" in subject.message
    database.query("DELETE FROM marks")
    assert subject.finalize()
    assert database.rows() == []


def test_one_bad_table_does_not_keep_the_others_from_being_cleared(database: Database, subject: Subject) -> None:
    for table in ("a", "b", "c"):
        database.create_table(table)
        database.query(f"INSERT INTO {table} SELECT 'default/sample', 'x', 1, 'y'")
    trigger(database, "BEFORE DELETE", "RETURN NULL;", table="b")
    subject.status = {"tables": ["public.a", "public.b", "public.c"], "observedTable": "c"}
    subject.spec["table"] = "c"
    assert not subject.finalize()
    assert (subject.ready, subject.tables) == ("False DeleteFailed", ["public.b"])
    assert [database.rows(table) for table in ("a", "c")] == [[], []]


def test_a_server_encoding_that_lacks_a_character(maintenance: Database) -> None:
    maintenance.query("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    database = Database({**maintenance.connect, "dbname": "latin"})
    database.create_table("students")
    store = Store(database.config())
    subject = Subject(store)
    assert subject.edit(name="é").sync() is Operation.INSERTED
    subject.edit(name="\U0001f600").sync()
    assert subject.ready == "False RowRejected"
    assert "encoding of the database" in subject.message
    assert subject.edit(name="ü").sync() is Operation.UPDATED
    assert database.rows()[0][1] == "ü"
    store.close()
    maintenance.drop_sibling(database)

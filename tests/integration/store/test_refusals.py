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
    ("no primary key", f"TABLE odd (id text, {COLUMNS})", "primary key or unique constraint on id"),
    ("a key over more columns", f"TABLE odd (id text, {COLUMNS}, PRIMARY KEY (id, age))", "primary key or unique"),
    ("a deferrable key", f"TABLE odd (id text PRIMARY KEY DEFERRABLE, {COLUMNS})", "constraint on id is DEFERRABLE"),
    ("a deferrable key beside an index", f"TABLE odd (id text PRIMARY KEY DEFERRABLE, {COLUMNS});"
     "CREATE UNIQUE INDEX ON odd (id)", "constraint on id is DEFERRABLE"),
    ("an exclusion constraint", f"TABLE odd (id text, {COLUMNS}, EXCLUDE USING btree (id WITH =))",
     "primary key or unique constraint on id"),
    ("a partial unique index", f"TABLE odd (id text, {COLUMNS}); CREATE UNIQUE INDEX ON odd (id) WHERE age > 0",
     "primary key or unique"),
    ("no column id", f"TABLE odd (key text PRIMARY KEY, {COLUMNS})", "columns id, name, age and country"),
    ("no column name", "TABLE odd (id text PRIMARY KEY, age int, country text)", "columns id, name, age and country"),
    ("no column age", "TABLE odd (id text PRIMARY KEY, name text, country text)", "columns id, name, age and country"),
    ("no columns", "TABLE odd ()", "columns id, name, age and country"),
    ("columns in capitals", 'TABLE odd ("ID" text PRIMARY KEY, "NAME" text)', "columns id, name, age and country"),
    ("id is an integer", f"TABLE odd (id int PRIMARY KEY, {COLUMNS})", "must be text columns and age an integer"),
    ("id is a uuid", f"TABLE odd (id uuid PRIMARY KEY, {COLUMNS})", "must be text columns and age an integer"),
    ("name is an integer", "TABLE odd (id text PRIMARY KEY, name int, age int, country text)", "must be text columns"),
    ("name is jsonb", "TABLE odd (id text PRIMARY KEY, name jsonb, age int, country text)", "must be text columns"),
    ("age is a text", "TABLE odd (id text PRIMARY KEY, name text, age text, country text)", "age an integer"),
    ("age is a date", "TABLE odd (id text PRIMARY KEY, name text, age date, country text)", "age an integer"),
    ("age is too small", f"TABLE odd (id text PRIMARY KEY, {COLUMNS}); ALTER TABLE odd ALTER age TYPE smallint",
     "age is too large"),
    ("name is too short", f"TABLE odd (id text PRIMARY KEY, {COLUMNS}); ALTER TABLE odd ALTER name TYPE varchar(5)",
     "too long"),
    ("a check", f"TABLE odd (id text PRIMARY KEY, {COLUMNS}, CONSTRAINT children CHECK (age < 18))",
     "check constraint forbids it (SQLSTATE 23514, constraint children)"),
    ("a constraint of a strange name", f'TABLE odd (id text PRIMARY KEY, {COLUMNS}, CONSTRAINT "a b" CHECK (age < 18))',
     "(SQLSTATE 23514)"),
    ("another column without a default", f"TABLE odd (id text PRIMARY KEY, {COLUMNS}, grade int NOT NULL)",
     "column besides"),
    ("a foreign key", f"TABLE odd (id text PRIMARY KEY, {COLUMNS}, FOREIGN KEY (name) REFERENCES students (id))",
     "a foreign key forbids it"),
    ("a deferred foreign key", f"TABLE odd (id text PRIMARY KEY, {COLUMNS}, FOREIGN KEY (name) REFERENCES students (id)"
     " DEFERRABLE INITIALLY DEFERRED)", "a foreign key forbids it"),
    ("a unique name", f"TABLE odd (id text PRIMARY KEY, {COLUMNS}, UNIQUE (name));"
     f"INSERT INTO odd VALUES ('x', '{SECRET}', 1, 'y')", "must be unique"),
    ("a deferred unique name", f"TABLE odd (id text PRIMARY KEY, {COLUMNS}, UNIQUE (name) DEFERRABLE INITIALLY DEFERRED"
     f"); INSERT INTO odd VALUES ('x', '{SECRET}', 1, 'y')", "must be unique"),
    ("a generated column", "TABLE odd (id text PRIMARY KEY, name text, age int, country text GENERATED ALWAYS AS (name)"
     " STORED)", "PostgreSQL refused it"),
    ("a view of constants", "VIEW odd AS SELECT 'x' AS id, 'x' AS name, 1 AS age, 'x' AS country", "updatable view"),
    ("a view of a join", "VIEW odd AS SELECT s.* FROM students s JOIN students t ON s.id = t.id", "updatable view"),
    ("a view with a computed column", "VIEW odd AS SELECT id, upper(name) AS name, age, country FROM students",
     "a rule, or the kind of the table"),
    ("a materialised view", "MATERIALIZED VIEW odd AS SELECT * FROM students", "a table or an updatable view"),
    ("a sequence", "SEQUENCE odd", "a table or an updatable view"),
    ("an index", "INDEX odd ON students (name)", "a table or an updatable view"),
    ("a composite type", f"TYPE odd AS ({COLUMNS})", "a table or an updatable view"),
    ("a partitioned table without partitions",
     f"TABLE odd (id text PRIMARY KEY, {COLUMNS}) PARTITION BY LIST (id)", "check constraint forbids it"),
    ("a foreign table", f"FOREIGN DATA WRAPPER none; CREATE SERVER none FOREIGN DATA WRAPPER none;"
     f"CREATE FOREIGN TABLE odd (id text, {COLUMNS}) SERVER none", "a table or an updatable view"),
    ("a view with triggers", "TABLE base (LIKE students);"
     "CREATE VIEW odd AS SELECT id, upper(name) AS name, age, country FROM base;"
     "CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;"
     "CREATE TRIGGER act INSTEAD OF INSERT OR UPDATE OR DELETE ON odd FOR EACH ROW EXECUTE FUNCTION act()",
     "primary key or unique constraint on id"),
    ("a rule for inserts", f"TABLE odd (id text PRIMARY KEY, {COLUMNS});"
     "CREATE RULE act AS ON INSERT TO odd DO INSTEAD NOTHING", "a rule, or the kind of the table"),
]  # fmt: skip
UNLISTED = {
    *("no primary key", "a key over more columns", "a partial unique index", "an exclusion constraint"),
    *("a deferrable key", "a deferrable key beside an index", "no column id", "no columns", "columns in capitals"),
    *("a view of constants", "a view of a join", "a materialised view", "a sequence", "an index", "a composite type"),
    *("a foreign table", "a view with triggers"),
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
    listed = [] if kind in UNLISTED else ["odd"]
    database.query(f"CREATE {table}")
    subject.edit(table="odd", name=SECRET, age=70000).sync()
    assert (subject.ready, subject.tables) == ("False RowRejected", listed)
    assert sentence in subject.message
    subject.sync()
    assert (subject.ready, subject.tables) == ("False RowRejected", listed), "and stays so"
    assert sentence in subject.message
    subject.edit(table="students").sync()
    assert (subject.ready, subject.tables) == ("True RowSynced", ["public.students"])
    subject.edit(table="odd").sync()
    assert (subject.ready, subject.tables) == ("False RowRejected", ["students", *listed])
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
    ("swallows the insert", "BEFORE INSERT", "RETURN NULL;", "swallowed it"),
    ("changes the name", "BEFORE INSERT OR UPDATE", "NEW.name := 'bob'; RETURN NEW;", "changed its values"),
    ("changes the case", "BEFORE INSERT", "NEW.country := upper(NEW.country); RETURN NEW;", "changed its values"),
    ("changes the id", "BEFORE INSERT", f"NEW.id := '{SECRET}'; RETURN NEW;", "changed the id"),
    ("raises", "BEFORE INSERT", f"{RAISE};", "(SQLSTATE P0001)"),
    ("raises afterwards", "AFTER INSERT", f"{RAISE};", "(SQLSTATE P0001)"),
    ("raises a guard's word", "BEFORE INSERT", "RAISE EXCEPTION 'postgres-writer:';", "(SQLSTATE P0001)"),
    ("raises a denial", "BEFORE INSERT", f"{RAISE} USING ERRCODE = '42501';", "row-level security or a trigger"),
    ("raises with a constraint that is a value", "BEFORE INSERT",
     f"{RAISE} USING ERRCODE = '23514', CONSTRAINT = 'x {SECRET}';", "(SQLSTATE 23514)"),
    ("needs a table that is missing", "BEFORE INSERT", "INSERT INTO audit VALUES (1); RETURN NEW;",
     "(SQLSTATE 42P01)"),
    ("needs a column that is missing", "BEFORE INSERT", "NEW.nothing := 1; RETURN NEW;", "(SQLSTATE 42703)"),
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
        pytest.param("RETURN NULL;", "swallowed", id="swallows"),
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


@pytest.mark.parametrize("event", ["INSERT", "UPDATE", "DELETE"])
def test_a_rule_that_does_nothing_instead(database: Database, subject: Subject, event: str) -> None:
    subject.sync()
    database.query(f"CREATE RULE nothing AS ON {event} TO students DO INSTEAD NOTHING")
    if event == "DELETE":
        assert not subject.finalize()
        assert subject.ready == "False DeleteFailed"
        assert database.rows() == [ROW]
    else:
        subject.edit(age=24).sync()
        assert subject.ready == "False RowRejected"


def test_a_view_that_shows_the_row_of_another_table_does_not_hold_it(database: Database, subject: Subject) -> None:
    subject.sync()
    database.query("CREATE VIEW pairs AS SELECT s.* FROM students s JOIN students t USING (id)")
    subject.edit(table="pairs").sync()
    assert (subject.ready, subject.tables) == ("False RowRejected", ["public.students"])
    subject.edit(table="students").sync()
    assert (subject.ready, subject.tables) == ("True RowSynced", ["public.students"])
    subject.edit(table="pairs").sync()
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


def test_a_second_row_with_the_id_in_a_child_of_the_table_is_said_and_both_go(
    database: Database, subject: Subject
) -> None:
    """A unique constraint covers a table, and not those that inherit from it."""
    subject.sync()
    database.query("CREATE TABLE kids () INHERITS (students); INSERT INTO kids SELECT * FROM students")
    subject.edit(age=24).sync()
    assert (subject.ready, subject.tables) == ("False RowRejected", ["public.students"])
    assert "more than one row has its id (SQLSTATE 21000)" in subject.message
    assert database.rows() == [ROW, ROW]
    assert subject.finalize()
    assert database.rows() == []


def test_an_id_that_the_table_makes_itself_is_refused(database: Database, subject: Subject) -> None:
    database.query(f"CREATE TABLE odd (id text GENERATED ALWAYS AS ('x') STORED PRIMARY KEY, {COLUMNS})")
    subject.edit(table="odd").sync()
    assert subject.ready == "False RowRejected"
    assert subject.finalize()


def test_a_view_that_passes_rows_on_by_triggers_takes_none(database: Database, subject: Subject) -> None:
    """ON CONFLICT works for simple views only, so the row is never written; another one under its id is left alone."""
    database.query(
        "CREATE TABLE base (LIKE students INCLUDING ALL);"
        "CREATE VIEW odd AS SELECT id, upper(name) AS name, age, country FROM base;"
        "CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF TG_OP = 'DELETE' THEN DELETE FROM base WHERE id = OLD.id; RETURN OLD; END IF;"
        " INSERT INTO base VALUES (NEW.id, NEW.name, NEW.age, NEW.country); RETURN NEW; END $$;"
        "CREATE TRIGGER act INSTEAD OF INSERT OR DELETE ON odd FOR EACH ROW EXECUTE FUNCTION act()"
    )
    subject.edit(table="odd").sync()
    assert (subject.ready, subject.tables) == ("False RowRejected", [])
    assert database.rows("base") == []
    subject.edit(table="students").sync()
    assert subject.ready == "True RowSynced"
    assert subject.finalize()

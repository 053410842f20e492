"""What is neither an ordinary nor a partitioned table takes no row, blocks no deletion, and is never believed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from postgres_writer.core.plan import Operation
from postgres_writer.database.store import Store
from support.postgres import Database
from support.subject import ROW, Subject

COLUMNS = "(id text, name text, age int, country text)"
PASSES_ON = (
    "CREATE VIEW odd AS SELECT id, upper(name) AS name, age, country FROM students;"
    "CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    " IF TG_OP = 'DELETE' THEN DELETE FROM students WHERE id = OLD.id; RETURN OLD; END IF;"
    " INSERT INTO students VALUES (NEW.id, NEW.name, NEW.age, NEW.country); RETURN NEW; END $$;"
    "CREATE TRIGGER act INSTEAD OF INSERT OR DELETE ON odd FOR EACH ROW EXECUTE FUNCTION act()"
)
KINDS = {
    "a view": "CREATE VIEW odd AS SELECT * FROM students",
    "a view with a condition that the row does not meet": "CREATE VIEW odd AS SELECT * FROM students WHERE age > 30",
    "a view of constants": "CREATE VIEW odd AS SELECT 'x' AS id, 'x' AS name, 1 AS age, 'x' AS country",
    "a view of a join": "CREATE VIEW odd AS SELECT s.* FROM students s JOIN students t USING (id)",
    "a view with triggers that pass rows on": PASSES_ON,
    "a materialised view": "CREATE MATERIALIZED VIEW odd AS SELECT * FROM students;CREATE UNIQUE INDEX ON odd (id)",
    "a materialised view with a condition that the row does not meet": (
        "CREATE MATERIALIZED VIEW odd AS SELECT * FROM students WHERE age > 30; CREATE UNIQUE INDEX ON odd (id)"
    ),
    "a sequence": "CREATE SEQUENCE odd",
    "an index": "CREATE INDEX odd ON students (name)",
    "a partitioned index": f"CREATE TABLE parts {COLUMNS} PARTITION BY HASH (id); CREATE INDEX odd ON parts (id)",
    "a composite type": f"CREATE TYPE odd AS {COLUMNS}",
    "a foreign table": "CREATE FOREIGN DATA WRAPPER none; CREATE SERVER none FOREIGN DATA WRAPPER none;"
    f"CREATE FOREIGN TABLE odd {COLUMNS} SERVER none",
}
SERVERS = {
    "a server that is down": "CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '1');"
    "CREATE USER MAPPING FOR PUBLIC SERVER far OPTIONS (user 'x', password 'y');"
    f"CREATE FOREIGN TABLE odd {COLUMNS} SERVER far",
    "a server without a user mapping": "CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1');"
    f"CREATE FOREIGN TABLE odd {COLUMNS} SERVER far",
    "a file": "CREATE SERVER far FOREIGN DATA WRAPPER file_fdw;"
    f"CREATE FOREIGN TABLE odd {COLUMNS} SERVER far OPTIONS (filename '/nowhere')",
}


def holds_up_nothing(database: Database, subject: Subject) -> None:
    """Check that the row never gets into ``odd``, and that all else goes on."""
    for _ in range(2):
        subject.edit(table="odd").sync()
        assert (subject.ready, subject.tables) == ("False RowRejected", [])
        assert subject.status["observedTable"] == "odd"
        assert "public.odd is not a table; choose" in subject.message
    assert database.rows() == []
    subject.edit(age=-1).sync()
    assert (subject.ready, subject.tables) == ("False InvalidSpec", [])
    subject.edit(age=23, table="students").sync()
    assert (subject.ready, subject.tables) == ("True RowSynced", ["public.students"])
    subject.edit(table="odd").sync()
    assert (subject.ready, subject.tables) == ("False RowRejected", ["public.students"])
    assert database.rows() == [ROW]
    assert subject.finalize()
    assert database.rows() == []


@pytest.mark.parametrize("made", KINDS.values(), ids=KINDS)
def test_what_is_no_table_takes_no_row_and_holds_up_nothing(database: Database, store: Store, made: str) -> None:
    database.query(made)
    broken = Subject(store).edit(table="odd", age=-1)
    broken.sync()
    assert (broken.ready, broken.tables) == ("False InvalidSpec", [])
    assert broken.finalize()
    holds_up_nothing(database, Subject(store))


@pytest.mark.parametrize("made", SERVERS.values(), ids=SERVERS)
def test_a_foreign_table_is_not_even_asked(contrib: Database, made: str) -> None:
    contrib.query(f"CREATE EXTENSION postgres_fdw; CREATE EXTENSION file_fdw; {made}")
    store = Store(contrib.config())
    subject = Subject(store)
    holds_up_nothing(contrib, subject)
    assert Subject(store).edit(table="odd").finalize(), "although nothing of it was ever recorded"
    store.close()


@pytest.fixture(params=[kind for kind in KINDS if "view" in kind and "of a" not in kind and "triggers" not in kind])
def replaced(request: pytest.FixtureRequest, database: Database, subject: Subject) -> Iterator[Subject]:
    """Give a resource whose table has become something else, which may show its row."""
    database.create_table("pupils")
    database.create_table("odd")
    subject.edit(table="odd").sync()
    database.query("ALTER TABLE odd RENAME TO base;" + KINDS[request.param].replace("students", "base"))
    yield subject
    database.query(
        f"DROP {'MATERIALIZED ' * request.param.startswith('a mat')}VIEW odd; ALTER TABLE base RENAME TO odd"
    )
    assert subject.finalize()
    assert database.rows("odd") == []


def test_a_listed_table_that_became_no_table_is_neither_written_nor_left(database: Database, replaced: Subject) -> None:
    replaced.edit(age=24).sync()
    assert (replaced.ready, replaced.tables) == ("False RowRejected", ["public.odd"])
    replaced.edit(table="pupils").sync()
    assert (replaced.ready, replaced.tables) == ("False RowRejected", ["public.odd", "public.pupils"])
    assert "cannot be moved from table public.odd" in replaced.message
    assert (database.rows("base"), database.rows("pupils")) == ([ROW], [])
    replaced.edit(age=-1).sync()
    assert (replaced.ready, replaced.tables) == ("False InvalidSpec", ["public.odd", "public.pupils"])


def test_a_listed_table_that_became_no_table_holds_the_finalizer(database: Database, replaced: Subject) -> None:
    assert not replaced.finalize()
    assert (replaced.ready, replaced.tables) == ("False DeleteFailed", ["public.odd"])
    assert "it is not a table" in replaced.message
    assert "Retain" in replaced.message
    assert database.rows("base") == [ROW]


def test_a_partition_on_another_server_that_replaced_the_table_holds_the_finalizer(contrib: Database) -> None:
    """What it leads to may be a view, which need not show the row."""
    where = {name: contrib.connect[name] for name in ("host", "port", "dbname")}
    contrib.query(
        "CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS ("
        + ", ".join(f"{name} '{value}'" for name, value in where.items())
        + "); CREATE USER MAPPING FOR PUBLIC SERVER far OPTIONS (user 'postgres', password_required 'false');"
        "DROP TABLE students"
    )
    contrib.create_table("odd")
    store = Store(contrib.config())
    subject = Subject(store)
    subject.edit(table="odd").sync()
    contrib.query(
        "ALTER TABLE odd RENAME TO students;"
        "CREATE VIEW none AS SELECT * FROM students WHERE false;"
        f"CREATE TABLE parts {COLUMNS} PARTITION BY LIST (id);"
        "CREATE FOREIGN TABLE odd PARTITION OF parts DEFAULT SERVER far OPTIONS (table_name 'none')"
    )
    subject.sync()
    assert (subject.ready, subject.tables) == ("False RowRejected", ["public.odd"])
    assert not subject.finalize()
    assert (subject.ready, subject.tables) == ("False DeleteFailed", ["public.odd"])
    assert "it is not a table" in subject.message
    assert contrib.rows() == [ROW]
    store.close()


def test_a_view_that_replaced_the_table_of_a_steady_row_is_not_called_ready(
    database: Database, subject: Subject
) -> None:
    subject.sync()
    assert subject.sync() is Operation.UNCHANGED
    database.query("ALTER TABLE students RENAME TO base; CREATE VIEW students AS SELECT * FROM base")
    subject.sync()
    assert subject.ready == "False RowRejected"


def test_a_kind_that_gives_way_to_a_table_is_recorded_first(database: Database, subject: Subject) -> None:
    database.query(KINDS["a view"])
    subject.edit(table="odd").sync()
    database.query("DROP VIEW odd")
    database.create_table("odd")
    subject.sync()
    assert (subject.ready, subject.tables) == ("False TableRecorded", ["public.odd"])
    assert subject.sync() is Operation.INSERTED


def test_a_table_with_a_partition_on_another_server_has_no_unique_id(contrib: Database) -> None:
    contrib.query(
        "CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1');"
        f"CREATE TABLE parts {COLUMNS} PARTITION BY HASH (id);"
        "CREATE FOREIGN TABLE parts_0 PARTITION OF parts FOR VALUES WITH (MODULUS 1, REMAINDER 0) SERVER far"
    )
    store = Store(contrib.config())
    subject = Subject(store)
    subject.edit(table="parts").sync()
    assert subject.ready == "False RowRejected"
    assert "primary key or unique constraint" in subject.message
    store.close()

"""Tables of another server: they have no unique constraint, so the row is never in them, and they hold up nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from postgres_writer.core.plan import Operation
from postgres_writer.database.store import Store
from support.postgres import Database
from support.subject import ROW, Subject

COLUMNS = "(id text, name text, age int, country text)"
EXTENSIONS = "CREATE EXTENSION postgres_fdw; CREATE EXTENSION file_fdw;"
SERVERS = {
    "a server that is down": "CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '1');"
    "CREATE USER MAPPING FOR PUBLIC SERVER far OPTIONS (user 'x', password 'y');"
    f"CREATE FOREIGN TABLE far {COLUMNS} SERVER far",
    "a server that is down and is asked for its estimates": "CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw"
    " OPTIONS (host '127.0.0.1', port '1', use_remote_estimate 'true');"
    "CREATE USER MAPPING FOR PUBLIC SERVER far OPTIONS (user 'x', password 'y');"
    f"CREATE FOREIGN TABLE far {COLUMNS} SERVER far",
    "a server without a user mapping": "CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1');"
    f"CREATE FOREIGN TABLE far {COLUMNS} SERVER far",
    "a file": "CREATE SERVER far FOREIGN DATA WRAPPER file_fdw;"
    f"CREATE FOREIGN TABLE far {COLUMNS} SERVER far OPTIONS (filename '/nowhere')",
    "a wrapper without a handler": "CREATE FOREIGN DATA WRAPPER none; CREATE SERVER far FOREIGN DATA WRAPPER none;"
    f"CREATE FOREIGN TABLE far {COLUMNS} SERVER far",
}


@pytest.fixture
def subject(contrib: Database) -> Iterator[Subject]:
    contrib.query(EXTENSIONS)
    store = Store(contrib.config())
    yield Subject(store)
    store.close()


def reach_itself(database: Database, table: str) -> None:
    """Make a foreign table ``far`` that is a table of the same database, through a connection of its own."""
    connect = database.connect
    database.query(
        "CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw"
        f" OPTIONS (host '{connect['host']}', port '{connect['port']}', dbname '{database.name}');"
        f"CREATE USER MAPPING FOR PUBLIC SERVER far OPTIONS (user '{connect['user']}', password_required 'false');"
        f"CREATE FOREIGN TABLE far {COLUMNS} SERVER far OPTIONS (table_name '{table}')"
    )


@pytest.mark.parametrize("foreign", SERVERS.values(), ids=SERVERS)
def test_a_mistyped_foreign_table_holds_up_nothing(contrib: Database, subject: Subject, foreign: str) -> None:
    contrib.query(foreign)
    for _ in range(2):
        subject.edit(table="far").sync()
        assert (subject.ready, subject.tables) == ("False RowRejected", [])
        assert subject.status["observedTable"] == "far"
        assert "far is not writable: it must be a table or an updatable view." in subject.message
    subject.edit(age=-1).sync()
    assert (subject.ready, subject.tables) == ("False InvalidSpec", [])
    subject.edit(age=23, table="students").sync()
    assert (subject.ready, subject.tables) == ("True RowSynced", ["public.students"])
    subject.edit(table="far").sync()
    assert (subject.ready, subject.tables) == ("False RowRejected", ["public.students"])
    assert subject.finalize()
    assert contrib.rows() == []


@pytest.mark.parametrize("foreign", SERVERS.values(), ids=SERVERS)
def test_an_invalid_first_spec_does_not_list_a_foreign_table(contrib: Database, subject: Subject, foreign: str) -> None:
    contrib.query(foreign)
    subject.edit(table="far", age=-1).sync()
    assert (subject.ready, subject.tables) == ("False InvalidSpec", [])
    assert subject.finalize()


@pytest.mark.parametrize("foreign", SERVERS.values(), ids=SERVERS)
def test_a_finalize_does_not_ask_a_foreign_table_that_was_never_listed(
    contrib: Database, subject: Subject, foreign: str
) -> None:
    contrib.query(foreign)
    subject.edit(table="far")
    assert subject.finalize()


@pytest.mark.parametrize("server", [server for server in SERVERS if server != "a file"])
def test_a_view_of_a_foreign_table_is_an_honest_state(contrib: Database, subject: Subject, server: str) -> None:
    contrib.query(f"{SERVERS[server]}; CREATE VIEW seen AS SELECT * FROM far")
    subject.edit(table="seen").sync()
    assert subject.ready == "False RowRejected"
    subject.edit(age=-1).sync()
    assert subject.ready == "False InvalidSpec"
    assert not subject.finalize()
    assert (subject.ready, subject.tables) == ("False DeleteFailed", ["public.seen"])
    subject.edit(deletionPolicy="Retain")
    assert subject.finalize()


def test_a_view_of_a_file_takes_no_rows(contrib: Database, subject: Subject) -> None:
    contrib.query(f"{SERVERS['a file']}; CREATE VIEW seen AS SELECT * FROM far")
    subject.edit(table="seen").sync()
    assert (subject.ready, subject.tables) == ("False RowRejected", [])
    assert subject.finalize()


def test_a_row_of_a_foreign_table_that_was_never_listed_is_not_deleted(contrib: Database, subject: Subject) -> None:
    reach_itself(contrib, "students")
    contrib.query("INSERT INTO students VALUES (%s, %s, %s, %s)", *ROW)
    subject.edit(table="far").sync()
    assert (subject.ready, subject.tables) == ("False RowRejected", [])
    assert subject.finalize()
    assert contrib.rows() == [ROW]


def test_a_table_that_became_a_foreign_one_while_it_was_listed_is_tried(contrib: Database, subject: Subject) -> None:
    contrib.create_table("far")
    subject.edit(table="far").sync()
    contrib.query("ALTER TABLE far RENAME TO base")
    reach_itself(contrib, "base")
    contrib.query("ALTER SERVER far OPTIONS (SET port '1')")
    subject.edit(table="students").sync()
    assert (subject.ready, subject.tables) == ("False RowRejected", ["public.far", "public.students"])
    assert not subject.finalize()
    assert (subject.ready, subject.tables) == ("False DeleteFailed", ["public.far"])
    assert "a server that the table depends on is unreachable (SQLSTATE 08001)" in subject.message
    assert "Retain" in subject.message
    contrib.query(f"ALTER SERVER far OPTIONS (SET port '{contrib.connect['port']}')")
    assert subject.finalize()
    assert (contrib.rows("base"), contrib.rows()) == ([], [])


def test_a_foreign_table_that_gives_way_to_a_table_is_recorded_first(contrib: Database, subject: Subject) -> None:
    contrib.query(SERVERS["a server that is down"])
    subject.edit(table="far").sync()
    contrib.query("DROP FOREIGN TABLE far")
    contrib.create_table("far")
    subject.sync()
    assert (subject.ready, subject.tables) == ("False TableRecorded", ["public.far"])
    assert subject.sync() is Operation.INSERTED


def test_a_table_with_a_partition_elsewhere_has_no_unique_id(contrib: Database, subject: Subject) -> None:
    contrib.query(
        SERVERS["a server that is down"] + ";"
        f"CREATE TABLE parts {COLUMNS} PARTITION BY HASH (id);"
        f"CREATE FOREIGN TABLE parts_0 PARTITION OF parts FOR VALUES WITH (MODULUS 1, REMAINDER 0) SERVER far"
    )
    subject.edit(table="parts").sync()
    assert subject.ready == "False RowRejected"
    assert "primary key or unique constraint on id" in subject.message

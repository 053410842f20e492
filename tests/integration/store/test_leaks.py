"""What a trigger, or another client of a pool, leaves in the session reaches no promise."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from postgres_writer.core.plan import Operation
from postgres_writer.database.store import Store
from postgres_writer.deadlines import LOADED_LOCK_SECONDS
from support.postgres import Database
from support.subject import Subject
from support.ways import both_ways, in_turn, is_prepared

TIMEOUT = 4.0
SETTINGS = {
    "statement_timeout": ["0", "'100ms'"],
    "lock_timeout": ["0", "'100ms'"],
    "default_transaction_isolation": ["'repeatable read'", "'serializable'"],
    "row_security": ["off"],
    "synchronous_commit": ["off"],
    "search_path": ["nowhere", "pg_temp"],
    "DateStyle": ["'SQL, DMY'"],
    "TimeZone": ["'Pacific/Apia'"],
    "client_encoding": ["'LATIN1'", "'SQL_ASCII'"],
    "standard_conforming_strings": ["off"],
    "extra_float_digits": ["-10"],
}
LEAKS = {f"{name} {value}": (name, value) for name, values in SETTINGS.items() for value in values}
NAMES = ("alex", "ÿ \\ 'é' \\u0041 \U0001f600\\")
EXPECT = f"""
IF (current_setting('transaction_isolation'), current_setting('statement_timeout'), current_setting('lock_timeout'))
    <> ('read committed', '{TIMEOUT:.0f}s', '{LOADED_LOCK_SECONDS * 1000:.0f}ms')
THEN RAISE EXCEPTION 'isolation or time-outs'; END IF;
"""


def trigger(database: Database, table: str, body: str) -> None:
    database.query(
        f"CREATE OR REPLACE FUNCTION act_{table}() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN {body} RETURN COALESCE(NEW, OLD); END $$;"
        f"CREATE TRIGGER act BEFORE INSERT OR UPDATE OR DELETE ON {table}"
        f" FOR EACH ROW EXECUTE FUNCTION act_{table}()"
    )


@pytest.fixture
def store(request: pytest.FixtureRequest, database: Database) -> Iterator[Store]:
    """Make a store of one connection, and a table besides students whose trigger the tests make."""
    database.create_table("pupils")
    store = Store(database.config(prepared_statements=is_prepared(request), statement_timeout=TIMEOUT), 1)
    yield store
    store.close()


@in_turn("store", "name, value", LEAKS)
def test_a_setting_that_is_left_behind_changes_nothing(database: Database, store: Store, name: str, value: str) -> None:
    trigger(database, "pupils", f"SET {name} TO {value};")
    trigger(database, "students", EXPECT)

    def leak() -> None:
        Subject(store, {"table": "pupils", "name": "x", "age": 1, "country": "y"}, metadata={"name": "leak"}).sync()
        database.query("TRUNCATE pupils")

    subject = Subject(store)
    for text in NAMES:
        leak()
        subject.edit(name=text, country=text).sync()
        assert subject.ready == "True RowSynced", subject.message
        assert database.rows() == [("default/sample", text, 23, text)]
        leak()
        assert subject.sync() is Operation.UNCHANGED
    leak()
    assert subject.finalize()
    assert database.rows() == []


@both_ways("store")
def test_a_role_that_is_left_behind_decides_nothing(database: Database, store: Store) -> None:
    """Its missing grants would otherwise prove that a row cannot be there which was written without an answer."""
    role = f"test_{secrets.token_hex(6)}"
    database.query(f"CREATE ROLE {role}; GRANT ALL ON pupils TO {role}")
    database.query(f"GRANT {role} TO {database.config().user}")
    trigger(database, "pupils", f"SET ROLE {role};")

    def leak() -> None:
        Subject(store, {"table": "pupils", "name": "x", "age": 1, "country": "y"}, metadata={"name": "leak"}).sync()
        database.query("TRUNCATE pupils")

    try:
        subject = Subject(store)
        subject.sync(lost=True)
        leak()
        subject.sync()
        assert (subject.ready, subject.tables) == ("True RowSynced", ["public.students"])
        leak()
        subject.sync()
        assert subject.ready == "True RowSynced", subject.message
        leak()
        subject.edit(age=24).sync()
        assert subject.ready == "True RowSynced", subject.message
        leak()
        assert subject.finalize()
        assert database.rows() == []
    finally:
        database.query(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_prepared_statements_that_are_lost_each_time_are_named(database: Database) -> None:
    trigger(database, "students", "DEALLOCATE ALL;")
    for prepared, ready in ((True, "False DatabaseUnavailable"), (False, "True RowSynced")):
        store = Store(database.config(prepared_statements=prepared), 1)
        subject = Subject(store)
        subject.sync()
        assert subject.ready == ready
        assert prepared is ("PSQL_PREPARED_STATEMENTS=false" in subject.message)
        store.close()


TIME_OUTS = ("statement_timeout", "lock_timeout", "transaction_timeout")


@in_turn("store", "name", {name: name for name in TIME_OUTS})
def test_a_time_out_that_is_left_behind_makes_no_outage_of_a_lock(database: Database, store: Store, name: str) -> None:
    if not database.query("SELECT 1 FROM pg_settings WHERE name = %s", name):
        pytest.skip("needs PostgreSQL 17")
    trigger(database, "pupils", f"SET {name} TO {'100' if name.startswith('trans') else '0'};")
    subject = Subject(store)
    subject.sync()
    Subject(store, {**subject.spec, "table": "pupils"}, metadata={"name": "leak"}).sync()
    with database.connection() as other:
        other.autocommit = False
        other.cursor().execute("SELECT 1 FROM students FOR UPDATE")
        subject.edit(age=24).sync()
        assert subject.ready == "False DatabaseBusy"
    subject.sync()
    assert subject.ready == "True RowSynced"


@pytest.mark.parametrize("prepared", [True, False], ids=["prepared", "plain"])
def test_a_transaction_timeout_of_the_role_is_no_outage(database: Database, prepared: bool) -> None:
    if not database.query("SELECT 1 FROM pg_settings WHERE name = 'transaction_timeout'"):
        pytest.skip("needs PostgreSQL 17")
    database.query(f"ALTER DATABASE {database.name} SET transaction_timeout = '1s'")
    # where connections are free a statement waits 3 s for a lock
    store = Store(database.config(prepared_statements=prepared, statement_timeout=TIMEOUT))
    subject = Subject(store)
    subject.sync()
    with database.connection(options="-c transaction_timeout=0") as other:
        other.autocommit = False
        other.cursor().execute("LOCK TABLE students")
        subject.edit(age=24).sync()
        assert subject.ready == "False DatabaseBusy"
        other.rollback()
        # the next test needs longer to empty the database than the transaction may take
        other.cursor().execute(f"ALTER DATABASE {database.name} RESET transaction_timeout")
        other.commit()
    store.close()

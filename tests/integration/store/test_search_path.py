"""A table without a schema in its name may become another one; the connection that finds it first logs it."""

from __future__ import annotations

import logging

import pytest

from postgres_writer.database.store import Store
from support.postgres import Database
from support.subject import Subject

CHANGED = "The search path has changed: a table name without a schema may now mean another table"


def logged(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """Return the messages of that level since the last call."""
    found = [record.getMessage() for record in caplog.records if record.levelno == level]
    caplog.clear()
    return found


@pytest.mark.parametrize("prepared", [True, False], ids=["prepared", "plain"])
def test_another_search_path_is_noticed_by_the_next_connection(
    database: Database, caplog: pytest.LogCaptureFixture, prepared: bool
) -> None:
    caplog.set_level(logging.INFO, "postgres_writer")
    store = Store(database.config(prepared_statements=prepared))
    subject = Subject(store)
    subject.sync()
    assert "Table names without a schema are looked up in these schemas" in logged(caplog, logging.INFO)
    store.close()
    subject.sync()
    assert logged(caplog, logging.WARNING) == [], "the same path is not worth a word"
    database.query(f"CREATE SCHEMA other; ALTER DATABASE {database.name} SET search_path = other, public")
    try:
        store.close()
        subject.sync()
        assert CHANGED in logged(caplog, logging.WARNING)
        store.close()
        subject.sync()
        assert logged(caplog, logging.WARNING) == [], "it is said once"
    finally:
        database.query(f"ALTER DATABASE {database.name} RESET search_path")
        store.close()


def test_a_schema_of_the_role_s_name_changes_the_default_path(
    database: Database, subject: Subject, caplog: pytest.LogCaptureFixture
) -> None:
    subject.sync()
    user = database.config().user
    database.query(f'CREATE SCHEMA "{user}"; GRANT USAGE ON SCHEMA "{user}" TO PUBLIC')
    subject.store.close()
    subject.sync()
    assert CHANGED in logged(caplog, logging.WARNING)

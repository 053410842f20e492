"""Fixtures of the tests on a real PostgreSQL: the store, a resource, and a role with few grants."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from psycopg2 import sql

from postgres_writer.store import Store
from support.postgres import Database
from support.subject import Limited, Subject


@pytest.fixture
def store(database: Database) -> Iterator[Store]:
    """Make a store on the test's own database."""
    store = Store(database.config())
    yield store
    store.close()


@pytest.fixture
def subject(store: Store) -> Subject:
    """Make a resource whose hooks work on the test's own database."""
    return Subject(store)


@pytest.fixture
def limited(maintenance: Database, template: Database) -> Iterator[Limited]:
    """Make a database and a role without any grant, not even those that everybody has on the schema public."""
    role = f"test_{secrets.token_hex(6)}"
    database = maintenance.create_sibling(template)
    password = secrets.token_hex(16)
    maintenance.query(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), sql.Literal(password)))
    database.query(f"REVOKE ALL ON SCHEMA public FROM PUBLIC; GRANT USAGE ON SCHEMA public TO {role}")
    store = Store(database.config(user=role, password=password))
    yield Limited(database, role, Subject(store))
    store.close()
    maintenance.drop_sibling(database)
    maintenance.query(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))

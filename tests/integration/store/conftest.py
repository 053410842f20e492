"""Fixtures of the store's tests: the store, a resource, and a role with few grants."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace

import pytest
from psycopg2 import sql

from postgres_writer.database.store import Store
from support.memory import memory_folder
from support.postgres import Database, private_instance
from support.programs import packaged_programs
from support.subject import Limited, Subject


@pytest.fixture(scope="package")
def packaged() -> Iterator[Database]:
    """Make a database in a PostgreSQL of the distribution: the embedded one has neither ICU nor contrib modules."""
    programs = packaged_programs()
    if programs is None:
        pytest.skip("needs PostgreSQL with its contrib modules (Debian: apt-get install postgresql)")
    with (
        private_instance(memory_folder(), programs=programs, tcp=True) as instance,
        instance.maintenance.sibling() as database,
    ):
        yield replace(database, kept=[])


@pytest.fixture
def contrib(packaged: Database) -> Database:
    """Give a database on that server in which nothing is but an empty table students."""
    packaged.empty()
    return packaged


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
def limited(database: Database) -> Iterator[Limited]:
    """Make a role without any grant, not even those that everybody has on the schema public."""
    role = f"test_{secrets.token_hex(6)}"
    password = secrets.token_hex(16)
    database.query(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), sql.Literal(password)))
    database.query(f"REVOKE ALL ON SCHEMA public FROM PUBLIC; GRANT USAGE ON SCHEMA public TO {role}")
    store = Store(database.config(user=role, password=password))
    yield Limited(database, role, password, Subject(store))
    store.close()
    database.query(f"DROP OWNED BY {role}; DROP ROLE {role}")

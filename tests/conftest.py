"""Fixtures that tests of all folders share: the environment without leftovers, and an empty database for each test."""

import gc
import os
from collections.abc import Iterator
from dataclasses import replace

import psycopg2.extensions
import pytest

from support.memory import memory_folder
from support.postgres import Database, private_instance, scrubbed_environment
from support.server import ServerProcess, running_server


def pytest_configure() -> None:
    """Remove what the developer's shell would let into servers and libpq."""
    kept = scrubbed_environment(os.environ)
    for name in list(os.environ):
        if name not in kept:
            del os.environ[name]
    # or every process of the tests, some hundred, compiles our modules anew
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what collection made: it stays, and each stop of a server collects all."""
    gc.freeze()


def pytest_report_header() -> str:
    """Say which PostgreSQL the tests use."""
    return f"postgresql: {'the one of TEST_PSQL_DSN' if 'TEST_PSQL_DSN' in os.environ else 'embedded'}"


@pytest.fixture(scope="session")
def maintenance() -> Iterator[Database]:
    """Reach the maintenance database of the server that TEST_PSQL_DSN names, or of an embedded one."""
    dsn = os.environ.get("TEST_PSQL_DSN")
    if dsn is not None:
        yield Database({"host": "localhost", **psycopg2.extensions.parse_dsn(dsn)})
        return
    with private_instance(memory_folder()) as instance:
        yield instance.maintenance


@pytest.fixture(scope="session")
def recycled(maintenance: Database) -> Iterator[Database]:
    """Make one database for many tests: to make and drop one for each would take most of their time."""
    with maintenance.sibling() as database:
        yield replace(database, kept=[])


@pytest.fixture
def database(recycled: Database) -> Database:
    """Give a database in which nothing is but an empty table students, and no session of an earlier test."""
    recycled.empty()
    return recycled


@pytest.fixture(scope="module")
def shared_database(maintenance: Database) -> Iterator[Database]:
    """Make a database that the tests of a module share."""
    with maintenance.sibling() as database:
        yield database


@pytest.fixture
def server(database: Database) -> Iterator[ServerProcess]:
    """Run a server on the test's own database."""
    with running_server(database) as process:
        yield process

"""A PostgreSQL to break, with a role as in production and a table, and the hook server on it."""

from collections.abc import Iterator

import pytest

from faults.site import Site, running_site
from support.postgres import STUDENTS, PostgresInstance, private_instance


@pytest.fixture(scope="module")
def instance() -> Iterator[PostgresInstance]:
    with private_instance(password="first") as instance:
        instance.maintenance.query("CREATE ROLE hook LOGIN PASSWORD 'hook'")
        instance.maintenance.query(STUDENTS)
        instance.maintenance.query("GRANT SELECT, INSERT, UPDATE, DELETE ON students TO hook")
        yield instance


@pytest.fixture(scope="module")
def site(instance: PostgresInstance) -> Iterator[Site]:
    """Run one server for all faults: after each it keeps running without a restart."""
    with running_site(instance, instance.port) as site:
        yield site

"""A PostgreSQL to break, with a role as in production and a table, the hook server on it, and servers with a token."""

from collections.abc import Iterator

import pytest

from faults.floods import TOKEN
from faults.site import Site, running_site
from support.certificates import make_certificate
from support.postgres import STUDENTS, Database, PostgresInstance, private_instance
from support.server import ServerProcess, running_server, serving


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


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    path.write_text(f"{TOKEN}\n")
    return str(path)


@pytest.fixture(scope="module")
def guarded(shared_database: Database, tokens: str) -> Iterator[ServerProcess]:
    """Run a server that asks for a token."""
    with running_server(shared_database, HOOK_TOKENS_FILE=tokens) as server:
        yield server


@pytest.fixture(scope="module")
def encrypted(
    shared_database: Database, tokens: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """Run a server that speaks TLS and asks for a token."""
    made = make_certificate(tmp_path_factory.mktemp("certificate"))
    environ = {**shared_database.environ, **made.environ, "HOOK_TOKENS_FILE": tokens}
    with serving(ServerProcess(environ, scheme="https", verify=str(made.certificate))) as server:
        yield server

"""The audit's connection to PostgreSQL, and its errors in words."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import psycopg2
from psycopg2 import extensions

from postgres_writer.config.settings import DatabaseConfig
from postgres_writer.errors import AuditError

_REASONS = {
    "42501": "the role may not read it",
    "42703": "it lacks one of the columns id, name, age and country",
    "42809": "it is not a table",
    "42P01": "it was dropped meanwhile",
    "55P03": "it is locked",
    "57014": "reading it took too long",
}
_FOREIGN = ("08", "HV")


def connect(config: DatabaseConfig) -> extensions.connection:
    """Connect. Raises AuditError when that fails."""
    failure: psycopg2.Error | None = None
    names = ",".join(host.name for host in config.hosts)
    reached = {
        "host": names,
        "port": ",".join(str(host.port) for host in config.hosts),
        # libpq takes whole seconds
        "connect_timeout": str(math.ceil(config.connect_timeout)),
        **config.connect_arguments(),
    }
    for password in config.passwords():
        try:
            connection: extensions.connection = psycopg2.connect(**reached, password=password)  # type: ignore[call-overload]
        except psycopg2.Error as error:
            failure = error
        else:
            return connection
    # without the driver's text: libpq quotes connection strings in some of them
    raise AuditError(f"PostgreSQL at {names} cannot be reached as {config.user}: check PSQL_*.") from failure


@contextlib.contextmanager
def transaction(connection: extensions.connection, mode: str) -> Iterator[extensions.cursor]:
    """Run a transaction. Raises AuditError with the SQLSTATE when PostgreSQL ends it."""
    try:
        # leaving the connection's block ends the transaction and keeps the connection
        # https://www.psycopg.org/docs/usage.html#with-statement
        with connection, connection.cursor() as cursor:
            cursor.execute(f"SET TRANSACTION {mode}")
            yield cursor
    except psycopg2.Error as error:
        code = f" (SQLSTATE {error.pgcode})" if error.pgcode else ""
        raise AuditError(f"PostgreSQL ended the audit's transaction{code}: run it again.") from error


@contextlib.contextmanager
def trying(cursor: extensions.cursor) -> Iterator[None]:
    """Run statements that may fail, and leave the transaction as it was before when one does.

    Raises the driver's error, with the transaction usable again, unless the connection itself is broken.
    """
    cursor.execute("SAVEPOINT audit")
    try:
        yield
    except psycopg2.Error:
        if not cursor.connection.closed:
            cursor.execute("ROLLBACK TO SAVEPOINT audit; RELEASE SAVEPOINT audit")
        raise
    cursor.execute("RELEASE SAVEPOINT audit")


def trouble(error: psycopg2.Error) -> str:
    """Say why a relation could not be read; PostgreSQL's own text may hold values of rows.

    Raises the error itself when it is about the connection: then no relation can be read.
    """
    code = error.pgcode or ""
    if not code:
        raise error
    known = "its foreign server fails" if code[:2] in _FOREIGN else "PostgreSQL refuses it"
    return f"{_REASONS.get(code, known)} (SQLSTATE {code})"

"""How a failed connect is read: what waits for a person, and what may pass."""

from __future__ import annotations

import pytest

from postgres_writer import errors
from postgres_writer.database.dial import LASTING, cause_of


@pytest.mark.parametrize(
    "why",
    [
        'FATAL:  password authentication failed for user "hook"',
        'FATAL:  Peer authentication failed for user "hook"',
        "FATAL:  SASL authentication failed",
        'FATAL:  role "hook" does not exist',
        'FATAL:  role "hook" is not permitted to log in',
        'FATAL:  database "school" does not exist',
        'FATAL:  database "school" is not currently accepting connections',
        'FATAL:  permission denied for database "school"',
        'FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "hook", database "school", no encryption',
        "FATAL:  no such database: school",
        "FATAL:  no such user: hook",
        "fe_sendauth: no password supplied",
    ],
)
def test_a_refused_login_is_no_outage(why: str) -> None:
    assert cause_of(f'connection to server at "10.0.0.2", port 5432 failed: {why}\n') in LASTING


@pytest.mark.parametrize(
    "why",
    [
        "Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?",
        "No such file or directory\n\tIs the server running locally and accepting connections on that socket?",
        "server closed the connection unexpectedly",
        "FATAL:  the database system is starting up",
        "FATAL:  the database system is shutting down",
        "FATAL:  the database system is in recovery mode",
        "FATAL:  the database system is not yet accepting connections",
        "FATAL:  sorry, too many clients already",
        'FATAL:  too many connections for role "hook"',
        "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
        "session is read-only",
        "timeout expired",
        "no answer from db in time",
    ],
)
def test_what_passes_is_one(why: str) -> None:
    assert cause_of(f'connection to server at "10.0.0.2", port 5432 failed: {why}\n') not in LASTING


@pytest.mark.parametrize(
    ("why", "cause"),
    [
        ('FATAL:  database "school" does not exist', errors.NO_DATABASE),
        ("FATAL:  no such database: school", errors.NO_DATABASE),
        ('FATAL:  role "hook" does not exist', errors.LOGIN_REFUSED),
        ("PSQL_PASSWORD_FILE cannot be read: /run/password (No such file or directory).", errors.LOGIN_REFUSED),
        ("FATAL:  sorry, too many clients already", errors.NO_CONNECTION),
        ('FATAL:  too many connections for role "hook"', errors.NO_CONNECTION),
        (
            "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
            errors.NO_CONNECTION,
        ),
        ("FATAL:  the database system is starting up", errors.STARTING),
        ("FATAL:  the database system is shutting down", errors.STARTING),
        (errors.READ_ONLY, errors.READ_ONLY),
        ("Connection refused", errors.UNAVAILABLE),
        ("FATAL:  le syst\u00e8me de bases de donn\u00e9es se lance", errors.UNAVAILABLE),
    ],
)
def test_the_cause_is_one_of_a_few(why: str, cause: str) -> None:
    assert cause_of(why) == cause

"""How a failed connect is read: a refused login waits for a person, everything else may pass."""

from __future__ import annotations

import pytest

from postgres_writer.database.dial import refuses_login


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
    assert refuses_login(f'connection to server at "10.0.0.2", port 5432 failed: {why}\n')


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
    assert not refuses_login(f'connection to server at "10.0.0.2", port 5432 failed: {why}\n')

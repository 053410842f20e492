"""Two real servers with streaming replication: the primary is stopped, the standby is promoted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from faults.load import steady_load
from faults.standby import promote, standby_of, wait_for_replay
from postgres_writer.deadlines import CIRCUIT_SECONDS
from support.callers import ask
from support.payloads import DELETED, payload, resource
from support.postgres import STUDENTS, PostgresInstance, private_instance
from support.server import ServerProcess, running_server
from support.waiting import wait_until

SPEC = {"table": "students", "name": "alex", "age": 23, "country": "canada"}


@dataclass(frozen=True)
class Pair:
    """A primary and its standby."""

    primary: PostgresInstance
    standby: PostgresInstance

    @property
    def environ(self) -> dict[str, str]:
        """The variables that name both, the primary first."""
        return {
            "PSQL_HOST": "127.0.0.1,127.0.0.1",
            "PSQL_PORT": f"{self.primary.port},{self.standby.port}",
            "PSQL_USER": "hook",
            "PSQL_PASSWORD": "hook",
            "PSQL_DBNAME": "postgres",
        }


@pytest.fixture
def pair() -> Iterator[Pair]:
    with private_instance(password="first") as primary:
        database = primary.maintenance
        database.query("CREATE ROLE hook LOGIN PASSWORD 'hook'")
        database.query(STUDENTS)
        database.query("GRANT SELECT, INSERT, UPDATE, DELETE ON students TO hook")
        with (primary.data / "pg_hba.conf").open("a") as rules:
            rules.write("host replication all 127.0.0.1/32 scram-sha-256\n")
        database.query("SELECT pg_reload_conf()")
        with standby_of(primary) as standby:
            yield Pair(primary, standby)


def sync(server: ServerProcess, status: Any = None, **spec: Any) -> dict[str, Any]:
    answer = ask(server.port, payload(resource({**SPEC, **spec}, status)))
    assert answer.status == 200
    found: dict[str, Any] = answer.body["status"]
    return found


def finalize(server: ServerProcess, status: Any) -> dict[str, Any]:
    answer = ask(server.port, payload(resource(SPEC, status, **DELETED), finalizing=True), "finalize", patience=60)
    assert answer.status == 200
    return answer.body


def reason(status: dict[str, Any]) -> str:
    return str(status["conditions"][0]["reason"])


def test_the_server_follows_to_the_promoted_standby(pair: Pair) -> None:
    with running_server(**pair.environ, PSQL_TARGET_SESSION_ATTRS="read-write") as server:  # type: ignore[arg-type]
        status = sync(server)
        assert reason(status) == "RowSynced"
        wait_for_replay(pair.primary, pair.standby)
        pair.primary.kill()
        between = finalize(server, status)
        assert between["finalized"] is False, "a standby that shows the row, or not, decides nothing"
        assert reason(between["status"]) == "DatabaseUnavailable"
        assert pair.standby.maintenance.rows() == [("default/sample", "alex", 23, "canada")]
        promote(pair.standby)
        time.sleep(CIRCUIT_SECONDS + 0.5)
        after = sync(server, status, age=24)
        assert reason(after) == "RowSynced"
        assert pair.standby.maintenance.rows() == [("default/sample", "alex", 24, "canada")]
        assert finalize(server, after)["finalized"] is True
        assert pair.standby.maintenance.rows() == []


def test_a_read_only_standby_never_releases_a_finalizer(pair: Pair) -> None:
    """Without target_session_attrs, and with the standby first: it answers, and shows no row."""
    wait_for_replay(pair.primary, pair.standby)
    environ = {**pair.environ, "PSQL_PORT": f"{pair.standby.port},{pair.primary.port}"}
    with running_server(**environ) as server:  # type: ignore[arg-type]
        written = sync(server)
        assert reason(written) == "DatabaseUnavailable"
        assert "read-only" in written["conditions"][0]["message"]
        assert written["tables"] == ["public.students"]
        # on the standby the row is not there; that must not count as its deletion
        answer = finalize(server, written)
        assert answer["finalized"] is False
        assert reason(answer["status"]) == "DatabaseUnavailable"
        pair.primary.maintenance.query("INSERT INTO students VALUES ('default/sample', 'alex', 23, 'canada')")
        wait_for_replay(pair.primary, pair.standby)
        assert finalize(server, written)["finalized"] is False, "nor does a row that it shows"
        assert pair.primary.maintenance.rows() != []


def test_a_fail_over_under_load_is_told_while_it_lasts_and_over_afterwards(pair: Pair) -> None:
    with running_server(**pair.environ, PSQL_TARGET_SESSION_ATTRS="read-write") as server:  # type: ignore[arg-type]
        with steady_load(server.url) as load:
            load.wait_for(100)
            wait_for_replay(pair.primary, pair.standby)
            pair.primary.kill()
            promote(pair.standby)
            before = load.answers["200 True RowSynced"]
            wait_until(lambda: load.answers["200 True RowSynced"] >= before + 100, lambda: str(load.answers))
            print(f"answers during a fail-over: {dict(load.answers)}")  # shown by pytest -rP
        told = {"200 False DatabaseUnavailable", "200 False RequestExpired"}
        assert set(load.answers) <= {"200 True RowSynced", *told}, load.answers
        for name in ("load-0", "load-5"):
            assert any(about == f"default/{name}" for about, *_ in pair.standby.maintenance.rows())

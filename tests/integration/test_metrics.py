"""/metrics of the running server: what it counts."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from postgres_writer.core.audit_result import AuditResult
from support.memory import memory_folder
from support.payloads import DELETED, payload, recorded, resource
from support.postgres import Database, private_instance
from support.scrape import scrape
from support.server import ServerProcess, running_server
from support.spec_cases import spec_with
from support.waiting import wait_until

SYNCS = "postgres_writer_hook_requests_total"
ROWS = "postgres_writer_rows_total"


def synced(server: ServerProcess, found: dict[str, Any], hook: str = "sync", controller: str = "composite") -> Any:
    """Call a hook and return the status it answered."""
    answer = server.post(hook, payload(found, controller, finalizing=hook == "finalize"))
    assert answer.status_code == 200, answer.text
    return answer.json()["status"]


def wait_for_the_look(server: ServerProcess) -> None:
    """Wait until the server has looked at its database, which it does once, after the start: a statement, too."""
    wait_until(lambda: ", role " in server.logs, "the look at the database after the start")


@pytest.fixture(scope="module")
def shared_server(shared_database: Database) -> Iterator[ServerProcess]:
    """Run one server for the tests that look at how far its counters get."""
    with running_server(shared_database) as server:
        wait_for_the_look(server)
        yield server


@pytest.fixture
def students(shared_database: Database) -> Database:
    """Empty that server's table."""
    shared_database.query("TRUNCATE students")
    return shared_database


@pytest.fixture
def counted(shared_server: ServerProcess) -> Callable[..., float]:
    """Return what gives by how much a counter of that server has grown since the start of the test."""
    before = scrape(shared_server)

    def grown(name: str, **labels: str) -> float:
        return scrape(shared_server).total(name, **labels) - before.total(name, **labels)

    return grown


def test_every_operation_and_drift_is_counted(
    shared_server: ServerProcess, students: Database, counted: Callable[..., float]
) -> None:
    students.create_table("pupils")
    first = synced(shared_server, resource())
    synced(shared_server, resource(status=first))
    synced(shared_server, resource(spec_with(age=24), first, generation=2))
    students.query("UPDATE students SET age = 99")
    synced(shared_server, resource(spec_with(age=24), {**first, "conditions": recorded("students")["conditions"]}))
    moved = synced(shared_server, resource(spec_with(table="pupils"), first, generation=3))
    for _ in range(2):
        gone = resource(spec_with(table="pupils"), moved, **DELETED)
        assert shared_server.post("finalize", payload(gone, finalizing=True)).json()["finalized"] is True
    wanted = {"inserted": 1, "updated": 2, "unchanged": 1, "moved": 1, "deleted": 1, "absent": 1}
    assert {name: counted(ROWS, operation=name) for name in wanted} == wanted
    assert counted("postgres_writer_drift_repaired_total") == 1
    assert counted(SYNCS, hook="sync", controller="composite", reason="RowSynced") == 5
    assert counted("postgres_writer_hook_duration_seconds_count", hook="sync") == 5
    assert counted("postgres_writer_hook_duration_seconds_count", hook="finalize") == 2
    # drift takes two round trips
    assert counted("postgres_writer_database_duration_seconds_count") == 8
    assert scrape(shared_server).total("postgres_writer_build_info") == 1


def test_a_row_that_is_taken_over_is_called_adopted(
    shared_server: ServerProcess, students: Database, counted: Callable[..., float]
) -> None:
    students.query("INSERT INTO students VALUES ('default/taken', 'somebody', 99, 'chad')")
    synced(shared_server, resource(name="taken"))
    students.query("INSERT INTO students VALUES ('default/same', 'alex', 23, 'canada')")
    synced(shared_server, resource(name="same"))
    assert counted(ROWS, operation="adopted") == 1
    assert counted(ROWS, operation="updated") == 0
    assert counted(ROWS, operation="unchanged") == 1
    assert counted("postgres_writer_drift_repaired_total") == 0
    [line] = [line for line in shared_server.logs.splitlines() if '"row adopted"' in line]
    assert '"operation": "adopted"' in line
    assert "somebody" not in line


def test_a_worker_that_dies_is_replaced_and_counts_from_zero(
    shared_server: ServerProcess, students: Database, counted: Callable[..., float]
) -> None:
    [worker] = shared_server.workers()
    for _ in range(3):
        synced(shared_server, resource())
    assert counted(SYNCS, reason="RowSynced") == 3
    os.kill(worker, signal.SIGKILL)
    shared_server.session.close()
    wait_until(lambda: len(set(shared_server.workers()) - {worker}) == 1, lambda: shared_server.logs)
    shared_server.wait_until_serving()
    found = scrape(shared_server)
    assert found.total(SYNCS, reason="RowSynced") == 0
    # with one it looks at the database when it has started
    assert found.total("postgres_writer_database_connections") <= 1
    synced(shared_server, resource())
    assert scrape(shared_server).total(SYNCS, reason="RowSynced") == 1
    assert [row[0] for row in students.rows()] == ["default/sample"]


def test_a_server_without_the_audit_s_file_has_no_such_series(shared_server: ServerProcess) -> None:
    assert b"postgres_writer_audit" not in shared_server.get("/metrics").content


@pytest.fixture(scope="module")
def guarded(
    shared_database: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServerProcess, Path]]:
    """Run a server whose metrics need a token, and which shows an audit; gives the file of its result, too."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "tokens").write_text("secret-token\n")
    environ = {"HOOK_TOKENS_FILE": str(folder / "tokens"), "HOOK_AUDIT_RESULT_FILE": str(folder / "result.json")}
    with running_server(shared_database, **environ, HOOK_METRICS_TOKEN_REQUIRED="true") as server:
        server.session.headers["Authorization"] = "Bearer secret-token"
        yield server, folder / "result.json"


def test_no_label_names_a_resource_and_refused_requests_are_counted(guarded: tuple[ServerProcess, Path]) -> None:
    server, _ = guarded
    assert requests.post(f"{server.url}/sync", json=payload(resource()), timeout=15).status_code == 401
    server.post("sync", payload(resource(name="very-own-name")))
    server.post("finalize", [])
    text = server.get("/metrics").text
    found = scrape(server)
    assert found.total(SYNCS, hook="sync", reason="HTTP401") == 1
    assert found.total(SYNCS, hook="finalize", reason="HTTP400") == 1
    assert found.total(SYNCS, controller="composite", reason="RowSynced") == 1
    for secret in ("very-own-name", "default/", "secret-token", "students"):
        assert secret not in text


def test_a_token_protects_the_metrics_where_configured(guarded: tuple[ServerProcess, Path]) -> None:
    """That it does not elsewhere is asked in test_hooks.py."""
    server, _ = guarded
    assert requests.get(f"{server.url}/metrics", timeout=15).status_code == 401
    assert server.get("/metrics").status_code == 200


def test_the_last_audit_is_shown_as_soon_as_its_file_changes(guarded: tuple[ServerProcess, Path]) -> None:
    server, file = guarded
    never = scrape(server)
    assert never.total("postgres_writer_audit_last_timestamp_seconds") == 0
    assert never.total("postgres_writer_audit_findings", finding="no-resource") == 0
    result = AuditResult(1_700_000_000.5, 12.5, 7, 9, 2, {"no-resource": 3})
    file.write_text(result.to_json())
    finished = "postgres_writer_audit_last_timestamp_seconds"
    wait_until(lambda: scrape(server).total(finished) == result.finished, "the audit is shown")
    found = scrape(server)
    assert found.total("postgres_writer_audit_findings", finding="no-resource") == 3
    assert found.total("postgres_writer_audit_findings") == 3
    assert found.total("postgres_writer_audit_resources") == 7
    assert found.total("postgres_writer_audit_rows") == 9
    assert found.total("postgres_writer_audit_tables") == 2
    assert found.total("postgres_writer_audit_duration_seconds") == 12.5
    # what cannot be read leaves the last result, and the server serves
    file.write_text("{}")
    wait_until(lambda: "audit result" in server.logs, "the log says so")
    assert scrape(server).total("postgres_writer_audit_rows") == 9


def test_an_unreachable_database_opens_the_circuit_and_its_return_closes_it() -> None:
    with private_instance(memory_folder(), tcp=True) as instance:
        database = instance.maintenance.create_sibling()
        with running_server(database) as server:
            wait_for_the_look(server)
            status = synced(server, resource())
            assert scrape(server).total("postgres_writer_database_connections") == 1
            instance.kill()
            broken = synced(server, resource(status=status, generation=2))
            assert broken["conditions"][0]["reason"] == "DatabaseUnavailable"
            found = scrape(server)
            assert found.total("postgres_writer_database_circuit_open") == 1
            assert found.total("postgres_writer_database_connections") == 0
            assert found.total("postgres_writer_database_connections_failed_total") >= 1
            instance.start()
            time.sleep(2.1)
            synced(server, resource(status=status))
            found = scrape(server)
            assert found.total("postgres_writer_database_circuit_open") == 0
            assert found.total("postgres_writer_database_connections") == 1
            assert found.total("postgres_writer_database_connections_opened_total") == 3, "with the first it looked"
            assert found.total("postgres_writer_database_connections_replaced_total") == 1
            assert server.logs.count('"PostgreSQL cannot be reached"') == 1
            assert server.logs.count("PostgreSQL is reachable again") == 1

"""/metrics of the running server: what it counts."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from postgres_writer.core.audit_result import AuditResult
from support.payloads import DELETED, payload, recorded, resource
from support.scrape import scrape
from support.server import ServerProcess, running_server
from support.spec_cases import spec_with
from support.waiting import wait_until

if TYPE_CHECKING:
    from support.postgres import Database

SYNCS = "postgres_writer_hook_requests_total"
ROWS = "postgres_writer_rows_total"


def synced(server: ServerProcess, found: dict[str, Any], hook: str = "sync", controller: str = "composite") -> Any:
    """Call a hook and return the status it answered."""
    answer = server.post(hook, payload(found, controller, finalizing=hook == "finalize"))
    assert answer.status_code == 200, answer.text
    return answer.json()["status"]


def test_every_operation_and_drift_is_counted(database: Database) -> None:
    database.create_table("pupils")
    with running_server(database) as server:
        first = synced(server, resource())
        synced(server, resource(status=first))
        synced(server, resource(spec_with(age=24), first, generation=2))
        database.query("UPDATE students SET age = 99")
        synced(server, resource(spec_with(age=24), {**first, "conditions": recorded("students")["conditions"]}))
        moved = synced(server, resource(spec_with(table="pupils"), first, generation=3))
        for _ in range(2):
            gone = resource(spec_with(table="pupils"), moved, **DELETED)
            assert server.post("finalize", payload(gone, finalizing=True)).json()["finalized"] is True
        found = scrape(server)
        counted = {name: found.total(ROWS, operation=name) for name in ("inserted", "updated", "unchanged", "moved")}
        assert counted == {"inserted": 1, "updated": 2, "unchanged": 1, "moved": 1}
        assert found.total(ROWS, operation="deleted") == 1
        assert found.total(ROWS, operation="absent") == 1
        assert found.total("postgres_writer_drift_repaired_total") == 1
        assert found.total(SYNCS, hook="sync", controller="composite", reason="RowSynced") == 5
        assert found.total("postgres_writer_hook_duration_seconds_count", hook="sync") == 5
        assert found.total("postgres_writer_hook_duration_seconds_count", hook="finalize") == 2
        # drift takes two round trips
        assert found.total("postgres_writer_database_duration_seconds_count") == 8
        assert found.total("postgres_writer_build_info") == 1


def test_no_label_names_a_resource_and_refused_requests_are_counted(database: Database, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("secret-token\n")
    with running_server(database, HOOK_TOKENS_FILE=str(tokens)) as server:
        server.post("sync", payload(resource(name="very-own-name")))
        right = {"Authorization": "Bearer secret-token"}
        server.post("sync", payload(resource(name="very-own-name")), headers=right)
        server.post("finalize", [], headers=right)
        text = server.get("/metrics").text
        found = scrape(server)
        assert found.total(SYNCS, hook="sync", reason="HTTP401") == 1
        assert found.total(SYNCS, hook="finalize", reason="HTTP400") == 1
        assert found.total(SYNCS, controller="composite", reason="RowSynced") == 1
        for secret in ("very-own-name", "default/", "secret-token", "students"):
            assert secret not in text


def test_an_unreachable_database_opens_the_circuit_and_its_return_closes_it() -> None:
    from support.postgres import private_instance  # noqa: PLC0415

    with private_instance(tcp=True) as instance:
        database = instance.maintenance.create_sibling()
        with running_server(database) as server:
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
            assert found.total("postgres_writer_database_connections_opened_total") == 2
            assert found.total("postgres_writer_database_connections_replaced_total") == 1
            assert server.logs.count('"PostgreSQL cannot be reached"') == 1
            assert server.logs.count("PostgreSQL is reachable again") == 1


def test_a_worker_that_dies_is_replaced_and_counts_from_zero(database: Database) -> None:
    with running_server(database) as server:
        [worker] = server.workers()
        for _ in range(3):
            synced(server, resource())
        assert scrape(server).total(SYNCS, reason="RowSynced") == 3
        os.kill(worker, signal.SIGKILL)
        server.session.close()
        wait_until(lambda: len(set(server.workers()) - {worker}) == 1, lambda: server.logs)
        server.wait_until_serving()
        found = scrape(server)
        assert found.total(SYNCS, reason="RowSynced") == 0
        assert found.total("postgres_writer_database_connections") == 0
        synced(server, resource())
        assert scrape(server).total(SYNCS, reason="RowSynced") == 1


def test_a_number_of_workers_is_no_setting_any_more(database: Database) -> None:
    with running_server(database, HOOK_WORKERS="3") as server:
        assert len(server.workers()) == 1
        assert "HOOK_WORKERS is no longer used" in server.logs


def test_a_token_protects_the_metrics_only_when_configured(database: Database, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("secret-token\n")
    with running_server(database, HOOK_TOKENS_FILE=str(tokens), HOOK_METRICS_TOKEN_REQUIRED="true") as server:
        assert server.get("/metrics").status_code == 401
        assert server.get("/metrics", headers={"Authorization": "Bearer secret-token"}).status_code == 200


def test_the_last_audit_is_shown_as_soon_as_its_file_changes(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    with running_server(database, HOOK_AUDIT_RESULT_FILE=str(file)) as server:
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


def test_a_server_without_the_audit_s_file_has_no_such_series(server: ServerProcess) -> None:
    assert b"postgres_writer_audit" not in server.get("/metrics").content


def test_a_row_that_is_taken_over_is_called_adopted(database: Database) -> None:
    with running_server(database) as server:
        database.query("INSERT INTO students VALUES ('default/sample', 'somebody', 99, 'chad')")
        synced(server, resource())
        database.query("INSERT INTO students VALUES ('default/same', 'alex', 23, 'canada')")
        synced(server, resource(name="same"))
        found = scrape(server)
        assert found.total(ROWS, operation="adopted") == 1
        assert found.total(ROWS, operation="updated") == 0
        assert found.total(ROWS, operation="unchanged") == 1
        assert found.total("postgres_writer_drift_repaired_total") == 0
        [line] = [line for line in server.logs.splitlines() if '"row adopted"' in line]
        assert '"operation": "adopted"' in line
        assert "somebody" not in line

"""/metrics of the running server: what it counts, over all workers, whatever becomes of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from postgres_writer.core.audit_result import AuditResult
from postgres_writer.telemetry.folder import metrics_folder, remove_abandoned
from support.payloads import DELETED, payload, recorded, resource
from support.postgres import free_port
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


def file_folder(server: ServerProcess) -> Path:
    """Return the folder in which the server's workers share their metrics."""
    environ = Path(f"/proc/{server.workers()[0]}/maps").read_text()
    return Path(next(part for part in environ.split() if part.endswith(".db"))).parent


def wait_for_workers(server: ServerProcess, without: set[int]) -> None:
    """Wait until two workers serve that are none of those."""
    wait_until(lambda: len(set(server.workers()) - without) == 2, lambda: server.logs)
    server.wait_until_serving()


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
        with running_server(database, HOOK_WORKERS="1") as server:
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


def test_workers_that_die_leave_their_sums_and_no_files(database: Database) -> None:
    with running_server(database) as server:
        files = file_folder(server)
        rounds, calls = 4, 10
        for number in range(1, rounds + 1):
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda call: synced(server, resource(name=f"r{call}")), range(calls)))
            assert scrape(server).total(SYNCS, hook="sync", reason="RowSynced") == number * calls
            dead = set(server.workers())
            for pid in dead:
                os.kill(pid, signal.SIGKILL)
            server.session.close()
            wait_for_workers(server, dead)
        found = scrape(server)
        assert found.total(SYNCS, hook="sync", reason="RowSynced") == rounds * calls
        assert found.total("postgres_writer_hook_duration_seconds_count", hook="sync") == rounds * calls
        assert found.total("postgres_writer_hook_duration_seconds_bucket", hook="sync", le="+Inf") == rounds * calls
        assert found.total("postgres_writer_database_connections") == 0
        owners = {path.stem.rpartition("_")[2] for path in files.glob("*.db")}
        assert owners <= {"master", "0", "1"}
    assert not files.exists()


def test_scrapes_never_see_a_counter_fall_while_workers_die(database: Database) -> None:
    with running_server(database) as server:
        for _ in range(20):
            synced(server, resource())
        seen = []
        for _ in range(3):
            dead = set(server.workers())
            os.kill(min(dead), signal.SIGKILL)
            deadline = time.monotonic() + 20
            while len(set(server.workers()) - {min(dead)}) < 2:
                assert time.monotonic() < deadline
                # the other worker answers; a connection to the dead one is refused or cut
                server.session.close()
                try:
                    seen.append(scrape(server).total(SYNCS, hook="sync", reason="RowSynced"))
                except OSError:
                    continue
        assert set(seen) == {20}


def test_a_killed_server_s_folder_is_removed_by_the_next_one(database: Database, tmp_path: Path) -> None:
    server = ServerProcess({**database.environ, "HOOK_WORKERS": "1"}, port=free_port())
    server.start()
    files = file_folder(server)
    family = [server.pid, *server.workers()]
    for pid in family:
        os.kill(pid, signal.SIGKILL)
    assert server.process is not None
    server.process.wait(10)
    server.session.close()
    assert files.exists()
    remove_abandoned(files.parent)
    assert files.exists(), "a folder this young may be one that its server has not locked yet"
    os.utime(files / "owner.lock", (0, 0))
    with running_server(database) as following:
        assert not files.exists()
        assert file_folder(following).exists()
    server.log.unlink()
    server.log.parent.rmdir()


def test_the_folder_of_a_living_server_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    with metrics_folder(str(tmp_path)) as folder:
        os.utime(folder / "owner.lock", (0, 0))
        remove_abandoned(tmp_path)
        assert folder.exists()
    assert not folder.exists()


def files_of(pid: int) -> set[str]:
    """Return the files in which a worker keeps its metrics; until it counts something it still has the master's."""
    mapped = Path(f"/proc/{pid}/maps").read_text().split()
    return {part for part in mapped if part.endswith(".db") and not part.endswith("_master.db")}


def test_workers_that_overlap_share_no_file_and_nothing_is_lost(database: Database) -> None:
    """A reload starts new workers while the old ones still have requests."""
    body = json.dumps(payload(resource())).encode()
    begun = b"POST /sync HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(
        body
    )
    rounds, calls = 2, 4
    with running_server(database) as server:
        for _ in range(rounds):
            synced(server, resource())
            old = set(server.workers())
            slow = [socket.create_connection(("127.0.0.1", server.port), timeout=15) for _ in range(calls)]
            for client in slow:
                client.sendall(begun + body[:-1])
            os.kill(server.pid, signal.SIGHUP)
            wait_for_workers(server, old)
            server.session.close()
            synced(server, resource())
            family = server.workers()
            assert old & set(family), "an old worker must still be there, or nothing overlaps"
            files = [files_of(pid) for pid in family]
            assert sum(map(len, files)) == len(set().union(*files)) > 0
            for client in slow:
                client.sendall(body[-1:])
                assert client.recv(15).startswith(b"HTTP/1.1 200")
                client.close()
            wait_until_gone(server, old)
        assert scrape(server).total(SYNCS, hook="sync", reason="RowSynced") == rounds * (calls + 2)


def wait_until_gone(server: ServerProcess, pids: set[int]) -> None:
    """Wait until none of these workers is left."""
    wait_until(lambda: not set(server.workers()) & pids, lambda: server.logs)


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

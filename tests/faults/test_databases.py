"""Several databases behind one server: what is wrong with one is noticed by its own resources alone."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from postgres_writer.config.variables import DEFAULT_DATABASE
from postgres_writer.core.response import OUTAGE_SECONDS
from support.callers import ask
from support.databases import write_folder
from support.payloads import payload, resource
from support.postgres import STUDENTS, Database, PostgresInstance, private_instance
from support.scrape import scrape
from support.server import ServerProcess, running_server
from support.spec_cases import ABSENT, spec_with
from support.waiting import wait_until

CALLERS = 12
NAMES = ("stopped", "locked", "healthy")


@dataclass(frozen=True)
class Park:
    """Three PostgreSQL servers, the hook server before them, and where it reads their configuration."""

    instances: dict[str, PostgresInstance]
    folder: Path
    server: ServerProcess

    def sync(self, database: str, name: str = "r", age: int = 1, status: Any = ABSENT) -> tuple[int, dict[str, Any]]:
        """Sync a resource of that database; gives the code and the body of the answer."""
        spec = spec_with(age=age) if database == DEFAULT_DATABASE else spec_with(age=age, database=database)
        answer = ask(self.server.port, payload(resource(spec, status, name=name)), patience=60)
        return answer.status, answer.body

    def ready(self, database: str, **options: Any) -> str:
        """Sync a resource; gives status and reason of its condition, or the code of the answer."""
        return said_of(*self.sync(database, **options))


def condition_of(body: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = next(each for each in body["status"]["conditions"] if each["type"] == "Ready")
    return found


def said_of(code: int, body: dict[str, Any]) -> str:
    return str(code) if code != 200 else "{status} {reason}".format_map(condition_of(body))


def has_role(instance: PostgresInstance) -> Database:
    """Make the role of the hook server, which is no superuser."""
    owner = instance.maintenance
    owner.query("CREATE ROLE hook LOGIN PASSWORD 'hook'")
    owner.query(STUDENTS)
    owner.query("GRANT SELECT, INSERT, UPDATE, DELETE ON students TO hook")
    return Database({**owner.connect, "user": "hook", "password": "hook"})


@pytest.fixture(scope="module")
def park(shared_database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Park]:
    folder = tmp_path_factory.mktemp("databases")
    with contextlib.ExitStack() as stack:
        instances = {name: stack.enter_context(private_instance(password="first")) for name in NAMES}
        for name, instance in instances.items():
            write_folder(folder, name, has_role(instance))
        environ = {"PSQL_DATABASES_DIR": str(folder), "HOOK_CONNECTIONS": "4"}
        yield Park(instances, folder, stack.enter_context(running_server(shared_database, **environ)))


@contextlib.contextmanager
def locked(database: Database) -> Iterator[None]:
    """Lock the table as a migration does that takes long."""
    with database.connection() as holder:
        holder.autocommit = False
        holder.cursor().execute("LOCK TABLE students IN ACCESS EXCLUSIVE MODE")
        yield


@contextlib.contextmanager
def flood(park: Park, *databases: str) -> Iterator[Counter[str]]:
    """Let many callers sync resources of these databases, one after the other, for the length of a with-block."""
    answers: Counter[str] = Counter()
    going = threading.Event()

    def call(number: int) -> None:
        database = databases[number % len(databases)]
        while not going.is_set():
            answers[f"{database}: {park.ready(database, name=f'f{number}', age=number)}"] += 1
            going.wait(0.05)

    with ThreadPoolExecutor(CALLERS) as pool:
        calls = [pool.submit(call, number) for number in range(CALLERS)]
        try:
            yield answers
        finally:
            going.set()
    for each in calls:
        each.result()


def ready_everywhere(park: Park) -> None:
    for database in (*NAMES, DEFAULT_DATABASE):
        wait_until(lambda: park.ready(database) == "True RowSynced", f"{database} to be served", 60)  # noqa: B023


def circuit(park: Park, database: str) -> float:
    return scrape(park.server).total("postgres_writer_database_circuit_open", database=database)


def test_one_stopped_one_locked_and_the_others_notice_nothing(park: Park) -> None:
    ready_everywhere(park)
    status = {name: park.sync(name)[1]["status"] for name in NAMES}
    began = time.monotonic()
    park.instances["stopped"].stop()
    try:
        with locked(park.instances["locked"].maintenance), flood(park, "stopped", "locked") as answers:
            wait_until(lambda: {each.partition(":")[0] for each in answers} == {"stopped", "locked"}, "trouble", 60)
            for number in range(60):
                for well in ("healthy", DEFAULT_DATABASE):
                    assert park.ready(well, name=f"r{number}", age=number) == "True RowSynced"
                # an outage is not shown where only a resync is late, and that is decided for each database, too
                found = {name: park.ready(name, status=status[name]) for name in ("healthy", "stopped")}
                shown = "429" if time.monotonic() < began + OUTAGE_SECONDS else found["stopped"]
                assert found == {"healthy": "True RowSynced", "stopped": shown}
        assert set(answers) == {"stopped: False DatabaseUnavailable", "locked: False DatabaseBusy"}
        assert [circuit(park, name) for name in (*NAMES, DEFAULT_DATABASE)] == [1, 0, 0, 0]
        told = condition_of(park.sync("stopped", name="new")[1])["message"]
        assert told.startswith("Database stopped: PostgreSQL is unreachable")
        assert '"database": "stopped"' in next(
            line for line in park.server.logs.splitlines() if "PostgreSQL cannot be reached" in line
        )
    finally:
        park.instances["stopped"].start()
    ready_everywhere(park)
    assert [circuit(park, name) for name in NAMES] == [0, 0, 0]


def test_one_that_is_out_of_connections(park: Park) -> None:
    ready_everywhere(park)
    owner = park.instances["stopped"].maintenance
    owner.query("ALTER ROLE hook CONNECTION LIMIT 0")
    owner.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'hook'")
    try:
        with flood(park, "stopped") as answers:
            wait_until(lambda: answers["stopped: False DatabaseUnavailable"] > CALLERS, "no connection left", 60)
            for number in range(40):
                assert park.ready("healthy", name=f"r{number}", age=number + 100) == "True RowSynced"
    finally:
        owner.query("ALTER ROLE hook CONNECTION LIMIT -1")
    ready_everywhere(park)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("password", "wrong", "PostgreSQL refuses the login of the role hook; check its name, password and rights"),
        ("user", "nobody", "PostgreSQL refuses the login of the role nobody;"),
        ("dbname", "missing", "PostgreSQL has no database missing; create it, or correct PSQL_DBNAME."),
        ("user", "full_up", "PostgreSQL has no connection left for the role full_up;"),
        ("port", "1", "PostgreSQL is unreachable or not responding;"),
    ],
)
def test_the_condition_says_why_there_is_no_connection(park: Park, key: str, value: str, said: str) -> None:
    owner, name = park.instances["healthy"].maintenance, f"{key}-{value}".replace("_", "-")
    owner.query("DROP ROLE IF EXISTS full_up; CREATE ROLE full_up LOGIN PASSWORD 'hook' CONNECTION LIMIT 0")
    write_folder(park.folder, name, Database({**owner.connect, "user": "hook", "password": "hook"}), **{key: value})
    code, body = park.sync(name)
    assert said_of(code, body) == "False DatabaseUnavailable"
    assert condition_of(body)["message"].startswith(f"Database {name}: {said}")
    shutil.rmtree(park.folder / name)


def test_a_rotation_of_one_is_noticed_by_nobody(park: Park) -> None:
    ready_everywhere(park)
    owner, file = park.instances["locked"].maintenance, park.folder / "locked" / "password"
    # not those that are just connecting: that would be an outage
    ends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'hook' AND query <> ''"

    def replace(text: str) -> None:
        # by a rename, as the kubelet does, so that no reader sees half of it
        fresh = file.with_name(".new")
        fresh.write_text(text)
        fresh.rename(file)

    def go_on() -> None:
        # all of them have a new connection by then: a statement is repeated only once
        before = answers["locked: True RowSynced"]
        wait_until(lambda: answers["locked: True RowSynced"] > before + 4 * CALLERS, "more answers", 60)

    with flood(park, "locked", "healthy") as answers:
        go_on()
        replace("hook\nrotated\n")
        owner.query("ALTER ROLE hook PASSWORD 'rotated'")
        owner.query(ends)
        go_on()
        replace("rotated\n")
        owner.query(ends)
        go_on()
    assert set(answers) == {"locked: True RowSynced", "healthy: True RowSynced"}


def test_all_together_have_no_more_than_the_total(park: Park, tmp_path: Path) -> None:
    """Six databases with ten callers each share five connections, and everybody gets a turn."""
    owner = park.instances["healthy"].maintenance
    counts: list[int] = []
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'postgres-writer' AND datname ~ '^test_'"
    with contextlib.ExitStack() as stack:
        names = [f"db-{number}" for number in range(6)]
        for name in names:
            write_folder(tmp_path, name, stack.enter_context(owner.sibling()))
        limits = {"HOOK_CONNECTIONS": "3", "HOOK_TOTAL_CONNECTIONS": "5", "PSQL_DATABASES_DIR": str(tmp_path)}
        server = stack.enter_context(running_server(owner, **limits))
        crowd = Park({}, tmp_path, server)
        with flood(crowd, *names) as answers:
            while sum(answers.values()) < 300:
                ((count,),) = owner.query(query)
                counts.append(count)
                time.sleep(0.01)
    assert set(answers) == {f"{name}: True RowSynced" for name in names}
    # four connections are lent, and one database without any may have the last one
    assert max(counts) <= 5
    assert max(counts) >= 4, "the bound was not reached"


def test_a_database_that_is_added_corrected_and_removed_while_the_server_runs(park: Park) -> None:
    database = park.instances["healthy"].maintenance
    code, body = park.sync("late", name="late")
    assert (code, condition_of(body)["reason"]) == (200, "DatabaseNotConfigured")
    assert "Database late is not configured" in condition_of(body)["message"]
    # nothing is listed and the table is observed: that lets the API server accept another name
    assert (body["status"]["tables"], body["status"]["observedTable"]) == ([], "students")
    folder = write_folder(park.folder, "late", database, port="x")
    code, body = park.sync("late", name="late", age=2)
    assert "PSQL_PORT must be" in condition_of(body)["message"]
    assert "observedTable" not in body["status"], "a row may have been written before it became unusable"
    (folder / "port").write_text(database.connect["port"])
    code, body = park.sync("late", name="late", age=3)
    # the table was refused before, as far as its status says
    wait_until(lambda: park.ready("late", name="late", age=3) == "True RowSynced", "the database to be in use", 60)
    shutil.rmtree(folder)
    wait_until(lambda: park.ready("late", name="late", age=4) == "False DatabaseNotConfigured", "it to be gone", 60)
    assert "default/late" in {row[0] for row in database.rows()}, "removing a configuration deletes nothing"


@pytest.mark.parametrize(
    ("status", "retain", "finalized"),
    [
        ({"tables": [], "observedTable": "students"}, False, True),
        ({"tables": ["public.students"], "observedTable": "students"}, False, False),
        ({"tables": [], "observedTable": "teachers"}, False, False),
        (ABSENT, False, False),
        ({"tables": ["public.students"], "observedTable": "students"}, True, True),
    ],
    ids=["never written", "listed", "not observed", "no status", "retained"],
)
def test_the_deletion_waits_for_an_unknown_database_only_where_a_row_can_be(
    park: Park, status: Any, retain: bool, finalized: bool
) -> None:
    spec = spec_with(database="unknown", **({"deletionPolicy": "Retain"} if retain else {}))
    found = resource(spec, status, deletionTimestamp="2026-01-01T00:00:00Z")
    answer = ask(park.server.port, payload(found, finalizing=True), "finalize", 60)
    assert (answer.status, answer.body["finalized"]) == (200, finalized)
    if not finalized:
        assert "deletionPolicy to Retain" in json.dumps(answer.body)


def test_metrics_have_series_of_configured_databases_only(park: Park) -> None:
    ready_everywhere(park)
    for number in range(20):
        park.sync(f"unknown-{number}")
    found = scrape(park.server)
    labels = {dict(pairs)["database"] for _, pairs in found.samples if "database" in dict(pairs)}
    assert not {label for label in labels if label.startswith("unknown")}
    requests = "postgres_writer_hook_requests_total"
    assert found.total(requests, database="healthy", reason="RowSynced") > 0
    assert found.total(requests, database="", reason="DatabaseNotConfigured") >= 20

"""The log of a running server: one line for each change of a row, none for what changed nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from support.custom_resource import PENDING
from support.payloads import DELETED, payload, resource
from support.server import ServerProcess, running_server
from support.spec_cases import spec_with

if TYPE_CHECKING:
    from support.postgres import Database

FIELDS = {"namespace", "name", "uid", "generation", "operation", "table", "duration_ms", "request_id", "hook"}


def story(server: ServerProcess, database: Database) -> list[str]:
    """Let a row come, stay, change, drift, be refused twice, heal, and go; returns the request ids."""
    status: Any = PENDING
    requests: list[str] = []

    def call(hook: str, generation: int, **changes: Any) -> None:
        nonlocal status
        metadata = DELETED if hook == "finalize" else {}
        found = resource(spec_with(**changes), status, generation=generation, **metadata)
        answer = server.post(hook, payload(found, finalizing=hook == "finalize"))
        status = answer.json()["status"]
        requests.append(answer.headers["X-Request-Id"])

    call("sync", 1)
    call("sync", 1)
    call("sync", 2, age=24)
    database.query("UPDATE students SET age = 1")
    call("sync", 2, age=24)
    database.query("ALTER TABLE students ADD CHECK (age < 100)")
    call("sync", 3, age=200)
    call("sync", 3, age=200)
    call("sync", 4, age=25)
    call("finalize", 5, age=25)
    call("finalize", 5, age=25)
    return requests


def lines(server: ServerProcess) -> list[dict[str, Any]]:
    """Return the lines about hook requests."""
    return [line for line in map(json.loads, server.logs.splitlines()) if "operation" in line]


def test_a_line_per_change_and_per_new_failure_and_no_ops_only_at_debug(database: Database) -> None:
    """That a server shows nothing below its level is asked in test_serve.py."""
    with running_server(database, LOG_LEVEL="DEBUG") as server:
        requests = story(server, database)
        logged = lines(server)
        check_first_failure(server)
    told = [(line["level"], line["operation"], line["generation"], line["reason"]) for line in logged]
    changes = [
        ("INFO", "inserted", 1, "RowSynced"),
        ("DEBUG", "unchanged", 1, "RowSynced"),
        ("INFO", "updated", 2, "RowSynced"),
        ("INFO", "updated", 2, "RowSynced"),
        ("WARNING", "none", 3, "RowRejected"),
        ("DEBUG", "none", 3, "RowRejected"),
        ("INFO", "updated", 4, "RowSynced"),
        ("INFO", "deleted", 5, "RowDeleted"),
        ("DEBUG", "absent", 5, "RowDeleted"),
    ]
    assert told == changes
    assert [line["request_id"] for line in logged] == requests
    for line in logged:
        assert line.keys() >= FIELDS
        assert (line["namespace"], line["name"], line["table"]) == ("default", "sample", "students")
        assert line["duration_ms"] > 0
    assert [line["message"] == "drift repaired" for line in logged].count(True) == 1


def check_first_failure(server: ServerProcess) -> None:
    """Fail unless a first failure is told once: the status with which a resource is born is no verdict on it."""
    before = len(lines(server))
    born = resource(spec_with(table="nowhere"), PENDING)
    status = server.post("sync", payload(born)).json()["status"]
    server.post("sync", payload({**born, "status": status}))
    logged = [(line["level"], line["reason"]) for line in lines(server)[before:]]
    assert logged == [("WARNING", "TableNotFound"), ("DEBUG", "TableNotFound")]

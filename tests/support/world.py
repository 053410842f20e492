"""The state of the world: what the API server stores against what the database holds.

`World.problems()` says everything that is not as it must be once all is quiet; nothing about how it came to be.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import sql

from postgres_writer.core.row import KINDS, relation_name
from support.api_client import ApiClient, ApiError, Object, Recorder, key_of, ready_of, values_of

if TYPE_CHECKING:
    from support.postgres import Database

PAUSED = "demo.yash.com/paused"
_TABLES = """
    SELECT table_schema, table_name FROM information_schema.tables NATURAL JOIN information_schema.columns
    WHERE table_type = 'BASE TABLE' AND column_name = 'country'
"""

Row = tuple[str, Any, Any, Any]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: its kind ("lost row", "orphan", ...), the object and a sentence."""

    kind: str
    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.key}: {self.text}"


class NotConverged(AssertionError):
    """The world is still wrong after the time it had; the text tells what, with the history of the objects."""


@dataclass
class World:
    """The API server's resources beside the database's rows.

    `tables` are those that may exist in the database: any other was created by something else.
    `name` is what resources call the database; None for the default one. All others are none of its own.
    `foreign` are rows (table, id) that are none of ours and must stay as they are.
    """

    client: ApiClient
    database: Database
    tables: set[str]
    recorder: Recorder | None = None
    foreign: set[tuple[str, str]] = field(default_factory=set)
    name: str | None = None

    def rows(self) -> dict[str, dict[str, Row]]:
        """Return every row of every table that is made like students, by table and id."""
        found = {}
        with self.database.connection() as connection, connection.cursor() as cursor:
            cursor.execute(_TABLES)
            for schema, name in cursor.fetchall():
                table = name if schema == "public" else f"{schema}.{name}"
                identifier = sql.Identifier(schema, name)
                cursor.execute(sql.SQL("SELECT id, name, age, country FROM {}").format(identifier))
                found[table] = {row[0]: row for row in cursor.fetchall()}
        return found

    def problems(self) -> list[Problem]:
        """Return everything that is wrong now."""
        resources = {key_of(found): found for found in self.client.every() if self._is_here(found)}
        rows = self._rows_but_vanished(resources)
        found = [Problem("strange table", table, "was not made by the test") for table in rows.keys() - self.tables]
        for key, resource in resources.items():
            found += self._of_resource(key, resource, rows)
        for table, held in rows.items():
            for key in held.keys() - resources.keys():
                if (table, key) not in self.foreign:
                    found.append(Problem("orphan", key, f"a row without a resource in table {table}"))
        return found

    def _rows_but_vanished(self, resources: dict[str, Object]) -> dict[str, dict[str, Row]]:
        """Return the rows without those of resources that the API server removed in spite of their finalizer."""
        rows = self.rows()
        for gone in filter(self._is_here, self.recorder.vanished if self.recorder else ()):
            key, row = key_of(gone), row_of(gone)
            table = gone["spec"]["table"]
            wanted = key in resources and resources[key]["spec"]["table"] == table
            if not wanted and rows.get(table, {}).get(key) == row:
                del rows[table][key]
        return rows

    def converge(self, timeout: float) -> float:
        """Wait until nothing is wrong and return the seconds it took; NotConverged after `timeout`."""
        start = time.monotonic()
        pause = 0.05
        while True:
            try:
                found = self.problems()
            except (OSError, ApiError, psycopg2.Error) as error:
                found = [Problem("unreachable", "-", str(error))]
            took = time.monotonic() - start
            if not found:
                return took
            if took > timeout:
                raise NotConverged(self._report(found, took))
            time.sleep(pause)
            pause = min(pause * 1.3, 0.5)

    def _is_here(self, resource: Object) -> bool:
        here: bool = resource["spec"].get("database") == self.name
        return here

    def _of_resource(self, key: str, resource: Object, rows: dict[str, dict[str, Row]]) -> list[Problem]:
        metadata, spec = resource["metadata"], resource["spec"]
        if metadata.get("deletionTimestamp"):
            return [Problem("finalizer left", key, f"still there with {metadata.get('finalizers')}")]
        if metadata.get("annotations", {}).get(PAUSED) == "true":
            return []
        held = {table: table_rows[key] for table, table_rows in rows.items() if key in table_rows}
        if spec["table"] not in rows:
            return _check_without_table(key, resource, held)
        problems = _check_row(key, row_of(resource), spec["table"], held)
        return problems + _check_status(key, resource)

    def _report(self, problems: list[Problem], took: float) -> str:
        lines = [f"{len(problems)} things are still wrong after {took:.0f} s:"]
        lines += [str(problem) for problem in problems[:30]]
        if self.recorder is not None:
            for key in list(dict.fromkeys(problem.key for problem in problems))[:5]:
                lines += [f"history of {key}:", *self.recorder.history(key)]
        return "\n".join(lines)


def row_of(resource: Object) -> Row:
    """Return the row that a resource asks for."""
    values = values_of(resource)
    return (key_of(resource), values.get("name"), values.get("age"), values.get("country"))


def _check_row(key: str, wanted: Row, table: str, held: dict[str, Row]) -> list[Problem]:
    problems = [Problem("wrong table", key, f"a row in {other}") for other in held.keys() - {table}]
    row = held.get(table)
    if row is None:
        problems.append(Problem("lost row", key, f"no row in {table}"))
    elif row != wanted:
        problems.append(Problem("wrong values", key, f"{row} instead of {wanted} in {table}"))
    return problems


def _check_status(key: str, resource: Object) -> list[Problem]:
    metadata, status, ready = resource["metadata"], resource.get("status", {}), ready_of(resource)
    expected: dict[str, tuple[Any, Any]] = {
        "Ready": (ready.get("status"), "True"),
        "Ready.reason": (ready.get("reason"), "RowSynced"),
        "Ready.observedGeneration": (ready.get("observedGeneration"), metadata["generation"]),
        "observedGeneration": (status.get("observedGeneration"), metadata["generation"]),
        "id": (status.get("id"), key),
        "observedTable": (status.get("observedTable"), resource["spec"]["table"]),
        "tables": (status.get("tables"), [relation_name(resource["spec"]["table"])]),
        "finalizers": (len(metadata.get("finalizers", [])), 1),
    }
    if KINDS[resource["kind"]].fixed is None:
        expected["columns"] = (status.get("columns"), sorted(values_of(resource)))
    return [
        Problem("dishonest status", key, f"{name} is {seen!r}, not {wanted!r} ({ready.get('message')})")
        for name, (seen, wanted) in expected.items()
        if seen != wanted
    ]


def _check_without_table(key: str, resource: Object, held: dict[str, Row]) -> list[Problem]:
    ready, tables = ready_of(resource), resource.get("status", {}).get("tables", [])
    problems = [
        Problem("unlisted row", key, f"a row in {table}, but status.tables is {tables}")
        for table in held
        if relation_name(table) not in tables
    ]
    if (ready.get("status"), ready.get("reason")) != ("False", "TableNotFound"):
        problems.append(Problem("dishonest status", key, f"Ready is {ready} but the table does not exist"))
    if ready.get("observedGeneration") != resource["metadata"]["generation"]:
        problems.append(Problem("dishonest status", key, "Ready speaks of an older generation"))
    return problems

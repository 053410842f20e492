"""One resource beside a real database: what an API server keeps of it, and the hook called as Metacontroller would."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

from postgres_writer.core.plan import Operation, Outcome, Permits, make_plan
from postgres_writer.core.request import load_request
from postgres_writer.core.response import build_response
from postgres_writer.core.row import DEFAULT_SCHEMA, POSTGRES_WRITER, Kind
from postgres_writer.database.store import Store
from postgres_writer.deadlines import Call
from support.answers import check_own_status, decode_answer
from support.payloads import DELETED, finalizer, payload, resource
from support.postgres import Database
from support.spec_cases import ABSENT, spec_with

Row = tuple[str, str, int, str]
ROW: Row = ("default/sample", "alex", 23, "canada")


def fresh_call() -> Call:
    """Return a call that has just arrived and whose caller waits."""
    return Call(time.monotonic(), lambda: False)


def next_session(store: Store) -> Any:
    """Return the connected session that the store will use next, to do to it what a pooler in between would do."""
    return store.pool._idle[-1]


@dataclass
class Subject:
    """The resource default/sample. ``sync`` and ``finalize`` call the core and keep the status that it answers."""

    store: Store
    spec: dict[str, Any] = field(default_factory=spec_with)
    status: Any = ABSENT
    generation: int = 1
    metadata: dict[str, Any] = field(default_factory=dict)
    schema: str = DEFAULT_SCHEMA
    permits: Permits = lambda _namespace, _table, _column: True
    kind: Kind = POSTGRES_WRITER
    outcome: Outcome = field(default_factory=lambda: Outcome(()))
    answer: dict[str, Any] = field(default_factory=dict)

    def edit(self, **changes: Any) -> Subject:
        """Change fields of the spec, as an update through the API server does."""
        self.spec = {**self.spec, **changes}
        self.generation += 1
        return self

    def sync(self, call: Call | None = None, *, lost: bool = False) -> Operation:
        """Call the sync hook; ``lost``: its answer does not arrive, so that the status stays as it was."""
        self._call(call, finalizing=False, lost=lost)
        return self.outcome.operation

    def done(self) -> Operation:
        """Return what the last call did in the database."""
        return self.outcome.operation

    def finalize(self, call: Call | None = None) -> bool:
        """Delete the resource (another finalizer stays, so that the status can be seen) and call the finalize hook."""
        self.metadata.update(DELETED, finalizers=[finalizer(), "example.com/other"])
        self._call(call, finalizing=True)
        finalized: bool = self.answer["finalized"]
        return finalized

    @property
    def ready(self) -> str:
        """The status and reason of the condition Ready, in one text."""
        found = self._ready()
        return f"{found['status']} {found['reason']}"

    @property
    def message(self) -> str:
        """The message of the condition Ready."""
        return str(self._ready()["message"])

    @property
    def tables(self) -> list[str]:
        """The tables that status lists."""
        found: list[str] = self.status["tables"]
        return found

    def _ready(self) -> dict[str, Any]:
        found: dict[str, Any] = next(one for one in self.status["conditions"] if one["type"] == "Ready")
        return found

    def _call(self, call: Call | None, *, finalizing: bool, lost: bool = False) -> None:
        found = resource(self.spec, self.status, kind=self.kind, generation=self.generation, **self.metadata)
        body = json.loads(json.dumps(payload(found, finalizing=finalizing)))
        request = load_request(body, finalizing=finalizing, schema_of=lambda _database: self.schema)
        self.outcome = self.store.apply(make_plan(request, self.permits), call or fresh_call())
        answer = json.dumps(build_response(request, self.outcome, time.time(), 300.0))
        self.answer = decode_answer(answer, "composite")
        check_own_status(self.answer["status"])
        if not lost:
            self.status = self.answer["status"]


@dataclass
class Limited:
    """A role that may nothing but connect, and a resource whose hooks work as this role."""

    database: Database
    role: str
    password: str
    subject: Subject

    def run(self, statement: str) -> None:
        """Run statements as the owner of the database; LIMITED stands for the role."""
        self.database.query(statement.replace("LIMITED", self.role))

    def grant(self, privileges: str, table: str = "students") -> None:
        """Grant the role privileges on a table."""
        self.run(f"GRANT {privileges} ON {table} TO LIMITED")

    def revoke(self, privileges: str, table: str = "students") -> None:
        """Take privileges on a table from the role."""
        self.run(f"REVOKE {privileges} ON {table} FROM LIMITED")

"""Stores whose transactions commit late, and stores during whose messages another one's transaction commits.

A transaction that hangs in its commit is, for everybody else, one that is still open: its rows are locked and not
seen, its advisory lock is held, and it will be over at some later moment. In read committed a message of several
statements is the same as a transaction that sends them one by one, so here other things can happen between any two.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from psycopg2 import extras

from postgres_writer.config.settings import DatabaseConfig
from postgres_writer.database.session import Parameters, Result, Session
from postgres_writer.database.sharing import Circuit
from postgres_writer.database.statements import LOCK, Statement
from postgres_writer.database.store import Store
from postgres_writer.deadlines import CIRCUIT_SECONDS
from postgres_writer.telemetry.metrics import OfDatabase

UNLOCKED = Statement("SELECT %(key)s")
"""The lock's value where no one takes it."""


@dataclass(frozen=True)
class InFlight:
    """A transaction whose commit was sent and not yet answered."""

    connection: Any

    def end(self, *, committed: bool) -> None:
        """Let it commit, or be undone."""
        cursor = self.connection.cursor()
        cursor.execute("COMMIT" if committed else "ROLLBACK")
        extras.wait_select(self.connection)
        self.connection.close()


class SteppedSession(Session):
    """Sends a message statement by statement; gives the connection away instead of committing what writes."""

    def __init__(self, config: DatabaseConfig, step: Callable[[], None], stall: Callable[[InFlight], None] | None):
        super().__init__(config, Circuit(CIRCUIT_SECONDS), OfDatabase("default"), lambda: None)
        self._step = step
        self._stall = stall

    def _run(self, text: str, parameters: Parameters | None, hung_up: Callable[[], bool] = lambda: False) -> Result:
        if "PREPARE " in text or text.startswith("DEALLOCATE"):
            return super()._run(text, parameters, hung_up)
        super()._run("BEGIN", None)
        try:
            result = self._run_parts(text.split("; "), parameters)
            (writes,) = super()._run("SELECT pg_current_xact_id_if_assigned() IS NOT NULL", None)
        except Exception:
            super()._run("ROLLBACK", None)
            raise
        if writes and self._stall is not None:
            self._stall(InFlight(self._connection))
            self._connection = self._cursor = None
            raise TimeoutError
        super()._run("COMMIT", None)
        return result

    def _run_parts(self, parts: list[str], parameters: Parameters | None) -> Result:
        result: Result = ()
        for part in parts:
            # settings see nothing
            if not part.startswith("SET "):
                self._step()
            result = super()._run(part, parameters)
        return result


class LookFirst(SteppedSession):
    """Takes the lock only after the look, as one statement that does both would."""

    def _run_parts(self, parts: list[str], parameters: Parameters | None) -> Result:
        lock = LOCK.prepared()[1]
        result = super()._run_parts([part for part in parts if part != lock], parameters)
        if lock in parts:
            super()._run_parts([lock], parameters)
        return result


@dataclass
class Flight:
    """What hangs, each with the name of its resource, and when in the next call all of it ends (and how)."""

    hanging: list[tuple[str, InFlight]] = field(default_factory=list)
    moment: tuple[int, bool] | None = None

    def concerns(self, name: str) -> bool:
        """Say whether something of this resource hangs."""
        return any(about == name for about, _ in self.hanging)

    def end_one(self, committed: bool) -> None:
        """Let the oldest end, if there is one."""
        if self.hanging:
            self.hanging.pop(0)[1].end(committed=committed)

    def end_all(self, committed: bool = True) -> None:
        """Let all end."""
        while self.hanging:
            self.end_one(committed)

    @contextlib.contextmanager
    def store(self, config: DatabaseConfig, kind: type[SteppedSession], hangs: str) -> Iterator[Store]:
        """Make a store for one call in which the moment comes, and whose commits hang if ``hangs`` names a resource."""
        statement = itertools.count()

        def step() -> None:
            if self.moment is not None and next(statement) == self.moment[0]:
                self.end_all(self.moment[1])

        def stall(transaction: InFlight) -> None:
            self.hanging.append((hangs, transaction))

        store = Store(config)
        store.pool._make = lambda: kind(config, step, stall if hangs else None)
        yield store
        store.close()
        self.moment = None

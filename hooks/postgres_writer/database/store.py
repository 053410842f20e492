"""Plan -> Outcome: make true in PostgreSQL what a plan says, and tell what PostgreSQL says is true."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from dataclasses import replace
from enum import Enum

from postgres_writer.config.settings import DEFAULT_CONNECTIONS, DatabaseConfig
from postgres_writer.core import refusals
from postgres_writer.core.plan import Leave, Look, Operation, Outcome, Plan, Record, Remove, Write
from postgres_writer.core.refusals import Access, Own, Refused
from postgres_writer.database import statements
from postgres_writer.database.circuit import Circuit
from postgres_writer.database.pool import Pool
from postgres_writer.database.session import EXPIRED, Parameters, Result, Session
from postgres_writer.deadlines import Call
from postgres_writer.errors import (
    DatabaseBusy,
    DatabaseUnavailable,
    DeleteFailed,
    RequestExpired,
    TableRecorded,
)
from postgres_writer.telemetry.logs import fields

logger = logging.getLogger(__name__)

PASSING = (DatabaseUnavailable, DatabaseBusy, RequestExpired)
"""What says nothing about the tables: every one of them may still hold the row."""


class Presence(Enum):
    """Whether a table holds the row."""

    PRESENT = "present"
    ABSENT = "absent"
    IMPOSSIBLE = "impossible"
    """The table is gone, or no id in it can be this one."""
    UNKNOWN = "unknown"


NOT_HELD = (Presence.ABSENT, Presence.IMPOSSIBLE)


class Store:
    """The database. Nothing is kept but connections, at most as many as ``connections`` says."""

    def __init__(self, config: DatabaseConfig, connections: int = DEFAULT_CONNECTIONS) -> None:
        circuit = Circuit()
        self._statement_timeout = config.statement_timeout
        self._pool = Pool(lambda: Session(config, circuit, self._pool.close), connections, config.idle_timeout)

    def apply(self, plan: Plan, call: Call) -> Outcome:
        """Make the plan true; never raises for what concerns the resource, the table or the database."""
        if isinstance(plan, Leave):
            return Outcome(plan.tables, error=plan.verdict)
        # whatever is asked from here on is asked under the lock of the id, unless it says otherwise
        call = replace(call, lock=statements.lock_key(plan.id))
        match plan:
            case Write():
                return self._write(plan, call)
            case Remove():
                return self._remove(plan, call)
            case Record():
                return self._record(plan, call)
            case Look():
                return self._look(plan, call)

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._pool.close()

    def _session(
        self, call: Call, statement: statements.Statement, parameters: Parameters
    ) -> AbstractContextManager[Session]:
        return self._pool.lend(statement, parameters.get("id", ""), call.start_by(self._statement_timeout))

    def _ask(self, call: Call, statement: statements.Statement, parameters: Parameters) -> Result:
        with self._session(call, statement, parameters) as session:
            return session.execute(call, statement, parameters)

    def _in_time(self, call: Call, statement: statements.Statement, parameters: Parameters) -> Result:
        """Run a statement whose last column says whether its deadline held; repeat it if only the clock was off."""
        with self._session(call, statement, parameters) as session:
            result = session.execute(call, statement, parameters)
            if not result[-1] and not session.late(call):
                result = session.execute(call, statement, parameters)
            return result

    def _write(self, plan: Write, call: Call) -> Outcome:
        table = plan.spec.table
        try:
            operation = self._move(plan, call) if plan.leave else self._put(plan, call)
        except PASSING as exc:
            return Outcome((*plan.leave, table), error=exc)
        except Refused as exc:
            return self._explain(plan, call, exc)
        return Outcome((table,), operation)

    def _put(self, plan: Write, call: Call) -> Operation:
        statement, parameters = statements.write(plan.spec.table), _values(plan)
        # without the lock nothing may be written, and nothing is: its deadline is long over
        if plan.steady and self._ask(replace(call, lock=None), statement, {**parameters, "until": 0.0})[0]:
            return Operation.UNCHANGED
        before, after, in_time = self._in_time(call, statement, parameters)
        if before:
            return Operation.UNCHANGED
        if after:
            return Operation.INSERTED if before is None else Operation.UPDATED
        if after is None and not in_time:
            raise RequestExpired(EXPIRED)
        raise Refused(Own.SWALLOWED if after is None else Own.ALTERED)

    def _move(self, plan: Write, call: Call) -> Operation:
        statement, parameters = statements.move(plan.spec.table, plan.leave), _values(plan)
        with self._session(call, statement, parameters) as session:
            for last in (False, True):
                try:
                    session.execute(call, statement, parameters)
                except Refused as exc:
                    if exc.guard != "late":
                        raise
                    if last or session.late(call):
                        raise RequestExpired(EXPIRED) from exc
                else:
                    break
        return Operation.MOVED

    def _explain(self, plan: Write, call: Call, refused: Refused) -> Outcome:
        """Find out which table a refused write was about, and which tables hold the row; nothing was changed."""
        table = plan.spec.table
        try:
            access = self._survey(table, call)
            leave = tuple(other for other in plan.leave if self._may_hold(plan.id, other, call))
            undeletable = next((other for other in leave if self._survey(other, call).undeletable), None)
            if access.found and refused.effect is Own.SWALLOWED and self._has_equal(plan.id, table, call):
                refused = Refused(Own.EQUAL)
        except PASSING as exc:
            return Outcome((*plan.leave, table), error=exc)
        if access.found and leave != plan.leave:
            # A table that is gone, or does not hold the row, must not hold up the move.
            return self._write(replace(plan, leave=leave), call)
        error = refusals.of_write(table, access, refused, leave, undeletable)
        denied = access.denied and not plan.listed
        return Outcome(leave if denied else (*leave, table), error=error)

    def _remove(self, plan: Remove, call: Call) -> Outcome:
        """Delete table by table: each delete is idempotent."""
        left = list(plan.tables)
        operation, error = Operation.ABSENT, None
        for table in plan.tables:
            try:
                if self._delete(plan, table, call):
                    operation = Operation.DELETED
                left.remove(table)
            except PASSING as exc:
                # another transaction may have begun meanwhile, which may write any of them
                return Outcome(plan.tables, operation, exc)
            except DeleteFailed as exc:
                error = error or exc
        return Outcome(tuple(left), operation, error)

    def _delete(self, plan: Remove, table: str, call: Call) -> bool:
        """Delete the row from one table; True when there was one."""
        statement, parameters = statements.remove(table), {"id": plan.id}
        try:
            deleted, present, in_time = self._in_time(call, statement, parameters)
            if present and not deleted and in_time:
                # Either somebody else deleted it at the same moment, or something swallows the delete.
                deleted, present, in_time = self._in_time(call, statement, parameters)
        except Refused as exc:
            return self._explain_delete(plan, table, call, exc)
        if present and not deleted:
            raise RequestExpired(EXPIRED) if not in_time else refusals.of_delete(table, Refused(Own.SWALLOWED))
        return bool(deleted)

    def _explain_delete(self, plan: Remove, table: str, call: Call, refused: Refused) -> bool:
        access = self._survey(table, call)
        if not access.found:
            logger.warning("A table that may have held the row does not exist", extra=fields(id=plan.id, table=table))
            return False
        if not self._may_hold(plan.id, table, call):
            return False
        if access.undeletable:
            if table not in plan.listed:
                return False
            raise refusals.denied_delete(table)
        raise refusals.of_delete(table, refused)

    def _record(self, plan: Record, call: Call) -> Outcome:
        try:
            access = self._survey(plan.table, call)
            others = self._holders(plan.id, plan.others, call)
        except PASSING as exc:
            return Outcome(plan.others, error=exc)
        if not access.found:
            return Outcome((*others, plan.table), error=refusals.not_found(plan.table))
        if not access.writable:
            return Outcome(others, error=refusals.denied_write(plan.table))
        text = f"Table {plan.table}, refused before, may be written now; it is recorded first and written in a moment."
        return Outcome((*others, plan.table), error=TableRecorded(text))

    def _look(self, plan: Look, call: Call) -> Outcome:
        table = () if plan.table is None else (plan.table,)
        try:
            others = self._holders(plan.id, plan.others, call)
            if plan.new and plan.table is not None and self._survey(plan.table, call).denied:
                table = ()
        except PASSING:
            others = plan.others
        return Outcome((*others, *table), error=plan.verdict)

    def _holders(self, row: str, tables: tuple[str, ...], call: Call) -> tuple[str, ...]:
        """Give those tables that hold the row, or of which it cannot be told."""
        return tuple(table for table in tables if self._presence(row, table, call) not in NOT_HELD)

    def _may_hold(self, row: str, table: str, call: Call) -> bool:
        """Say whether a table from which the row could not be deleted may hold it.

        A view that takes no rows (of a join, a materialised one) may show the row of another table.
        """
        return self._presence(row, table, call) not in NOT_HELD and self._survey(table, call).takes_rows

    def _presence(self, row: str, table: str, call: Call) -> Presence:
        try:
            present = self._ask(call, statements.present(table), {"id": row})[0]
        except Refused as exc:
            gone = exc.code in refusals.MISSING_CODES and not self._survey(table, call).found
            return Presence.IMPOSSIBLE if gone or refusals.cannot_hold(exc) else Presence.UNKNOWN
        return Presence.PRESENT if present else Presence.ABSENT

    def _has_equal(self, row: str, table: str, call: Call) -> bool:
        """Say whether a row of somebody else, whose id compares equal, is what the write ran into."""
        try:
            return bool(self._ask(call, statements.equal(table), {"id": row})[0])
        except Refused:
            return False

    def _survey(self, table: str, call: Call) -> Access:
        schema, _, name = table.rpartition(".")
        quoted = ".".join(f'"{part}"' for part in table.split("."))
        return Access(
            *self._ask(call, statements.survey(table), {"schema": schema or None, "name": name, "quoted": quoted})
        )


def _values(plan: Write) -> dict[str, str | int]:
    spec = plan.spec
    return {"id": plan.id, "name": spec.name, "age": spec.age, "country": spec.country}

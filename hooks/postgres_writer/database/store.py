"""Plan -> Outcome: carry out a plan in PostgreSQL and report what PostgreSQL says is true."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from dataclasses import replace
from enum import Enum

from postgres_writer.config.settings import DEFAULT_CONNECTIONS, DatabaseConfig
from postgres_writer.core import refusals
from postgres_writer.core.plan import Inspect, Operation, Outcome, Plan, Record, Remove, Skip, Write
from postgres_writer.core.refusals import Access, Key, Refused
from postgres_writer.core.request import Spec
from postgres_writer.database import statements
from postgres_writer.database.pool import Pool
from postgres_writer.database.session import EXPIRED, Parameters, Result, SearchPath, Session
from postgres_writer.database.sharing import Circuit
from postgres_writer.deadlines import CIRCUIT_SECONDS, LOCK_SHARE, Call
from postgres_writer.errors import DatabaseBusy, DatabaseUnavailable, DeleteFailed, RequestExpired, TableRecorded
from postgres_writer.telemetry.logs import fields

logger = logging.getLogger(__name__)

TRANSIENT = (DatabaseUnavailable, DatabaseBusy, RequestExpired)
"""Errors that say nothing about the tables: each of them may still hold the row."""


class Presence(Enum):
    """Whether a table holds the row."""

    PRESENT = "present"
    ABSENT = "absent"
    """It is not there, or the table is gone, or no id in it can be this one."""
    UNSEEN = "unseen"
    """The row is not seen, but row-level security or the condition of a view may hide it."""
    UNKNOWN = "unknown"


class Store:
    """The database. Nothing is kept but connections, at most as many as ``connections`` says."""

    def __init__(self, config: DatabaseConfig, connections: int = DEFAULT_CONNECTIONS) -> None:
        circuit, search_path = Circuit(CIRCUIT_SECONDS), SearchPath()
        self._statement_timeout = config.statement_timeout
        self._pool = Pool(
            lambda: Session(config, circuit, search_path, self._pool.close),
            connections,
            config.idle_timeout,
            LOCK_SHARE * config.statement_timeout,
        )

    def apply(self, plan: Plan, call: Call) -> Outcome:
        """Make the plan true; never raises for what concerns the resource, the table or the database."""
        if isinstance(plan, Skip):
            return Outcome(plan.tables, error=plan.verdict)
        # every message from here on takes the lock of the id first, except where it is taken out again (see _put)
        call = call.under(plan.id)
        match plan:
            case Write():
                return self._write(plan, call)
            case Remove():
                return self._remove(plan, call)
            case Record():
                return self._record(plan, call)
            case Inspect():
                return self._inspect(plan, call)

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._pool.close()

    def _session(
        self, call: Call, statement: statements.Statement, parameters: Parameters
    ) -> AbstractContextManager[Session]:
        # a survey is about no id, so a timeout of it counts against no table
        return self._pool.lend(statement, parameters.get("id", ""), call.start_by(self._statement_timeout))

    def _ask(self, call: Call, statement: statements.Statement, parameters: Parameters) -> Result:
        with self._session(call, statement, parameters) as session:
            return session.execute(call, statement, parameters)

    def _execute_by_deadline(self, call: Call, statement: statements.Statement, parameters: Parameters) -> Result:
        """Run a statement whose last column says whether its deadline held; repeat it if only the clock was off."""
        with self._session(call, statement, parameters) as session:
            result = session.execute(call, statement, parameters)
            if not result[-1] and not session.confirm_late(call):
                result = session.execute(call, statement, parameters)
            return result

    def _write(self, plan: Write, call: Call) -> Outcome:
        table, differs = plan.spec.table, False
        try:
            if plan.steady:
                if self._is_equal(plan, call):
                    return Outcome((table,), Operation.UNCHANGED)
                differs = True
            operation = self._move(plan, call) if plan.vacate else self._put(plan, call)
        except TRANSIENT as exc:
            # it may have been committed all the same, so every table stays listed
            return Outcome((*plan.vacate, table), error=exc, differs=differs)
        except Refused as exc:
            return self._explain(plan, call, exc)
        return Outcome((table,), operation)

    def _is_equal(self, plan: Write, call: Call) -> bool:
        """Say whether the row matches the spec, without the lock of its id."""
        # nothing may be written without it: a deadline in the past makes the statement compare and not write
        parameters = {**_values(plan.id, plan.spec), "until": 0.0}
        return bool(self._ask(call.under(None), statements.write(plan.spec.table), parameters)[0])

    def _put(self, plan: Write, call: Call) -> Operation:
        statement, parameters = statements.write(plan.spec.table), _values(plan.id, plan.spec)
        before, after, in_time = self._execute_by_deadline(call, statement, parameters)
        if before:
            return Operation.UNCHANGED
        if after:
            return Operation.INSERTED if before is None else Operation.UPDATED
        if after is None and not in_time:
            raise RequestExpired(EXPIRED)
        raise Refused(guard="swallowed" if after is None else "altered")

    def _move(self, plan: Write, call: Call) -> Operation:
        statement, parameters = statements.move(plan.spec.table, plan.vacate), _values(plan.id, plan.spec)
        with self._session(call, statement, parameters) as session:
            # a second time when the clock was off: confirm_late() closed the connection, and a new one measures it
            for last in (False, True):
                try:
                    session.execute(call, statement, parameters)
                except Refused as exc:
                    if exc.guard != "late":
                        raise
                    if last or session.confirm_late(call):
                        raise RequestExpired(EXPIRED) from exc
                else:
                    break
        return Operation.MOVED

    def _explain(self, plan: Write, call: Call, refused: Refused) -> Outcome:
        """Find out which table a refused write was about, and which tables hold the row; nothing was changed."""
        table = plan.spec.table
        try:
            access = self._survey(table, call)
            vacate = self._still_to_vacate(plan, call)
            if access.found and tuple(vacate) != plan.vacate:
                # A table that is gone, or does not hold the row, must not hold up the move.
                return self._write(replace(plan, vacate=tuple(vacate)), call)
            if access.found and refused.guard == "swallowed" and self._has_equal(plan.id, table, call):
                refused = Refused(guard="equal")
            may_hold = plan.listed or self._may_be_in_target(plan, access, refused, call)
        except TRANSIENT as exc:
            return Outcome((*plan.vacate, table), error=exc, differs=True)
        error = refusals.explain_write(table, access, refused, vacate, listed=may_hold)
        return Outcome((*vacate, table) if may_hold else tuple(vacate), error=error)

    def _still_to_vacate(self, plan: Write, call: Call) -> dict[str, Access]:
        """Give those of the tables to vacate that hold the row or may hold it."""
        held, shown = {}, {}
        for table in plan.vacate:
            presence = self._presence(plan.id, table, call)
            if presence is Presence.UNSEEN:
                presence = self._ask_index(plan.id, plan.spec, table, call)
            if presence is not Presence.ABSENT:
                access = held[table] = self._survey(table, call)
                if presence is Presence.PRESENT and not access.takes_rows:
                    shown[table] = access
        # what a view of a join, or a materialised one, shows is the row of another table
        if shown and (len(shown) < len(held) or self._presence(plan.id, plan.spec.table, call) is Presence.PRESENT):
            return {table: access for table, access in held.items() if table not in shown}
        return held

    def _may_be_in_target(self, plan: Write, access: Access, refused: Refused, call: Call) -> bool:
        """Say whether the row may be in a table that status does not list, after a write to it was refused."""
        if refusals.policies_refuse(access, refused):
            # what they hide under this id may be the row of a write whose answer got lost
            return self._ask_index(plan.id, plan.spec, plan.spec.table, call) is Presence.PRESENT
        return not self._is_barred(plan.id, plan.spec.table, access, refused, call)

    def _is_barred(self, row: str, table: str, access: Access, refused: Refused, call: Call) -> bool:
        """Say whether the row cannot be in a table that status does not list, though a write may be in flight."""
        if refusals.lacks_key(access, refused) and not access.barred:
            # a first write shows that it is not hidden, so what is not seen here is not there
            return self._presence(row, table, call) in (Presence.ABSENT, Presence.UNSEEN)
        return access.barred

    def _remove(self, plan: Remove, call: Call) -> Outcome:
        """Delete table by table: each delete is idempotent."""
        left = list(plan.tables)
        operation, error = Operation.ABSENT, None
        for table in plan.tables:
            try:
                if self._delete(plan, table, call):
                    operation = Operation.DELETED
                left.remove(table)
            except TRANSIENT as exc:
                # another transaction may have begun meanwhile, which may write any of them
                return Outcome(plan.may_hold, operation, exc)
            except DeleteFailed as exc:
                # the other tables are tried all the same; the first reason is reported
                error = error or exc
        return Outcome(tuple(left), operation, error)

    def _delete(self, plan: Remove, table: str, call: Call) -> bool:
        """Delete the row from one table; True when there was one."""
        listed = table in plan.listed
        statement = statements.remove(table) if listed else statements.remove_unlisted(table)
        parameters = {"id": plan.id}
        try:
            deleted, seen, hides, in_time = self._execute_by_deadline(call, statement, parameters)
            if seen and not deleted and in_time:
                # Either another session deleted it at the same moment, or something swallows the delete.
                deleted, seen, hides, in_time = self._execute_by_deadline(call, statement, parameters)
        except Refused as exc:
            # the guard says that the row cannot be in it: nothing to delete, and nothing to explain
            return exc.guard != "unfit" and self._explain_delete(plan, table, call, exc)
        if seen and not deleted:
            raise (
                RequestExpired(EXPIRED) if not in_time else refusals.explain_delete(table, Refused(guard="swallowed"))
            )
        if hides and not seen:
            presence = self._ask_index(plan.id, plan.spec, table, call)
            # doubt holds up the deletion only where the row may have been written
            if presence is Presence.PRESENT or (listed and presence is Presence.UNKNOWN):
                raise refusals.explain_hidden(table)
        return bool(deleted)

    def _explain_delete(self, plan: Remove, table: str, call: Call, refused: Refused) -> bool:
        access = self._survey(table, call)
        if not access.found:
            logger.warning("A table that may have held the row does not exist", extra=fields(id=plan.id, table=table))
            return False
        presence = self._presence(plan.id, table, call)
        if presence is Presence.ABSENT:
            return False
        # else a mistyped table, on which nothing is granted, would block the deletion permanently
        if table not in plan.listed and (access.undeletable or presence is Presence.UNSEEN):
            return False
        raise refusals.explain_delete(table, refused, access)

    def _record(self, plan: Record, call: Call) -> Outcome:
        table = plan.spec.table
        try:
            access = self._survey(table, call)
            others = self._holders(plan.id, plan.others, call)
            refused = self._foresee(plan.id, plan.spec, access, call)
        except TRANSIENT as exc:
            return Outcome(plan.others, error=exc)
        if not access.found:
            return Outcome((*others, table), error=refusals.not_found(table))
        if refused is not None:
            return Outcome(others, error=refusals.explain_write(table, access, refused, {}, listed=False))
        text = f"Table {table} is now allowed; it was recorded in status and the row will be written at the next sync."
        return Outcome((*others, table), error=TableRecorded(text))

    def _foresee(self, row: str, spec: Spec, access: Access, call: Call) -> Refused | None:
        """Give the refusal with which a first write would end because of the table, not of the values."""
        if access.barred:
            return Refused()
        if access.key is Key.USABLE and not access.policies:
            return None
        refused = self._probe(row, spec, spec.table, call)
        # our own row, and it is seen: the write will find and update it
        if refused.guard == "taken" and self._presence(row, spec.table, call) is Presence.PRESENT:
            return None
        return refused if refusals.policies_refuse(access, refused) or refusals.lacks_key(access, refused) else None

    def _inspect(self, plan: Inspect, call: Call) -> Outcome:
        table = () if plan.table is None else (plan.table,)
        try:
            others = self._holders(plan.id, plan.others, call)
            if plan.new and plan.table is not None:
                access = self._survey(plan.table, call)
                if self._is_barred(plan.id, plan.table, access, Refused(), call):
                    table = ()
        except TRANSIENT:
            # not proven to be without the row, so none is dropped
            others = plan.others
        return Outcome((*others, *table), error=plan.verdict)

    def _holders(self, row: str, tables: tuple[str, ...], call: Call) -> tuple[str, ...]:
        """Give those tables that hold the row or may hold it."""
        return tuple(table for table in tables if self._presence(row, table, call) is not Presence.ABSENT)

    def _presence(self, row: str, table: str, call: Call) -> Presence:
        try:
            seen, unseen = self._ask(call, statements.present(table), {"id": row})
        except Refused as exc:
            gone = exc.code in refusals.MISSING_CODES and not self._survey(table, call).found
            return Presence.ABSENT if gone or exc.code in refusals.CANNOT_HOLD_CODES else Presence.UNKNOWN
        return Presence.PRESENT if seen else Presence.UNSEEN if unseen else Presence.ABSENT

    def _ask_index(self, row: str, spec: Spec | None, table: str, call: Call) -> Presence:
        """Say whether a row that is not seen is there, as far as the unique index shows."""
        refused = Refused() if spec is None else self._probe(row, spec, table, call)
        # an equal id that is seen keeps ours out, too
        if refused.guard == "free" or (refused.guard == "taken" and self._has_equal(row, table, call)):
            return Presence.ABSENT
        if refused.guard == "taken":
            return Presence.PRESENT
        if refusals.may_hide(self._survey(table, call), refused):
            return Presence.UNKNOWN
        # What hid it may have been taken away since; this statement sees the row and the policies at one moment.
        presence = self._presence(row, table, call)
        return Presence.ABSENT if presence is Presence.UNSEEN else presence

    def _probe(self, row: str, spec: Spec, table: str, call: Call) -> Refused:
        """Try an insert that is always refused: by the guard ``free`` or ``taken``, or by what prevents it."""
        try:
            self._ask(call, statements.probe(table), _values(row, spec))
        except Refused as exc:
            return exc
        raise AssertionError("the probe must roll back")

    def _has_equal(self, row: str, table: str, call: Call) -> bool:
        """Say whether the write conflicted with another row whose id compares equal."""
        try:
            return bool(self._ask(call, statements.equal(table), {"id": row})[0])
        except Refused:
            return False

    def _survey(self, table: str, call: Call) -> Access:
        schema, _, name = table.rpartition(".")
        quoted = ".".join(f'"{part}"' for part in table.split("."))
        given = {"schema": schema or None, "name": name, "quoted": quoted}
        try:
            found, writable, deletable, takes_rows, key, policies = self._ask(call, statements.survey(table), given)
        except Refused:
            # whether a view takes rows may depend on a foreign data wrapper, which may fail to answer
            return Access(found=True, writable=True, deletable=True, takes_rows=True, key=Key.UNKNOWN)
        return Access(found, writable, deletable, takes_rows, Key(key), policies)


def _values(row: str, spec: Spec) -> dict[str, str | int]:
    return {"id": row, "name": spec.name, "age": spec.age, "country": spec.country}

"""Plan -> Outcome: carry out a plan in PostgreSQL and report what PostgreSQL says is true.

Two things prove that a table does not hold the row: a look under the lock of the id that saw none, and the catalogue,
under the guard of that lock, saying that there is no such relation. An error proves nothing, whatever its SQLSTATE.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace

from postgres_writer.config.settings import Config, DatabaseConfig
from postgres_writer.config.variables import DEFAULT_DATABASE
from postgres_writer.core import refusals
from postgres_writer.core.plan import Asking, Inspect, Operation, Outcome, Plan, Record, Remove, Write
from postgres_writer.core.refusals import Access, Guard, Key, Refused
from postgres_writer.core.row import Spec, Values
from postgres_writer.database import statements
from postgres_writer.database.pool import Pool
from postgres_writer.database.session import Result, Session
from postgres_writer.database.sharing import Circuit, Queue
from postgres_writer.deadlines import CIRCUIT_SECONDS, Call
from postgres_writer.errors import TRANSIENT, DatabaseUnavailable, DeleteFailed, ResourceError, TableRecorded
from postgres_writer.telemetry import metrics
from postgres_writer.telemetry.logs import log_fields

logger = logging.getLogger(__name__)

_PASSING = {Guard.MISSING, Guard.ALTERED, Guard.KEPT}
"""What a look also finds once where another transaction replaced the row while the act waited for it."""
_WAS = {each.value: each for each in (Operation.INSERTED, Operation.UPDATED, Operation.UNCHANGED)}


class Store:
    """A database. Nothing is kept but connections, at most as many as ``connections`` says.

    They share the places of ``total``, if it is given, with those of other databases.
    """

    def __init__(
        self,
        config: DatabaseConfig,
        connections: int = Config.connections,
        name: str = DEFAULT_DATABASE,
        total: Queue | None = None,
    ) -> None:
        circuit, meters = Circuit(CIRCUIT_SECONDS), metrics.OfDatabase(name)
        self._statement_timeout = config.statement_timeout
        self.pool = Pool(
            lambda: Session(config, circuit, meters, self.pool.close),
            Queue(connections),
            # the last place of it is not for who holds one
            total or Queue(connections + 1),
            config.idle_timeout,
            meters,
        )

    def apply(self, plan: Plan, call: Call) -> Outcome:
        """Make the plan true; never raises for what concerns the resource, the table or the database."""
        match plan:
            case Outcome():
                return plan
            case Inspect():
                return self._inspect(plan, call)
        try:
            if isinstance(plan, Write):
                return self._write(plan, call)
            return self._remove(plan, call) if isinstance(plan, Remove) else self._record(plan, call)
        except TRANSIENT as exc:
            return Outcome(plan.may_hold, error=exc)

    def about(self, schema: str, call: Call) -> Result:
        """Give server version, role, database, and whether the schema may be used. Raises ResourceError."""
        return self._ask(call, statements.ABOUT, "", schema=schema)

    def check(self, spec: Spec, call: Call) -> tuple[ResourceError | None, list[str]]:
        """Say what keeps the role from writing such a row, and name the triggers that run with its rights.

        Raises ResourceError when the database cannot be asked.
        """
        schema, _, name = spec.table.partition(".")
        access = self._survey(Record("check", spec, ()), spec.table, call)
        sound = access.found and not (access.barred or access.unready or access.missing)
        (triggers,) = self._ask(call, statements.TRIGGERS, "", schema=schema, name=name)
        return None if sound else refusals.explain_write(spec.table, access, Refused(), {}), triggers

    def close(self) -> None:
        """Close the connections that are not in use."""
        self.pool.close()

    def _ask(self, call: Call, message: statements.Message, row_id: str, **more: object) -> Result:
        """Send a message about the row with that id and ``more`` parameters, and give its result."""
        parameters = {"id": row_id, "key": statements.lock_key(row_id), "word": statements.WORD, **more}
        for again in (True, False):
            try:
                with self.pool.lend(message, row_id, call.start_by(self._statement_timeout)) as session:
                    return session.execute(call, message, parameters)
            except Refused as exc:
                if not (again and exc.guard in _PASSING):
                    raise
        raise AssertionError("the second one returns or raises")

    def _write(self, plan: Write, call: Call) -> Outcome:
        if plan.steady and self._matches(plan, call):
            return Outcome((plan.spec.table,), Operation.UNCHANGED)
        try:
            return self._overwrite(plan, call)
        except DatabaseUnavailable as exc:
            # also where status says Ready: PostgreSQL may just have shown that the row is another
            exc.away = math.inf
            raise

    def _overwrite(self, plan: Write, call: Call) -> Outcome:
        released = self._releasable(plan, call)
        message = statements.write(plan.spec.table, plan.columns, plan.vacate, plan.id_column, released)
        try:
            was = self._ask(call, message, plan.id, doc={plan.id_column: plan.id, **dict(plan.spec.values)})[0]
        except Refused as exc:
            return self._recover_or_explain(plan, call, exc)
        # the word travels through a setting of the transaction, which a trigger can change
        return Outcome((plan.spec.table,), Operation.MOVED if plan.vacate else _WAS.get(was, Operation.UPDATED))

    def _matches(self, plan: Write, call: Call) -> bool:
        message = statements.matches(plan.spec.table, plan.columns, plan.id_column)
        try:
            return bool(self._ask(call, message, plan.id, doc={plan.id_column: plan.id, **dict(plan.spec.values)})[0])
        except Refused:
            # it brings no settings along, so it may have been a role that was left in the session
            return False

    def _releasable(self, plan: Write, call: Call) -> tuple[str, ...]:
        """Give the released columns that the table has and the role may update."""
        if not plan.released:
            return ()
        access = self._survey(plan, plan.spec.table, call, plan.released)
        return tuple(column for column in plan.released if column not in (*access.missing, *access.denied))

    def _recover_or_explain(self, plan: Write, call: Call, refused: Refused) -> Outcome:
        """Find out which table a refused write was about, and which tables hold the row; nothing was changed."""
        table = plan.spec.table
        access = self._survey(plan, table, call)
        holders = self._holders(plan, plan.vacate, call)
        vacate = {old: self._survey(plan, old, call) for old in holders}
        if access.found and holders != plan.vacate:
            # A table that is gone, or does not hold the row, must not hold up the move.
            return self._overwrite(replace(plan, vacate=holders), call)
        listed = plan.listed or self._may_hold_unlisted(plan, table, access, call)
        if refusals.needs_column(refused, access):
            refused.column = self._column_at_fault(plan, call)
        error = refusals.explain_write(table, access, refused, vacate)
        return Outcome((*holders, table) if listed else holders, error=error)

    def _column_at_fault(self, plan: Write, call: Call) -> str:
        """Find the column whose value PostgreSQL does not take by converting halves; an empty text where it is none."""
        values, message = plan.spec.values, statements.convert(plan.spec.table)

        def is_refused(part: Values) -> bool:
            try:
                self._ask(call, message, plan.id, doc=dict(part))
            except Refused:
                return True
            return False

        if not is_refused(values):
            return ""
        while len(values) > 1:
            half = len(values) // 2
            values = values[:half] if is_refused(values[:half]) else values[half:]
        return values[0][0]

    def _remove(self, plan: Remove, call: Call) -> Outcome:
        """Delete table by table: each delete is idempotent."""
        left: list[str] = []
        operation, error = Operation.ABSENT, None
        for table in plan.tables:
            try:
                if self._delete(plan, table, call):
                    operation = Operation.DELETED
            except DeleteFailed as exc:
                # the other tables are tried all the same; the first reason is reported
                error = error or exc
                left.append(table)
        return Outcome(tuple(left), operation, error)

    def _delete(self, plan: Remove, table: str, call: Call) -> bool:
        """Delete the row from one table; True when there was one. Raises DeleteFailed when it may still be there."""
        try:
            return bool(self._ask(call, statements.remove(table, plan.id_column), plan.id)[0])
        except Refused as exc:
            access, listed = self._survey(plan, table, call), table in plan.listed
            if listed and not access.found:
                gone = "A table that may have held the row does not exist"
                logger.warning(gone, extra=log_fields(id=plan.id, table=table))
            may_hold = access.found and (listed or self._may_hold_unlisted(plan, table, access, call))
            if may_hold and self._may_hold(plan, table, call):
                raise refusals.explain_delete(table, exc, access) from exc
            return False

    def _record(self, plan: Record, call: Call) -> Outcome:
        table = plan.spec.table
        access = self._survey(plan, table, call)
        others = self._holders(plan, plan.may_hold, call)
        may_hold = self._may_hold_unlisted(plan, table, access, call)
        text = f"Table {table} is now allowed; it was recorded in status and the row will be written at the next sync."
        sound = may_hold and access.found
        error = TableRecorded(text) if sound else refusals.explain_write(table, access, Refused(), {})
        return Outcome((*others, table) if may_hold else others, error=error)

    def _inspect(self, plan: Inspect, call: Call) -> Outcome:
        table = () if plan.table is None else (plan.table,)
        try:
            others = self._holders(plan, plan.others, call)
            if plan.new and plan.table is not None:
                access = self._survey(plan, plan.table, call)
                if not self._may_hold_unlisted(plan, plan.table, access, call):
                    table = ()
        except TRANSIENT:
            # not proven to be without the row, so none is dropped
            others = plan.others
        return Outcome((*others, *table), error=plan.verdict)

    # What proves that a table does not hold the row

    def _holders(self, plan: Asking, tables: tuple[str, ...], call: Call) -> tuple[str, ...]:
        """Give those of the tables that hold the row or may hold it."""
        return tuple(table for table in tables if self._may_hold(plan, table, call))

    def _may_hold(self, plan: Asking, table: str, call: Call) -> bool:
        """Say whether a table holds the row, or is not proven not to."""
        try:
            return bool(self._ask(call, statements.present(table, plan.id_column), plan.id)[0])
        except Refused:
            return self._survey(plan, table, call).found

    def _may_hold_unlisted(self, plan: Asking, table: str, access: Access, call: Call) -> bool:
        """Say whether a table that status does not list may hold the row, since a write was not answered.

        Where the row cannot have been written, listing the table would only hold up the deletion.
        """
        return not access.barred and (not access.unready or self._may_hold(plan, table, call))

    def _survey(self, plan: Asking, table: str, call: Call, columns: tuple[str, ...] | None = None) -> Access:
        """Ask the catalogue about a table; ``columns`` besides the id's, of the plan unless given as released."""
        schema, _, name = table.partition(".")
        given = {"id_column": plan.id_column, "columns": (names := [plan.id_column, *(columns or plan.columns)])}
        found, is_table, used, deletes, policies, missing, denied, finds, key, *where = self._ask(
            call, statements.SURVEY, plan.id, schema=schema, name=name, update=columns is not None, **given
        )
        lacking, refused = (tuple(each for each in names if used and each in some) for some in (missing, denied))
        writable, deletable = used and not refused, used and finds and deletes
        about = Key(key), policies, lacking, refused, plan.id_column
        return Access(found, is_table, writable, deletable, *about, *where)

"""HookRequest -> Plan: what must be true of which tables. Pure; the store carries it out and returns an Outcome.

The invariant all of this serves: the row can exist only in status.tables united with spec.table. Tables are relation
names here (schema.table), so that two spellings of one table are no move. The rule of the
CustomResourceDefinition freezes spec.table until status.observedTable records it, so a table may be written when
the rule still holds it (observedTable differs) or when status.tables lists it; otherwise it is recorded first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from postgres_writer.core.request import HookRequest
from postgres_writer.core.row import COLUMNS, ID_COLUMN, Spec
from postgres_writer.errors import DatabaseNotConfigured, InvalidSpec, ResourceError, TableNotAllowed

Permits = Callable[[str, str, str | None], bool]
"""(namespace, table, column) -> whether the table policy lets this namespace write this column; None: any column."""


class _OfSpec:
    """A plan for what a valid spec says."""

    __slots__ = ()
    spec: Spec

    @property
    def columns(self) -> tuple[str, ...]:
        return self.spec.columns

    @property
    def id_column(self) -> str:
        return self.spec.id_column


@dataclass(frozen=True, slots=True)
class Write(_OfSpec):
    """The row is in spec.table and in none of ``vacate``; all of it or nothing."""

    id: str
    spec: Spec
    vacate: tuple[str, ...]
    listed: bool  # whether status.tables has listed spec.table before
    steady: bool = False
    """Whether the status says that this very generation is Ready, and names no other table.

    Then a write of it was seen to commit, and whatever is still in flight writes the same: a row that
    matches the spec can be trusted without the lock of its id. Nor is a column of an earlier spec left to release.
    """
    released: tuple[str, ...] = ()  # the columns that spec names no longer, and that get their defaults

    @property
    def may_hold(self) -> tuple[str, ...]:
        """Those that may hold the row if the write fails in a way that proves nothing: it may have been committed."""
        return (*self.vacate, self.spec.table)


@dataclass(frozen=True, slots=True)
class Record(_OfSpec):
    """Nothing is written; spec.table, which was refused before, is listed if the row can now be written to it."""

    id: str
    spec: Spec
    may_hold: tuple[str, ...]  # the other tables, which may hold the row


@dataclass(frozen=True, slots=True)
class Inspect:
    """Nothing is written; of ``others`` those proven not to hold the row are dropped.

    ``table`` is spec.table where it is to be listed. It stays, unless it is ``new`` to the list and cannot have been
    written (a missing grant, a view, ...): listed it would block the deletion.
    """

    id: str
    table: str | None
    new: bool
    others: tuple[str, ...]
    verdict: ResourceError
    columns: tuple[str, ...] = COLUMNS
    id_column: str = ID_COLUMN


@dataclass(frozen=True, slots=True)
class Remove:
    """The row is in none of ``tables``; ``listed`` are those that may really have held it."""

    id: str
    tables: tuple[str, ...]
    listed: tuple[str, ...]
    may_hold: tuple[str, ...]  # those that may hold the row if the delete fails in a way that proves nothing
    columns: tuple[str, ...] = COLUMNS
    id_column: str = ID_COLUMN


class Operation(str, Enum):
    """What the database says was done."""

    INSERTED = "inserted"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    MOVED = "moved"
    DELETED = "deleted"
    ABSENT = "absent"
    NONE = "none"


ADOPTED = "adopted"  # what metrics and log call an update that took over a row with other values (see ``is_adopted``)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is true after a plan: ``tables`` hold the row or may hold it; ``error`` is why the plan is not fulfilled."""

    tables: tuple[str, ...]
    operation: Operation = Operation.NONE
    error: ResourceError | None = None
    observed: bool = True
    """Whether the answer may say that spec.table was observed, which lets table and database be changed."""


Asking = Write | Record | Inspect | Remove
"""The plans for which the database is contacted: each has an ``id``, an ``id_column`` and ``columns``."""
Plan = Asking | Outcome
"""Where the database is not contacted, the outcome is known already."""


def make_plan(request: HookRequest, permits: Permits, missing: DatabaseNotConfigured | None = None) -> Plan:
    """Decide what must be true of which tables.

    ``permits`` is the table policy for the resource's database; ``missing``: that database cannot be asked.
    """
    table = request.relation
    # a glob of the policy may match what cannot be a table: only what passes both is ever listed or written
    permitted = table if table is not None and permits(request.namespace, table, None) else None
    if missing is not None:
        return _plan_missing(request, permitted, permits, missing)
    if request.finalizing:
        return _plan_finalize(request, permitted)
    if request.paused:
        # listed while paused, too: a write whose answer was lost may have put the row there
        return Outcome(_may_hold(request, permitted))
    refused = _refusal(request, permitted, permits)
    if request.spec is None or permitted is None or refused:
        return _plan_refused(request, permitted, refused or InvalidSpec())
    listed = request.status.tables
    others = tuple(other for other in listed if other != permitted)
    # observed but not listed: it was refused, and the CRD's rule no longer freezes it. A write whose answer gets lost
    # could be followed by another change of spec.table, which would orphan the row.
    if request.status.observed_table == request.table and permitted not in listed:
        return Record(request.id, request.spec, others)
    # the columns that may hold a value of the resource by what earlier answers say, and those that it names now
    named, kept = request.kind.fixed or request.status.columns, {*request.columns, request.id_column}
    released = tuple(each for each in named if each not in kept and permits(request.namespace, permitted, each))
    steady = listed == (permitted,) and set(named) == set(request.columns) and _is_ready(request)
    return Write(request.id, request.spec, others, permitted in listed, steady, released)


def is_drift(request: HookRequest, outcome: Outcome) -> bool:
    """Say whether the write repaired what something else did to the row: this very state was Ready before."""
    return outcome.operation in (Operation.INSERTED, Operation.UPDATED) and _is_ready(request)


def is_adopted(request: HookRequest, outcome: Outcome) -> bool:
    """Say whether a resource that was never Ready found a row with other values under its id, and took it over.

    Never Ready: no verdict yet (Pending, Unmanaged), a table that status.tables does not list, or the first spec still
    failing. After a lost answer the resource's own row looks the same.
    """
    ready = request.status.ready
    undecided = ready is None or ready.status == "Unknown" or request.relation not in request.status.tables
    first = ready is not None and ready.status == "False" and request.generation == 1
    return outcome.operation is Operation.UPDATED and (undecided or first)


def _is_ready(request: HookRequest) -> bool:
    ready = request.status.ready
    return ready is not None and ready.status == "True" and ready.observed_generation == request.generation


def _refusal(request: HookRequest, permitted: str | None, permits: Permits) -> ResourceError | None:
    """Say why the resource may not be written, whatever its database is."""
    if request.spec is None:
        return InvalidSpec(request.problem)
    denied = f"table {request.relation}"
    if permitted is not None:
        named = request.columns if request.id_column == ID_COLUMN else (*request.columns, request.id_column)
        column = next((each for each in named if not permits(request.namespace, permitted, each)), None)
        if column is None:
            return None
        denied = f"column {column} of table {permitted}"
    return TableNotAllowed(
        f"The table policy does not allow namespace {request.namespace} to write to {denied}{request.of_database}; "
        f"choose an allowed {denied.partition(' ')[0]} or ask your PostgresWriter administrator."
    )


def _plan_missing(
    request: HookRequest, permitted: str | None, permits: Permits, missing: DatabaseNotConfigured
) -> Plan:
    """Plan for a database that cannot be asked: nothing new is listed, so that a mistyped name can be corrected.

    The deletion waits only where a row can be: in a listed table, or in one that a write without an answer may have
    reached. The same is why the spec of a database that ``missing`` has found is not observed.
    """
    listed = request.status.tables
    verdict: ResourceError | None = None
    if request.finalizing:
        waits = _may_hold(request, permitted) and request.deleting and not request.retain
        verdict = missing if waits else None
    elif not request.paused:
        verdict = _refusal(request, permitted, permits) or missing
    return Outcome(listed, error=verdict, observed=not missing.found)


def _plan_finalize(request: HookRequest, permitted: str | None) -> Plan:
    # Metacontroller finalizes what its selector no longer matches, too: that resource lives on, and so does its row
    # https://metacontroller.github.io/metacontroller/api/decoratorcontroller.html#finalize-hook
    if not request.deleting or request.retain:
        return Outcome(_may_hold(request, permitted))
    listed = request.status.tables
    # of listed tables the policy is not asked again: a delete reaches only the id of this resource
    tables = _united(listed, permitted)
    may_hold = _may_hold(request, permitted)
    return Remove(request.id, tables, listed, may_hold, request.columns, request.id_column) if tables else Outcome(())


def _plan_refused(request: HookRequest, permitted: str | None, verdict: ResourceError) -> Plan:
    listed = request.status.tables
    table = permitted if permitted in _may_hold(request, permitted) else None
    others = tuple(other for other in listed if other != table)
    new = table is not None and table not in listed
    # otherwise the database is spared: nothing can be dropped from the list
    if new or others:
        return Inspect(request.id, table, new, others, verdict, request.columns, request.id_column)
    return Outcome(listed, error=verdict)


def _may_hold(request: HookRequest, permitted: str | None) -> tuple[str, ...]:
    """Give the tables to list when nothing is written.

    A table that was observed without being listed was refused before (policy, grant) and is not written before it is
    recorded; to list it now would let a mistyped table without a grant block the deletion.
    """
    listed = request.status.tables
    refused_before = request.table == request.status.observed_table
    return listed if refused_before else _united(listed, permitted)


def _united(listed: tuple[str, ...], table: str | None) -> tuple[str, ...]:
    return listed if table is None or table in listed else (*listed, table)

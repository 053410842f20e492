"""HookRequest + Outcome + time -> the body of the answer. Pure.

Two syncs of the same state give the same status to the byte: otherwise every sync would write status, and every
status write may cause a sync.
"""

from __future__ import annotations

from datetime import datetime, timezone
from hashlib import blake2b
from typing import Any

from postgres_writer.core.plan import Outcome, Plan, Write
from postgres_writer.core.request import MAX_LISTED_COLUMNS, MAX_TABLES, PAUSED_ANNOTATION, Condition, HookRequest
from postgres_writer.errors import DatabaseUnavailable, Reason, Retry

RETRY_SECONDS = 2.0
"""After a transient failure a resource is not tried again sooner than this; the database's circuit is open as long."""
OUTAGE_SECONDS = 30.0
"""How long PostgreSQL may be away before the status of resources that are Ready says so: as long as a failover takes,
and far shorter than a resync period."""
USER_ACTION_SECONDS = 60.0  # what waits for a user (a table, a grant) is tried again after this, plus or minus half
RECORDED_SECONDS = 1.0  # time enough for Metacontroller to write the status and see it
_WITHOUT_DATABASE = (Reason.INVALID_SPEC, Reason.TABLE_NOT_ALLOWED, Reason.DATABASE_NOT_CONFIGURED)
"""What is found without asking the database."""
_STALLED_REASONS = (Reason.INVALID_SPEC, Reason.TABLE_NOT_ALLOWED)
"""Only an edit of the spec or of the policy helps; what a migration in the same apply may cure is not among them."""


def build_response(
    request: HookRequest, outcome: Outcome, now: float, period: float, slot: float | None = None
) -> dict[str, Any]:
    """Build the answer with only those fields that Metacontroller's hook v2 decodes.

    ``now`` is Unix time in seconds, ``period`` the resync period in seconds, ``slot`` the seconds until the retry slot
    that was taken for a transient failure (see RetrySlots).
    """
    finalized = request.finalizing and outcome.error is None
    echo = finalized and request.deleting and request.last_finalizer
    return {
        # A changed status would cost an API write on an object that is about to vanish.
        "status": request.raw_status if echo else _status(request, outcome, now),
        "children" if request.controller == "composite" else "attachments": [],
        # in every answer, instead of resyncPeriodSeconds, which would enqueue all resources at the same time
        "resyncAfterSeconds": resync_after(request, retry_of(outcome), now, period, slot),
        "finalized": finalized,
    }


def keeps_status(plan: Plan, outcome: Outcome) -> bool:
    """Say whether a failure is to leave the status as it is.

    It is where the status says Ready at this very generation, and so nothing but the resync is late, and no connection
    to PostgreSQL can be opened, for less than OUTAGE_SECONDS. Otherwise a failover would cost two writes of status for
    each resource that was due meanwhile, and show thousands as failed. It is not where a statement was sent and lost or
    refused: its row may be what is wrong, and that can last while others succeed.
    """
    steady = isinstance(plan, Write) and plan.steady
    return steady and isinstance(outcome.error, DatabaseUnavailable) and outcome.error.away < OUTAGE_SECONDS


def retry_of(outcome: Outcome) -> Retry:
    """Say how soon another sync can help."""
    return outcome.error.retry if outcome.error else Retry.PERIOD


def resync_after(request: HookRequest, retry: Retry, now: float, period: float, slot: float | None = None) -> float:
    """Give the seconds until the resource is to be synced again.

    With nothing to hurry for that is its own slot in the period (from a hash of its uid), at least half and at most
    one and a half periods away, so that any number of resources spreads evenly whenever they were created. What finds
    no retry slot comes in its own slot too, within one period.
    """
    if retry is Retry.AT_ONCE:
        return RECORDED_SECONDS
    if retry is Retry.TRANSIENT and slot is not None:
        return round(slot, 3)
    # not hash(), which differs from replica to replica and after a restart
    digest = blake2b((request.uid or request.id).encode(), digest_size=6).digest()
    share = int.from_bytes(digest, "big") / 2**48
    if retry is Retry.USER_ACTION:
        return round(USER_ACTION_SECONDS * (0.5 + share), 3)
    # by Unix time, not from the start of the process: the slot is the same in every replica
    wait = (share * period - now) % period
    if retry is Retry.TRANSIENT:
        return round(max(wait, min(RETRY_SECONDS, period)), 3)
    return round(wait if wait >= period / 2 else wait + period, 3)


def verdict(request: HookRequest, outcome: Outcome) -> tuple[str, Reason, str]:
    """Give (status, reason, message) of the condition Ready for the outcome."""
    if outcome.error is not None:
        asked = request.of_database and outcome.error.reason not in _WITHOUT_DATABASE
        where = f"Database {request.database}: " if asked else ""
        return "False", outcome.error.reason, f"{where}{outcome.error}"
    if not request.finalizing:
        return "True", Reason.ROW_SYNCED, f"The row in table {request.relation}{request.of_database} matches the spec."
    if not request.deleting:
        why = "The controller's selector no longer matches this resource"
        return "Unknown", Reason.UNMANAGED, f"{why}; its row was left in place and is no longer managed."
    if request.retain:
        return "Unknown", Reason.UNMANAGED, "The row was left in place because spec.deletionPolicy is Retain."
    if request.last_finalizer:
        return "False", Reason.ROW_DELETED, "The row was deleted."
    return "False", Reason.ROW_DELETED, "The row was deleted; the resource is waiting for another finalizer."


def _status(request: HookRequest, outcome: Outcome, now: float) -> dict[str, Any]:
    tables, prior = outcome.tables, request.status
    observed_table = request.table if outcome.observed else prior.observed_table
    if len(tables) > MAX_TABLES and request.relation not in prior.tables:
        # A table that finds no place in the list is not observed: the rule of the CustomResourceDefinition then holds
        # back further edits until the list has shrunk.
        tables = tuple(table for table in tables if table != request.relation)
        observed_table = prior.observed_table
    # the composite controller sets observedGeneration itself, the decorator controller does not
    status: dict[str, Any] = {"observedGeneration": request.generation, "id": request.id}
    if observed_table is not None:
        status["observedTable"] = observed_table
    status["tables"] = list(tables)
    if request.kind.fixed is None:
        status["columns"] = _columns(request, outcome)
    status["conditions"] = _conditions(request, outcome, now)
    return status


def _columns(request: HookRequest, outcome: Outcome) -> list[str]:
    """Give the columns that may hold a value of the resource.

    A name leaves the list only by a Ready answer. One that finds no place in it is not listed: the rule of the
    CustomResourceDefinition then keeps the column in spec.
    """
    if outcome.error is None and not request.finalizing and not request.paused:
        return sorted(request.columns)
    listed = request.status.columns
    new = sorted(set(request.columns) - set(listed))
    return sorted([*listed, *new[: MAX_LISTED_COLUMNS - len(listed)]])


def _conditions(request: HookRequest, outcome: Outcome, now: float) -> list[dict[str, Any]]:
    prior = request.status
    if request.paused and not request.finalizing:
        return _paused(request, now)
    status, reason, message = verdict(request, outcome)
    # the default of the CustomResourceDefinition is not a verdict: nothing of it, its time included, is kept
    before = prior.ready if prior.ready and prior.ready.reason != Reason.PENDING.value else None
    conditions = [_condition("Ready", status, reason.value, message, request.generation, before, now)]
    if reason in _STALLED_REASONS:
        conditions.append(_condition("Stalled", "True", reason.value, message, request.generation, prior.stalled, now))
    return conditions


def _paused(request: HookRequest, now: float) -> list[dict[str, Any]]:
    """Keep Ready and Stalled exactly as they were, and say that nothing is written.

    Where Ready speaks of another generation, Reconciling says so to kstatus, which would take an old Ready=True for
    the edited spec; it must come before Stalled, because kstatus takes the first of the two that it finds.
    https://github.com/kubernetes-sigs/cli-utils/tree/master/pkg/kstatus
    """
    prior, generation = request.status, request.generation
    conditions = [_written("Ready", prior.ready)] if prior.ready else []
    if prior.ready is None or prior.ready.observed_generation != generation:
        text = f"The spec was not applied: reconciliation is paused by the annotation {PAUSED_ANNOTATION}."
        conditions.append(_condition("Reconciling", "True", "Paused", text, generation, prior.reconciling, now))
    if prior.stalled:
        conditions.append(_written("Stalled", prior.stalled))
    unread = "" if request.paused == "true" else " Its value is neither true nor false, which pauses, too."
    text = f"Reconciliation is paused by the annotation {PAUSED_ANNOTATION}; remove it to resume.{unread}"
    return [*conditions, _condition("Paused", "True", "Paused", text, generation, prior.paused, now)]


def timestamp(seconds: float) -> str:
    """Return a Unix time as Kubernetes writes it."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _condition(  # noqa: PLR0913, PLR0917 - a condition has these fields
    kind: str, status: str, reason: str, message: str, generation: int | None, prior: Condition | None, now: float
) -> dict[str, Any]:
    """Build a condition; its lastTransitionTime moves only when its status flips.

    https://github.com/kubernetes/community/blob/master/contributors/devel/sig-architecture/api-conventions.md
    """
    since = prior.last_transition_time if prior is not None and prior.status == status else None
    return _written(kind, Condition(status, reason, message, since or timestamp(now), generation))


def _written(kind: str, condition: Condition) -> dict[str, Any]:
    about = {"type": kind, "status": condition.status, "reason": condition.reason, "message": condition.message}
    when = {"observedGeneration": condition.observed_generation, "lastTransitionTime": condition.last_transition_time}
    return {**about, **{key: value for key, value in when.items() if value is not None}}

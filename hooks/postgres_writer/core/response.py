"""HookRequest + Outcome + time -> the body of the answer. Pure.

Two syncs of the same state give the same status to the byte: otherwise every sync would write status, and every
status write may cause a sync.
"""

from __future__ import annotations

from datetime import datetime, timezone
from hashlib import blake2b
from typing import Any

from postgres_writer.core.plan import Outcome
from postgres_writer.core.request import MAX_TABLES, PAUSED_ANNOTATION, Condition, HookRequest
from postgres_writer.errors import Reason, Retry

PASSING_SECONDS = 20.0
"""A database that was unreachable or locked is asked again after this, plus or minus half."""
PERSON_SECONDS = 60.0
"""What waits for a person (a table, a grant) is tried again after this, plus or minus half."""
RECORDED_SECONDS = 1.0
"""Time enough for Metacontroller to write the status and see it."""


def build_response(request: HookRequest, outcome: Outcome, now: float, period: float) -> dict[str, Any]:
    """Build the answer with only those fields that Metacontroller's hook v2 decodes.

    ``now`` is Unix time in seconds, ``period`` the resync period in seconds.
    """
    finalized = request.finalizing and outcome.error is None
    echo = finalized and request.deleting and request.last_finalizer
    retry = outcome.error.retry if outcome.error else Retry.PERIOD
    return {
        # A changed status would cost an API write on an object that is about to vanish.
        "status": request.raw_status if echo else _status(request, outcome, now),
        "children" if request.controller == "composite" else "attachments": [],
        "resyncAfterSeconds": resync_after(request, retry, now, period),
        "finalized": finalized,
    }


def resync_after(request: HookRequest, retry: Retry, now: float, period: float) -> float:
    """Give the seconds until the resource is to be synced again.

    With nothing to hurry for that is its own slot in the period (from a hash of its uid), at least half and at most
    one and a half periods away, so that any number of resources spreads evenly whenever they were created.
    """
    digest = blake2b((request.uid or request.id).encode(), digest_size=6).digest()
    share = int.from_bytes(digest, "big") / 2**48
    if retry is Retry.AT_ONCE:
        return RECORDED_SECONDS
    if retry is not Retry.PERIOD:
        base = PASSING_SECONDS if retry is Retry.PASSING else PERSON_SECONDS
        return round(base * (0.5 + share), 3)
    wait = (share * period - now) % period
    return round(wait if wait >= period / 2 else wait + period, 3)


def verdict(request: HookRequest, outcome: Outcome) -> tuple[str, Reason, str]:
    """Give (status, reason, message) of the condition Ready that the outcome stands for."""
    if outcome.error is not None:
        return "False", outcome.error.reason, str(outcome.error)
    if not request.finalizing:
        return "True", Reason.ROW_SYNCED, f"The row stands in table {request.table}."
    if not request.deleting:
        return (
            "Unknown",
            Reason.UNMANAGED,
            "The controller's selector does not match this resource; its row stays as it is and is no longer kept.",
        )
    if request.retain:
        return "Unknown", Reason.UNMANAGED, "The row stays because spec.deletionPolicy is Retain."
    kept = "" if request.last_finalizer else "; another finalizer keeps the resource"
    return "False", Reason.ROW_DELETED, f"The row is deleted{kept}."


def _status(request: HookRequest, outcome: Outcome, now: float) -> dict[str, Any]:
    tables, observed_table = _recorded(request, outcome.tables)
    status: dict[str, Any] = {"observedGeneration": request.generation, "id": request.id}
    if observed_table is not None:
        status["observedTable"] = observed_table
    status["tables"] = list(tables)
    status["conditions"] = _conditions(request, outcome, now)
    return status


def _recorded(request: HookRequest, tables: tuple[str, ...]) -> tuple[tuple[str, ...], str | None]:
    """Give status.tables and status.observedTable; a table that finds no place in the list is not observed.

    The rule of the CustomResourceDefinition then holds back further edits until the list has shrunk.
    """
    if len(tables) > MAX_TABLES and request.table not in request.status.tables:
        return tuple(table for table in tables if table != request.table), request.status.observed_table
    return tables, request.table


def _conditions(request: HookRequest, outcome: Outcome, now: float) -> list[dict[str, Any]]:
    prior = request.status
    if not request.paused or request.finalizing:
        status, reason, message = verdict(request, outcome)
        return [_condition("Ready", status, reason.value, message, request.generation, prior.ready, now)]
    ready = prior.ready
    kept = (
        [_condition("Ready", ready.status, ready.reason, ready.message, ready.observed_generation, ready, now)]
        if ready
        else []
    )
    text = f'Nothing is written while the annotation {PAUSED_ANNOTATION} is "true"; remove it to go on.'
    return [*kept, _condition("Paused", "True", "Paused", text, request.generation, prior.paused, now)]


def _condition(  # noqa: PLR0913, PLR0917 - a condition has these fields
    kind: str,
    status: str,
    reason: str,
    message: str,
    generation: int | None,
    prior: Condition | None,
    now: float,
) -> dict[str, Any]:
    """Build a condition; its lastTransitionTime moves only when its status flips.

    https://github.com/kubernetes/community/blob/master/contributors/devel/sig-architecture/api-conventions.md
    """
    since = (
        prior.last_transition_time
        if prior is not None and prior.status == status
        else datetime.fromtimestamp(now, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    )
    condition: dict[str, Any] = {"type": kind, "status": status, "reason": reason, "message": message}
    if generation is not None:
        condition["observedGeneration"] = generation
    return {**condition, "lastTransitionTime": since}

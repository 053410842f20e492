"""The answer: only Metacontroller's fields, the same bytes for the same state, a wait within its bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postgres_writer import errors
from postgres_writer.core.plan import Operation, Outcome
from postgres_writer.core.request import MAX_TABLES, HookRequest, load_request
from postgres_writer.core.response import (
    RETRY_SECONDS,
    build_response,
    resync_after,
)
from postgres_writer.errors import DatabaseUnavailable, ResourceError, Retry, RowRejected, TableNotFound, TableRecorded
from support.answers import check_own_status, decode_answer
from support.payloads import DELETED, NOW, THEN, condition, finalizer, payload, recorded, resource
from support.spec_cases import ABSENT, spec_with

DOWN = DatabaseUnavailable("down")
OTHER = [finalizer(), "example.com/other"]
PENDING = {
    "type": "Ready",
    "status": "Unknown",
    "reason": "Pending",
    "message": "Waiting for the controller.",
}
"""The condition that the CustomResourceDefinition gives to a new resource."""
PAUSED: dict[str, Any] = {"annotations": {"demo.yash.com/paused": "true"}}
NOW_TEXT = "2023-11-14T22:13:20Z"


def loaded(spec: Any = None, status: Any = ABSENT, finalizing: bool = False, **metadata: Any) -> HookRequest:
    return load_request(payload(resource(spec, status, **metadata)), finalizing=finalizing)


def answered(request: HookRequest, outcome: Outcome, now: float = NOW) -> dict[str, Any]:
    return build_response(request, outcome, now, 300.0)


def ready_of(answer: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(c for c in answer["status"]["conditions"] if c["type"] == "Ready")
    return found


def test_success() -> None:
    answer = answered(loaded(generation=3), Outcome(("public.students",), Operation.INSERTED))
    assert answer["status"] == {
        "observedGeneration": 3,
        "id": "default/sample",
        "observedTable": "students",
        "tables": ["public.students"],
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "RowSynced",
                "message": "The row in table public.students matches the spec.",
                "observedGeneration": 3,
                "lastTransitionTime": NOW_TEXT,
            }
        ],
    }
    assert answer["finalized"] is False
    assert answer["children"] == []


def test_failure() -> None:
    answer = answered(loaded(), Outcome(("public.students",), error=TableNotFound("no table")))
    ready = ready_of(answer)
    assert (ready["status"], ready["reason"], ready["message"]) == ("False", "TableNotFound", "no table")
    assert answer["status"]["tables"] == ["public.students"]


@pytest.mark.parametrize("operation", [Operation.INSERTED, Operation.UPDATED, Operation.UNCHANGED, Operation.MOVED])
def test_the_status_does_not_tell_how_the_row_came_to_be(operation: Operation) -> None:
    """Otherwise the sync after an insert would write the status a second time."""
    one = answered(loaded(), Outcome(("public.students",), operation))
    assert one == answered(loaded(), Outcome(("public.students",), Operation.UNCHANGED))


def test_without_a_readable_table_nothing_is_observed() -> None:
    answer = answered(loaded(spec_with(table=7)), Outcome(()))
    assert "observedTable" not in answer["status"]


@pytest.mark.parametrize(
    ("before", "outcome", "since"),
    [
        pytest.param(condition(), Outcome(("public.students",)), THEN, id="stays True"),
        pytest.param(condition(), Outcome((), error=DOWN), NOW_TEXT, id="True to False"),
        pytest.param(condition("False", "RowRejected"), Outcome((), error=DOWN), THEN, id="False for another reason"),
        pytest.param(condition("False", "RowRejected"), Outcome(("public.students",)), NOW_TEXT, id="False to True"),
        pytest.param(condition("Unknown", "Unmanaged"), Outcome(("public.students",)), NOW_TEXT, id="Unknown to True"),
        pytest.param(
            condition(lastTransitionTime="x"), Outcome(("public.students",)), NOW_TEXT, id="of a foreign shape"
        ),
        pytest.param(PENDING, Outcome(("public.students",)), NOW_TEXT, id="the default to True"),
    ],
)
def test_last_transition_time_moves_only_when_the_status_flips(
    before: dict[str, Any], outcome: Outcome, since: str
) -> None:
    answer = answered(loaded(status=recorded("students", ready=before)), outcome)
    assert ready_of(answer)["lastTransitionTime"] == since


FINALIZED: list[tuple[str, dict[str, Any], Outcome, tuple[bool, str, str] | None]] = [
    ("the last finalizer: the status is echoed", DELETED, Outcome((), Operation.DELETED), None),
    ("others remain: RowDeleted", {**DELETED, "finalizers": OTHER}, Outcome((), Operation.DELETED),
     (True, "False", "RowDeleted")),
    ("a failure keeps the finalizer", DELETED, Outcome(("public.students",), error=DOWN),
     (False, "False", "DatabaseUnavailable")),
    ("the selector no longer matches", {}, Outcome(("public.students",)), (True, "Unknown", "Unmanaged")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("metadata", "outcome", "expected"), [case[1:] for case in FINALIZED], ids=[case[0] for case in FINALIZED]
)
def test_finalize(metadata: dict[str, Any], outcome: Outcome, expected: tuple[bool, str, str] | None) -> None:
    status = {**recorded("students"), "foreign": 1}
    answer = answered(loaded(status=status, finalizing=True, **metadata), outcome)
    if expected is None:
        assert answer["finalized"] is True
        assert answer["status"] == status
    else:
        ready = ready_of(answer)
        assert (answer["finalized"], ready["status"], ready["reason"]) == expected
        check_own_status(answer["status"])


def test_a_retained_row_is_said_to_stay() -> None:
    request = loaded(spec_with(deletionPolicy="Retain"), finalizing=True, **{**DELETED, "finalizers": OTHER})
    ready = ready_of(answered(request, Outcome(("public.students",))))
    assert (ready["status"], ready["reason"]) == ("Unknown", "Unmanaged")
    assert "Retain" in ready["message"]


def test_the_echo_of_no_status_is_null() -> None:
    assert answered(loaded(finalizing=True, **DELETED), Outcome(()))["status"] is None


def test_a_first_verdict_of_unknown_takes_nothing_from_the_default() -> None:
    """Unknown was the default's status too, but that was never a verdict."""
    request = loaded(status={"observedGeneration": -1, "conditions": [PENDING]}, finalizing=True)
    ready = ready_of(answered(request, Outcome(())))
    assert (ready["status"], ready["reason"], ready["lastTransitionTime"]) == ("Unknown", "Unmanaged", NOW_TEXT)


def conditions_of(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the conditions by type, in their order."""
    return {found["type"]: found for found in answer["status"]["conditions"]}


@pytest.mark.parametrize(
    ("error", "stalled"),
    [
        pytest.param(kind("why"), kind in (errors.InvalidSpec, errors.TableNotAllowed), id=kind.__name__)
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, ResourceError) and kind is not ResourceError
    ],
)
def test_stalled_where_only_an_edit_helps(error: ResourceError, stalled: bool) -> None:
    """What a migration in the same apply may cure (a missing table, a grant) is never Stalled."""
    found = conditions_of(answered(loaded(generation=3), Outcome((), error=error)))
    if not stalled:
        assert list(found) == ["Ready"]
        return
    assert list(found) == ["Ready", "Stalled"]
    assert found["Stalled"] == {**found["Ready"], "type": "Stalled", "status": "True"}


def test_stalled_keeps_its_time_and_goes_with_its_cause() -> None:
    status = recorded("students", ready=condition("False", "InvalidSpec"))
    status["conditions"].append({**condition(reason="InvalidSpec"), "type": "Stalled"})
    refused = Outcome((), error=errors.TableNotAllowed("no"))
    assert conditions_of(answered(loaded(status=status), refused))["Stalled"]["lastTransitionTime"] == THEN
    assert list(conditions_of(answered(loaded(status=status), Outcome(("public.students",))))) == ["Ready"]


def test_paused_keeps_ready_as_it_was() -> None:
    before = condition("False", "RowRejected", message="as it was", observedGeneration=4)
    request = loaded(status=recorded("students", ready=before), generation=4, **PAUSED)
    found = conditions_of(answered(request, Outcome(("public.students",))))
    assert list(found) == ["Ready", "Paused"]
    assert found["Ready"] == before
    assert (found["Paused"]["status"], found["Paused"]["observedGeneration"]) == ("True", 4)


@pytest.mark.parametrize("before", [condition(), PENDING, None], ids=["was Ready", "the default", "no status"])
def test_paused_and_edited_is_reconciling(before: dict[str, Any] | None) -> None:
    """An old Ready=True must not pass for the edited spec, nor must Stalled: kstatus takes the first that it finds."""
    status = {"conditions": [before, {**condition(reason="InvalidSpec"), "type": "Stalled"}]} if before else ABSENT
    found = conditions_of(answered(loaded(status=status, generation=4, **PAUSED), Outcome(("public.students",))))
    assert list(found) == (["Ready", "Reconciling", "Stalled", "Paused"] if before else ["Reconciling", "Paused"])
    if before:
        assert found["Ready"] == before
        assert found["Stalled"]["observedGeneration"] == 1
    assert (found["Reconciling"]["status"], found["Reconciling"]["reason"]) == ("True", "Paused")


def test_no_longer_paused_the_condition_goes() -> None:
    status = recorded("students")
    status["conditions"].append({**condition(), "type": "Paused"})
    conditions = answered(loaded(status=status), Outcome(("public.students",)))["status"]["conditions"]
    assert [found["type"] for found in conditions] == ["Ready"]


def test_at_the_cap_a_new_table_is_neither_listed_nor_observed() -> None:
    full = [f"public.t{number}" for number in range(MAX_TABLES)]
    request = loaded(status=recorded(*full, observed="t3"))
    status = answered(request, Outcome((*full, "public.students"), error=DOWN))["status"]
    assert status["tables"] == full
    assert status["observedTable"] == "t3"


def test_at_the_cap_a_success_is_recorded() -> None:
    full = [f"public.t{number}" for number in range(MAX_TABLES)]
    status = answered(loaded(status=recorded(*full)), Outcome(("public.students",), Operation.MOVED))["status"]
    assert (status["tables"], status["observedTable"]) == (["public.students"], "students")


def test_at_the_cap_a_listed_table_stays_listed() -> None:
    full = [*(f"public.t{number}" for number in range(MAX_TABLES - 1)), "public.students"]
    status = answered(loaded(status=recorded(*full)), Outcome(tuple(full), error=DOWN))["status"]
    assert (status["tables"], status["observedTable"]) == (full, "students")


# The wait


@pytest.mark.parametrize(
    ("retry", "low", "high"),
    [(Retry.AT_ONCE, 1, 1), (Retry.TRANSIENT, 0, 300), (Retry.USER_ACTION, 30, 90), (Retry.PERIOD, 150, 450)],
)
def test_the_wait_stays_within_its_bounds_and_spreads_evenly(retry: Retry, low: float, high: float) -> None:
    waits = [resync_after(loaded(uid=f"uid-{number}"), retry, NOW, 300.0) for number in range(2_000)]
    assert low <= min(waits) <= max(waits) <= high
    if low == high:
        return
    counts = [0] * 10
    for wait in waits:
        counts[min(9, int((wait - low) / (high - low) * 10))] += 1
    # a tenth of two thousand, whose standard deviation is 13
    assert all(133 <= count <= 267 for count in counts), counts


@settings(max_examples=200)
@given(uid=st.text(max_size=40), now=st.floats(0, 4e9), period=st.floats(1, 86400))
def test_after_its_wait_a_resource_is_in_its_own_slot_for_ever(uid: str, now: float, period: float) -> None:
    request = loaded(uid=uid)
    wait = resync_after(request, Retry.PERIOD, now, period)
    assert period / 2 - 0.001 <= wait <= 1.5 * period + 0.001
    later = now + wait
    assert resync_after(request, Retry.PERIOD, later, period) == pytest.approx(period, abs=0.01)


def test_without_a_uid_the_id_spreads() -> None:
    waits = {resync_after(loaded(uid=ABSENT, name=f"n{number}"), Retry.PERIOD, NOW, 300.0) for number in range(50)}
    assert len(waits) == 50


@pytest.mark.parametrize(
    ("error", "low", "high"),
    [(DOWN, 7, 7), (RowRejected("x"), 30, 90), (TableRecorded("x"), 1, 1), (None, 150, 450)],
)
def test_the_error_decides_the_wait(error: ResourceError | None, low: float, high: float) -> None:
    answer = build_response(loaded(), Outcome(("public.students",), error=error), NOW, 300.0, slot=7.0)
    assert low <= answer["resyncAfterSeconds"] <= high


@settings(max_examples=100)
@given(uid=st.text(max_size=40), now=st.floats(0, 4e9), period=st.floats(1, 86400))
def test_without_a_retry_slot_the_wait_stays_within_the_period(uid: str, now: float, period: float) -> None:
    wait = resync_after(loaded(uid=uid), Retry.TRANSIENT, now, period)
    assert min(RETRY_SECONDS, period) - 0.001 <= wait <= period + 0.001


# What holds for every answer

NAMES = ("students", "pupils", "a.b.c", "x" * 64)
OUTCOMES = st.builds(
    Outcome,
    st.lists(st.sampled_from([f"t{number}" for number in range(20)]), unique=True, max_size=17).map(tuple),
    st.sampled_from(Operation),
    st.none()
    | st.sampled_from([kind("why") for kind in vars(errors).values()
                       if isinstance(kind, type) and issubclass(kind, ResourceError) and kind is not ResourceError]),
)  # fmt: skip
STATUSES = (
    ABSENT,
    {"observedGeneration": -1, "conditions": [PENDING]},
    recorded("students"),
    recorded("students", ready=condition(observedGeneration=0)),
    recorded("students", ready=condition("Unknown", "Unmanaged")),
)
REQUESTS = st.builds(
    lambda controller, table, status, metadata, finalizing: load_request(
        payload(resource(spec_with(table=table), status, controller=controller, **metadata), controller),
        finalizing=finalizing,
    ),
    st.sampled_from(("composite", "decorator")),
    st.sampled_from(NAMES),
    st.sampled_from(STATUSES),
    st.sampled_from(({}, PAUSED, DELETED, {**DELETED, "finalizers": OTHER}, {**DELETED, **PAUSED})),
    st.booleans(),
)


@settings(max_examples=150)
@given(request=REQUESTS, outcome=OUTCOMES)
def test_every_answer_can_be_decoded(request: HookRequest, outcome: Outcome) -> None:
    answer = decode_answer(json.dumps(answered(request, outcome)), request.controller)
    if answer["status"] != request.raw_status:
        check_own_status(answer["status"])


@settings(max_examples=150)
@given(request=REQUESTS, outcome=OUTCOMES, later=st.floats(0, 1e6))
def test_the_same_state_gives_the_same_status_to_the_byte(request: HookRequest, outcome: Outcome, later: float) -> None:
    first = answered(request, outcome)["status"]
    status = ABSENT if first is None else json.loads(json.dumps(first))
    metadata = {
        "finalizers": [finalizer(request.controller)] if request.last_finalizer else OTHER,
        **(DELETED if request.deleting else {}),
        **(PAUSED if request.paused else {}),
    }
    found = resource(spec_with(table=request.table), status, controller=request.controller, **metadata)
    again = load_request(payload(found, request.controller), finalizing=request.finalizing)
    assert json.dumps(answered(again, outcome, NOW + later)["status"]) == json.dumps(first)

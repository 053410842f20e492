"""What a failure leaves as it is: the status of what was Ready, while PostgreSQL is away for a moment."""

from __future__ import annotations

import pytest

from postgres_writer.core.plan import Outcome, Plan, Record, Remove, Write
from postgres_writer.core.response import OUTAGE_SECONDS, keeps_status
from postgres_writer.core.row import Spec
from postgres_writer.errors import (
    DatabaseBusy,
    DatabaseUnavailable,
    RequestExpired,
    ResourceError,
    RowRejected,
)

DOWN = DatabaseUnavailable("down", 0.0)
SPEC = Spec("public.students", (("age", 23),))
STEADY = Write("default/sample", SPEC, (), listed=True, steady=True)


def test_a_short_outage_leaves_the_status_of_what_was_ready_at_this_generation() -> None:
    for away, kept in ((0.0, True), (OUTAGE_SECONDS - 1, True), (OUTAGE_SECONDS, False)):
        failed = Outcome(("public.students",), error=DatabaseUnavailable("down", away))
        assert keeps_status(STEADY, failed) is kept


@pytest.mark.parametrize(
    "plan",
    [
        Write("default/sample", SPEC, (), listed=True, steady=False),
        Write("default/sample", SPEC, ("old",), listed=True),
        Record("default/sample", SPEC, ()),
        Remove("default/sample", ("public.students",), ("public.students",), ("public.students",)),
        Outcome(("public.students",)),
    ],
)
def test_whatever_waits_for_an_answer_gets_one(plan: Plan) -> None:
    assert not keeps_status(plan, Outcome(("public.students",), error=DOWN))


@pytest.mark.parametrize(
    "error",
    [None, DatabaseBusy("locked"), DatabaseUnavailable("lost"), RequestExpired("late"), RowRejected("no")],
)
def test_only_a_connection_is_waited_for_in_silence(error: ResourceError | None) -> None:
    assert not keeps_status(STEADY, Outcome(("public.students",), error=error))

"""What must be true of which tables: every case of the plan, and what no plan may forget."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postgres_writer.core.plan import (
    Inspect,
    Operation,
    Outcome,
    Plan,
    Record,
    Remove,
    Write,
    is_adopted,
    is_drift,
    make_plan,
)
from postgres_writer.core.request import MAX_TABLES, HookRequest, load_request
from postgres_writer.core.response import build_response
from postgres_writer.core.row import Spec, is_table
from postgres_writer.errors import (
    DatabaseNotConfigured,
    DatabaseUnavailable,
    InvalidSpec,
    ResourceError,
    TableNotAllowed,
)
from support.payloads import DELETED, NOW, condition, payload, recorded, resource
from support.spec_cases import ABSENT, spec_with

ID = "default/sample"
STUDENTS, PUPILS, A, B, SECRETS = (f"public.{table}" for table in ("students", "pupils", "a", "b", "secrets"))
VALUES = (("name", "alex"), ("age", 23), ("country", "canada"))
SPEC = Spec(STUDENTS, VALUES)
PAUSED: dict[str, Any] = {"annotations": {"demo.yash.com/paused": "true"}}
POLICY = TableNotAllowed(
    "The table policy does not allow namespace default to write to table public.secrets; "
    "choose an allowed table or ask your PostgresWriter administrator."
)
NO_AGE = InvalidSpec("spec.age is required.")
NO_TABLE = InvalidSpec(load_request(payload(resource(spec_with(table="a.b.c")))).problem)


def permits(namespace: str, table: str, _column: str | None = None) -> bool:
    """Allow all tables but one."""
    return table != SECRETS and namespace == "default"


@dataclass(frozen=True)
class Case:
    """A sentence, the resource and the plan that it must lead to."""

    sentence: str
    plan: Plan
    spec: Any = None
    status: Any = ABSENT
    finalizing: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)

    def request(self) -> HookRequest:
        """Return the request."""
        return load_request(payload(resource(self.spec, self.status, **self.metadata)), finalizing=self.finalizing)


def _spec_of(table: str) -> Spec:
    return Spec(f"public.{table}", VALUES)


SYNC = (
    Case("a new resource is written, frozen by the rule", Write(ID, SPEC, (), listed=False)),
    Case(
        "what the status calls Ready at this very generation may be believed without the lock",
        Write(ID, SPEC, (), listed=True, steady=True),
        status=recorded("students"),
    ),
    Case(
        "a listed table of another generation is written under the lock",
        Write(ID, SPEC, (), listed=True),
        status=recorded("students"),
        metadata={"generation": 2},
    ),
    Case(
        "a listed table that was not Ready is written under the lock",
        Write(ID, SPEC, (), listed=True),
        status=recorded("students", ready=condition("False", "DatabaseUnavailable")),
    ),
    Case(
        "a new table is written and the row leaves the old one",
        Write(ID, _spec_of("pupils"), (STUDENTS,), listed=False),
        spec=spec_with(table="pupils"),
        status=recorded("students"),
    ),
    Case(
        "a listed table is written and the row leaves the others in their order",
        Write(ID, SPEC, (A, B), listed=True),
        status=recorded("a", "students", "b", observed="b"),
    ),
    Case(
        "another spelling of the same table is no move",
        Write(ID, SPEC, (), listed=True),
        spec=spec_with(table=STUDENTS),
        status=recorded("students"),
        metadata={"generation": 2},
    ),
    Case(
        "an observed table that is not listed is recorded first",
        Record(ID, SPEC, ()),
        status=recorded(observed="students"),
    ),
    Case(
        "recording keeps an eye on the other tables",
        Record(ID, SPEC, (A, B)),
        status=recorded("a", "b", observed="students"),
    ),
    Case("a spec without a table is refused", Outcome((), error=InvalidSpec("spec.table is required.")),
         spec=spec_with(table=ABSENT)),
    Case(
        "an invalid spec lists its new permitted table unless a grant is missing",
        Inspect(ID, STUDENTS, True, (), NO_AGE),
        spec=spec_with(age=ABSENT),
    ),
    Case(
        "an invalid spec keeps a listed table without asking",
        Outcome((STUDENTS,), error=NO_AGE),
        spec=spec_with(age=ABSENT),
        status=recorded("students"),
    ),
    Case(
        "an invalid spec asks the other tables",
        Inspect(ID, PUPILS, True, (STUDENTS,), NO_AGE),
        spec=spec_with(age=ABSENT, table="pupils"),
        status=recorded("students"),
    ),
    Case(
        "an invalid spec does not list a table that was refused before",
        Outcome((), error=NO_AGE),
        spec=spec_with(age=ABSENT),
        status=recorded(observed="students"),
    ),
    Case("a table that the policy refuses is not listed", Outcome((), error=POLICY), spec=spec_with(table="secrets")),
    Case(
        "a table that the policy refuses leaves the old row in place",
        Inspect(ID, None, False, (STUDENTS,), POLICY),
        spec=spec_with(table="secrets"),
        status=recorded("students"),
    ),
    Case(
        "a table that was allowed once and is refused now stays listed if it holds the row",
        Inspect(ID, None, False, (SECRETS,), POLICY),
        spec=spec_with(table="secrets"),
        status=recorded("secrets"),
    ),
    Case(
        "a name that cannot be a table is neither listed nor asked",
        Inspect(ID, None, False, (STUDENTS,), NO_TABLE),
        spec=spec_with(table="a.b.c"),
        status=recorded("students"),
    ),
    Case("a paused new resource lists its table", Outcome((STUDENTS,)), metadata=PAUSED),
    Case("a paused move lists both tables", Outcome((A, STUDENTS)), status=recorded("a"), metadata=PAUSED),
    Case(
        "a paused resource with a refused table lists only what was",
        Outcome((A,)),
        spec=spec_with(table="secrets"),
        status=recorded("a"),
        metadata=PAUSED,
    ),
    Case(
        "a paused resource does not list a table that was refused before",
        Outcome(()),
        status=recorded(observed="students"),
        metadata=PAUSED,
    ),
    Case("a paused resource with a broken spec lists its table", Outcome((STUDENTS,)),
         spec=spec_with(age="x"), metadata=PAUSED),
)  # fmt: skip

FINALIZE = (
    Case("deletes from spec.table also without a status", Remove(ID, (STUDENTS,), (), (STUDENTS,))),
    Case("deletes from the listed tables and spec.table",
         Remove(ID, (A, STUDENTS), (A,), (A, STUDENTS)),
         status=recorded("a")),
    Case("deletes once from a table that is both", Remove(ID, (STUDENTS,), (STUDENTS,), (STUDENTS,)),
         status=recorded("students")),
    Case("does not list a table that was refused before", Remove(ID, (A, STUDENTS), (A,), (A,)),
         status={**recorded("a"), "observedTable": "students"}),
    Case("deletes with a broken spec", Remove(ID, (A, STUDENTS), (A,), (A, STUDENTS)),
         spec=spec_with(age="x"), status=recorded("a")),
    Case("deletes with an unreadable table from the listed ones", Remove(ID, (A,), (A,), (A,)),
         spec=spec_with(table="x;y"), status=recorded("a")),
    Case("deletes without a spec from the listed tables", Remove(ID, (A,), (A,), (A,)), spec="gone",
         status=recorded("a")),
    Case("does not touch a refused table that was never listed",
         Remove(ID, (A,), (A,), (A,)),
         spec=spec_with(table="secrets"), status=recorded("a")),
    Case("deletes from a refused table that is listed from better times",
         Remove(ID, (SECRETS,), (SECRETS,), (SECRETS,)),
         spec=spec_with(table="secrets"), status=recorded("secrets")),
    Case("has nothing to do where nothing can hold the row", Outcome(()), spec=spec_with(table="secrets")),
    Case("leaves the row with Retain", Outcome((STUDENTS,)), spec=spec_with(deletionPolicy="Retain"),
         status=recorded("students")),
    Case("deletes although paused", Remove(ID, (STUDENTS,), (STUDENTS,), (STUDENTS,)),
         status=recorded("students"), metadata=PAUSED),
)  # fmt: skip


UNKNOWN, UNUSABLE = DatabaseNotConfigured("no such database"), DatabaseNotConfigured("unusable", found=True)


@pytest.mark.parametrize(
    ("missing", "plan", "case"),
    [
        (UNKNOWN, Outcome((), error=UNKNOWN), Case("lists nothing new", Outcome(()))),
        (UNKNOWN, Outcome((A,), error=UNKNOWN), Case("keeps what is listed", Outcome(()), status=recorded("a"))),
        (UNKNOWN, Outcome(()), Case("lists nothing new while paused", Outcome(()), metadata=PAUSED)),
        (UNKNOWN, Outcome((), error=POLICY), Case("", Outcome(()), spec=spec_with(table="secrets"))),
        (UNUSABLE, Outcome((), error=UNUSABLE, observed=False), Case("does not let go of the table", Outcome(()))),
    ],
)
def test_sync_of_a_database_that_cannot_be_asked(missing: DatabaseNotConfigured, plan: Plan, case: Case) -> None:
    assert make_plan(case.request(), permits, missing) == plan


@pytest.mark.parametrize("case", SYNC, ids=lambda case: case.sentence)
def test_sync(case: Case) -> None:
    assert make_plan(case.request(), permits) == case.plan


@pytest.mark.parametrize("case", FINALIZE, ids=lambda case: case.sentence)
def test_finalize(case: Case) -> None:
    request = Case("", case.plan, case.spec, case.status, True, {**case.metadata, **DELETED}).request()
    assert make_plan(request, permits) == case.plan


def test_without_a_deletion_timestamp_finalize_leaves_the_row() -> None:
    request = Case("", Outcome(()), status=recorded("a"), finalizing=True).request()
    assert make_plan(request, permits) == Outcome((A, STUDENTS))


def test_the_policy_is_asked_with_the_namespace_and_the_relation() -> None:
    asked = []

    def note(namespace: str, table: str, column: str | None) -> bool:
        asked.append((namespace, table, column))
        return True

    for table in ("Team.Students", "Students"):
        make_plan(load_request(payload(resource(spec_with(table=table), namespace="team-a"))), note)
    assert asked == [
        ("team-a", table, column)
        for table in ("Team.Students", "public.Students")
        for column in (None, "name", "age", "country")
    ]


def test_the_policy_is_never_asked_for_what_cannot_be_a_table() -> None:
    def refuse(namespace: str, table: str, _column: str | None) -> bool:
        raise AssertionError((namespace, table))

    for table in ("pg_catalog.pg_class", "a.b.c", "", 'x"; DROP TABLE y', None, 7):
        make_plan(load_request(payload(resource(spec_with(table=table)))), refuse)


@pytest.mark.parametrize(
    ("operation", "ready", "drift"),
    [
        pytest.param(Operation.UPDATED, condition(), True, id="changed behind our back"),
        pytest.param(Operation.INSERTED, condition(), True, id="removed behind our back"),
        pytest.param(Operation.UNCHANGED, condition(), False, id="nothing was done"),
        pytest.param(Operation.MOVED, condition(), False, id="moved"),
        pytest.param(Operation.UPDATED, condition(observedGeneration=0), False, id="the spec was edited"),
        pytest.param(Operation.UPDATED, condition("False", "RowRejected"), False, id="was not Ready before"),
        pytest.param(Operation.INSERTED, None, False, id="new"),
    ],
)
def test_drift(operation: Operation, ready: dict[str, Any] | None, drift: bool) -> None:
    status = recorded("students", ready=ready) if ready else ABSENT
    request = load_request(payload(resource(status=status)))
    assert is_drift(request, Outcome(("students",), operation)) is drift


@pytest.mark.parametrize(
    ("operation", "status", "generation", "adopted"),
    [
        pytest.param(Operation.UPDATED, ABSENT, 1, True, id="new, and a row was there"),
        pytest.param(Operation.UPDATED, ABSENT, 3, True, id="edited before the first answer arrived"),
        pytest.param(Operation.INSERTED, ABSENT, 1, False, id="new, and no row was there"),
        pytest.param(Operation.UNCHANGED, ABSENT, 1, False, id="a row with the same values was there"),
        pytest.param(Operation.UPDATED, recorded("students"), 1, False, id="drift"),
        pytest.param(Operation.UPDATED, recorded("students"), 2, False, id="edited"),
        pytest.param(
            Operation.UPDATED, recorded("students", ready=condition("Unknown", "Unmanaged")), 2, True, id="was released"
        ),
        pytest.param(
            Operation.UPDATED, recorded("students", ready=condition("Unknown", "Pending")), 1, True, id="born pending"
        ),
        pytest.param(
            Operation.UPDATED, recorded("students", ready=condition("False", "RowRejected")), 1, True, id="first spec"
        ),
        pytest.param(
            Operation.UPDATED, recorded("students", ready=condition("False", "RowRejected")), 2, False, id="was broken"
        ),
        pytest.param(
            Operation.UPDATED,
            recorded("other", observed="students", ready=condition("False", "AccessDenied")),
            5,
            True,
            id="a table that was refused until now",
        ),
    ],
)
def test_adoption(operation: Operation, status: Any, generation: int, adopted: bool) -> None:
    request = load_request(payload(resource(status=status, generation=generation)))
    outcome = Outcome(("students",), operation)
    assert is_adopted(request, outcome) is adopted
    assert not (is_adopted(request, outcome) and is_drift(request, outcome))


TABLES = [f"t{number}" for number in range(MAX_TABLES + 2)] + ["secrets", "a.b.c", "pg_catalog.pg_class"]
REQUESTS = st.builds(
    lambda spec, tables, observed, paused, deleting, finalizing: load_request(
        payload(
            resource(
                spec,
                {**recorded(*tables), "observedTable": observed},
                **(PAUSED if paused else {}),
                **(DELETED if deleting else {}),
            )
        ),
        finalizing=finalizing,
    ),
    st.builds(
        lambda table, age, policy: spec_with(table=table, age=age, deletionPolicy=policy),
        st.sampled_from(TABLES),
        st.sampled_from((23, -1)),
        st.sampled_from(("Delete", "Retain")),
    ),
    st.lists(st.sampled_from(TABLES), unique=True, max_size=MAX_TABLES),
    st.none() | st.sampled_from(TABLES),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)


def worst(plan: Plan) -> Outcome:
    """Return the outcome of a database that cannot be reached: every table may still hold the row."""
    error: ResourceError = DatabaseUnavailable("down")
    match plan:
        case Write():
            return Outcome((*plan.vacate, plan.spec.table), error=error)
        case Record():
            return Outcome(plan.may_hold, error=error)
        case Inspect():
            return Outcome((*plan.others, *([plan.table] if plan.table else [])), error=plan.verdict)
        case Remove():
            return Outcome(plan.tables, error=error)
        case Outcome():
            return plan


@settings(max_examples=200)
@given(request=REQUESTS)
def test_no_listed_table_is_forgotten_while_nothing_is_known(request: HookRequest) -> None:
    answer = build_response(request, worst(make_plan(request, permits)), NOW, 300)
    if answer["finalized"] and request.deleting:
        return  # the resource is released
    assert set(request.status.tables) <= set(answer["status"]["tables"])


@settings(max_examples=200)
@given(request=REQUESTS)
def test_a_table_that_may_be_written_is_listed_or_not_observed(request: HookRequest) -> None:
    plan = make_plan(request, permits)
    status = build_response(request, worst(plan), NOW, 300)["status"]
    if isinstance(plan, Write):
        table = plan.spec.table
        assert table in status["tables"] or status.get("observedTable") != request.table
        assert plan.listed or request.status.observed_table != request.table, "neither frozen nor listed"
    assert len(status["tables"]) <= MAX_TABLES


@settings(max_examples=200)
@given(request=REQUESTS)
def test_only_permitted_tables_are_written_and_only_listed_or_permitted_ones_deleted_from(request: HookRequest) -> None:
    plan = make_plan(request, permits)
    if isinstance(plan, Write):
        assert permits("default", plan.spec.table)
        assert set(plan.vacate) == set(request.status.tables) - {plan.spec.table}
    if isinstance(plan, Remove):
        assert set(plan.tables) - set(request.status.tables) <= {request.relation} - {SECRETS}
        assert set(plan.listed) == set(request.status.tables) & set(plan.tables)
        assert all(is_table(table) for table in plan.tables)

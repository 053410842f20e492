"""Exactly one row, whatever users, the delivery and the database do: random histories on a real PostgreSQL.

The users and the controller are those of faults.cluster_model; what runs is load_request, make_plan, Store.apply
and build_response. In every state a resource's row may be only in status.tables united with spec.table, and
nowhere once the finalizer is released; what a status calls Ready must be true; when everything is repaired and
delivered, rows and resources are the same. A call may hang in its commit, answered as a failure or not, and what it
wrote lands or is undone at any later moment: between two calls, between two statements of one, in a restart.
Three tests take parts out, and must see a row orphaned or a false Ready: so the check is checked itself.
"""

import dataclasses
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from faults.breakable_tables import FAULTS, HIDDEN, SPELLINGS, TABLES, BreakableTables, breakable_tables
from faults.late_commits import UNLOCKED, LookFirst
from faults.protocol import (
    EDITS,
    FATES,
    MAX_TABLES,
    MOMENTS,
    SWITCHES,
    FalseReady,
    OrphanedRow,
    Protocol,
    ProtocolUnderFaults,
)
from postgres_writer.core.plan import Permits, Plan, Record, Write, make_plan
from postgres_writer.core.request import HookRequest
from postgres_writer.core.row import POSTGRES_ROW, POSTGRES_WRITER
from postgres_writer.database import statements
from postgres_writer.database.statements import Statement
from postgres_writer.database.store import Store
from support.postgres import Database

# hundreds of histories each, which take minutes where the machine has other work
pytestmark = pytest.mark.timeout(900)

WALKS = 300
LATE_WALKS = 120

Late = Callable[..., None]


def without_deletes(request: HookRequest, permits: Permits) -> Plan:
    """Plan, but leave the row in the old tables."""
    plan = make_plan(request, permits)
    return dataclasses.replace(plan, vacate=()) if isinstance(plan, Write) else plan


def without_record(request: HookRequest, permits: Permits) -> Plan:
    """Plan, but write a table that was refused before without recording it first."""
    plan = make_plan(request, permits)
    if isinstance(plan, Record) and request.spec is not None:
        return Write(plan.id, request.spec, plan.may_hold, listed=False)
    return plan


@pytest.fixture(scope="module")
def tables(shared_database: Database) -> Iterator[BreakableTables]:
    with breakable_tables(shared_database) as tables:
        yield tables


EITHER = [
    pytest.param(("composite", POSTGRES_WRITER), id="composite"),
    pytest.param(("decorator", POSTGRES_ROW), id="decorator, rows"),
]
ALL = [
    *EITHER,
    pytest.param(("decorator", POSTGRES_WRITER), id="decorator"),
    pytest.param(("composite", POSTGRES_ROW), id="composite, rows"),
]


@pytest.fixture(params=EITHER)
def attributes(
    request: pytest.FixtureRequest, tables: BreakableTables, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    """Give what a machine needs: sound tables, a store that reaches them and one that does not."""
    monkeypatch.setattr("postgres_writer.core.response.MAX_TABLES", MAX_TABLES)
    tables.reset()
    store = Store(tables.writer)
    no_store = Store(dataclasses.replace(tables.writer, host_names=("127.0.0.1",), ports=(1,)))
    controls, kind = request.param
    yield {"tables": tables, "store": store, "no_store": no_store, "controls": controls, "kind": kind}
    store.close()


def run(machine: type[Protocol], histories: int) -> None:
    """Run random histories, always the same ones."""
    options = settings(
        max_examples=histories,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        database=None,
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    run_state_machine_as_test(machine, settings=options)


def walk(machine: Protocol, chance: random.Random) -> None:
    """Take random steps without what hypothesis does to find the smallest: many histories in a short time."""
    table, fate = partial(chance.choice, SPELLINGS), partial(chance.choice, FATES)
    machine.begin(chance.random() < 0.5, table())
    steps: list[Callable[[], None]] = [
        lambda: machine.apply("x", table(), chance.random() < 0.5),
        lambda: machine.sync("x", fate(), chance.random() < 0.5),
        lambda: machine.go_on("x", 0, fate(), chance.random() < 0.5),
        machine.switch_policy,
        lambda: machine.land(chance.random() < 0.7),
        lambda: machine.land_during(chance.choice(MOMENTS), chance.random() < 0.7),
        lambda: machine.restart_database(chance.random() < 0.7),
    ]
    if isinstance(machine, ProtocolUnderFaults):
        name = partial(chance.choice, ("x", "x", "y"))
        steps += [
            lambda: machine.apply(name(), table(), chance.random() < 0.5),
            lambda: machine.sync(name(), fate(), chance.random() < 0.8),
            lambda: machine.go_on(name(), chance.randint(0, 2), fate(), chance.random() < 0.8),
            lambda: machine.edit(name(), chance.choice(EDITS)),
            lambda: machine.switch(name(), chance.choice(SWITCHES)),
            lambda: machine.break_or_mend(chance.choice(TABLES), chance.choice(machine.faults)),
            lambda: machine.tamper(chance.choice(TABLES), name(), chance.choice((None, HIDDEN))),
            lambda: machine.lose_database(chance.randint(1, 3)),
            machine.repair_all,
            lambda: machine.delete(name()),
        ]
    for _ in range(20):
        chance.choice(steps)()
        machine.state_is_sound()


def walk_all(machine: type[Protocol]) -> None:
    for seed in range(WALKS):
        walked = machine()
        walk(walked, random.Random(seed))
        walked.teardown()


@pytest.mark.parametrize("attributes", ALL, indirect=True)
@pytest.mark.parametrize("machine", [Protocol, ProtocolUnderFaults])
def test_one_row_per_resource_in_every_history(machine: type[Protocol], attributes: dict[str, Any]) -> None:
    machine = type(machine.__name__, (machine,), attributes)
    run(machine, 120)
    assert machine.calls > machine.histories


def test_one_row_per_resource_in_many_short_histories(attributes: dict[str, Any]) -> None:
    machine: type[Protocol] = type("Walked", (ProtocolUnderFaults,), attributes)
    walk_all(machine)


@pytest.mark.long
@pytest.mark.parametrize(
    "sabotage",
    [
        pytest.param({"rules_enforced": False}, id="without the CRD's transition rules"),
        pytest.param({"planner": staticmethod(without_deletes)}, id="without deletes from the old tables"),
        pytest.param({"planner": staticmethod(without_record)}, id="without the record-first step"),
    ],
)
def test_a_protocol_that_lacks_one_part_is_caught(attributes: dict[str, Any], sabotage: dict[str, Any]) -> None:
    machine: type[Protocol] = type("Sabotaged", (Protocol,), {**attributes, **sabotage})
    with pytest.raises(OrphanedRow):
        walk_all(machine)
    print(f"found in history {machine.histories}")  # shown by pytest -rP


def without_release(request: HookRequest, permits: Permits) -> Plan:
    """Plan, but leave the values of the columns that spec names no longer."""
    plan = make_plan(request, permits)
    return dataclasses.replace(plan, released=()) if isinstance(plan, Write) else plan


@pytest.mark.long
@pytest.mark.parametrize("attributes", ALL[1::2], indirect=True)
def test_a_column_that_is_not_released_is_caught(attributes: dict[str, Any]) -> None:
    machine: type[Protocol] = type(
        "Sabotaged", (ProtocolUnderFaults,), {**attributes, "planner": staticmethod(without_release)}
    )
    with pytest.raises(FalseReady):
        walk_all(machine)


MAY_WRITE = Statement("SET LOCAL row_security = off")
"""Before the look, in place of what also forbids writes from there on: that would do for the part that is lacking."""


@pytest.fixture
def replace_statement(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, object], None]]:
    """Give a function that puts another thing into the module of the statements, from which all are made again."""

    def forget() -> None:
        for made in (statements.write, statements.remove, statements.matches):
            made.cache_clear()

    def replace(name: str, value: object) -> None:
        monkeypatch.setattr(statements, name, value)
        forget()

    yield replace
    monkeypatch.undo()
    forget()


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("_LOOK", "SELECT current_setting('pgw.was', true)", id="without the look at what is written"),
        pytest.param("_LOOK_DELETED", "SELECT true", id="without the look at what is deleted"),
        pytest.param("_VACATED", "", id="without the look at what is vacated"),
        pytest.param("FIRE_DEFERRED", Statement("SELECT"), id="with deferred triggers after the look"),
        pytest.param("SEE_ALL", Statement("SELECT"), id="with a look through policies"),
        pytest.param("quoted", lambda name: f'"{name.rpartition(".")[2]}"', id="without the names of schemas"),
    ],
)
def test_a_message_that_lacks_one_part_is_caught(
    attributes: dict[str, Any], replace_statement: Callable[[str, object], None], name: str, value: object
) -> None:
    replace_statement(name, value)
    if name == "FIRE_DEFERRED":
        replace_statement("SEE_ALL", MAY_WRITE)
    # the rarest of the faults alone, where it takes just that one
    faults = tuple(fault for fault in FAULTS if name != "FIRE_DEFERRED" or "at the commit" in fault)
    machine: type[Protocol] = type("Sabotaged", (ProtocolUnderFaults,), {**attributes, "faults": faults})
    with pytest.raises((OrphanedRow, FalseReady)) as found:
        walk_all(machine)
    print(f"{found.typename} in history {machine.histories}")  # shown by pytest -rP


def trusting(request: HookRequest, permits: Permits) -> Plan:
    """Plan, but let every look claim Ready without the lock."""
    plan = make_plan(request, permits)
    return dataclasses.replace(plan, steady=not plan.vacate) if isinstance(plan, Write) else plan


def walk_among_late_commits(machine: ProtocolUnderFaults, chance: random.Random) -> None:
    """Take rounds of random steps of which many commit late; nothing is tampered with, so Ready must always be true."""
    machine.begin(False, "a")

    def change() -> None:
        kind = chance.choice(("values", "values", "table", "delete"))
        if kind == "values":
            machine.edit("x", "toggle")
        elif kind == "table":
            machine.apply("x", chance.choice(("a", "b")), False)
        else:
            machine.delete("x")

    def end() -> None:
        chance.choice((machine.land, machine.land, machine.restart_database))(chance.random() < 0.8)

    for _ in range(6):
        for step in (
            change,
            lambda: machine.sync("x", chance.choice(FATES), chance.random() < 0.7),
            change,
            lambda: machine.land_during(chance.choice(MOMENTS), chance.random() < 0.8),
            lambda: machine.sync("x", "answered", True),
            end,
        ):
            if chance.random() < 0.7:
                step()
                machine.state_is_sound()
    machine.flight.end_all()
    machine.every_row_is_found_again(machine.tables.rows())


@pytest.fixture
def late(attributes: dict[str, Any], tables: BreakableTables, monkeypatch: pytest.MonkeyPatch) -> Iterator[Late]:
    """Give a search through histories with late commits; statements that wait for what is in flight give up soon."""
    monkeypatch.setattr(tables, "writer", dataclasses.replace(tables.writer, statement_timeout=0.3))
    store = Store(tables.writer)

    def search(**sabotage: Any) -> None:
        machine = type("Late", (ProtocolUnderFaults,), {**attributes, "store": store, **sabotage})
        for seed in range(LATE_WALKS):
            walk_among_late_commits(machine(), random.Random(seed))
            print(f"{seed + 1} histories searched")  # shown by pytest -rP

    yield search
    store.close()


def test_what_commits_late_orphans_no_row_and_makes_no_ready_false(late: Late) -> None:
    late()


@pytest.mark.long
@pytest.mark.parametrize(
    ("sabotage", "lock"),
    [
        pytest.param({}, UNLOCKED, id="without the lock of the id"),
        pytest.param({"session": LookFirst}, statements.LOCK, id="with the lock behind the look"),
        pytest.param({"planner": staticmethod(trusting)}, statements.LOCK, id="with claims without the lock"),
    ],
)
def test_a_lock_that_lacks_one_part_is_caught(
    late: Late, sabotage: dict[str, Any], lock: Statement, replace_statement: Callable[[str, object], None]
) -> None:
    replace_statement("LOCK", lock)
    # the lock is not taken where only reading is allowed
    replace_statement("SEE_ALL", MAY_WRITE)
    replace_statement("SURVEY", dataclasses.replace(statements.SURVEY, parts=(lock, *statements.SURVEY.parts[1:])))
    with pytest.raises((OrphanedRow, FalseReady)) as found:
        late(**sabotage)
    print(found.typename)

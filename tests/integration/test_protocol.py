"""Exactly one row, whatever users, the delivery and the database do: random histories on a real PostgreSQL.

The users and the controller are those of support.cluster_model; what runs is load_request, make_plan, Store.apply
and build_response. In every state a resource's row may stand only in status.tables united with spec.table, and
nowhere once the finalizer is released; when everything is mended and delivered, rows and resources are the same.
The last test takes a part of the protocol out, and must see a row orphaned: so the check is checked itself.
"""

import dataclasses
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from postgres_writer.config.parsers import Host
from postgres_writer.core.plan import Permits, Plan, Record, Write, make_plan
from postgres_writer.core.request import HookRequest
from postgres_writer.database.store import Store
from support.breakable_tables import FAULTS, SPELLINGS, TABLES, BreakableTables, breakable_tables
from support.postgres import Database
from support.protocol import EDITS, FATES, MAX_TABLES, SWITCHES, OrphanedRow, Protocol, ProtocolUnderFaults

WALKS = 300


def without_deletes(request: HookRequest, permits: Permits) -> Plan:
    """Plan, but leave the row in the old tables."""
    plan = make_plan(request, permits)
    return dataclasses.replace(plan, leave=()) if isinstance(plan, Write) else plan


def without_record(request: HookRequest, permits: Permits) -> Plan:
    """Plan, but write a table that was refused before without recording it first."""
    plan = make_plan(request, permits)
    if isinstance(plan, Record) and request.spec is not None:
        return Write(plan.id, request.spec, plan.others, listed=False)
    return plan


@pytest.fixture(scope="module")
def tables(maintenance: Database, template: Database) -> Iterator[BreakableTables]:
    database = maintenance.create_sibling(template)
    with breakable_tables(database) as tables:
        yield tables
    maintenance.drop_sibling(database)


@pytest.fixture(params=["composite", "decorator"])
def attributes(
    request: pytest.FixtureRequest, tables: BreakableTables, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    """Give what a machine needs: sound tables, a store that reaches them and one that does not."""
    monkeypatch.setattr("postgres_writer.core.response.MAX_TABLES", MAX_TABLES)
    tables.reset()
    store, no_store = Store(tables.writer), Store(dataclasses.replace(tables.writer, hosts=(Host("127.0.0.1", 1),)))
    yield {"tables": tables, "store": store, "no_store": no_store, "kind": request.param}
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
    ]
    if isinstance(machine, ProtocolUnderFaults):
        name = partial(chance.choice, ("x", "x", "y"))
        steps += [
            lambda: machine.apply(name(), table(), chance.random() < 0.5),
            lambda: machine.sync(name(), fate(), chance.random() < 0.8),
            lambda: machine.go_on(name(), chance.randint(0, 2), fate(), chance.random() < 0.8),
            lambda: machine.edit(name(), chance.choice(EDITS)),
            lambda: machine.switch(name(), chance.choice(SWITCHES)),
            lambda: machine.break_or_mend(chance.choice(TABLES), chance.choice(FAULTS)),
            lambda: machine.tamper(chance.choice(TABLES), name(), chance.choice((None, "mallory"))),
            lambda: machine.lose_database(chance.randint(1, 3)),
            machine.mend_all,
            lambda: machine.delete(name()),
        ]
    for _ in range(20):
        chance.choice(steps)()
        machine.every_row_is_found_again()


def walk_all(machine: type[Protocol]) -> None:
    for seed in range(WALKS):
        walked = machine()
        walk(walked, random.Random(seed))
        walked.teardown()


@pytest.mark.parametrize("machine", [Protocol, ProtocolUnderFaults])
def test_one_row_per_resource_in_every_history(machine: type[Protocol], attributes: dict[str, Any]) -> None:
    machine = type(machine.__name__, (machine,), attributes)
    run(machine, 120)
    assert machine.calls > machine.histories


def test_one_row_per_resource_in_many_short_histories(attributes: dict[str, Any]) -> None:
    machine: type[Protocol] = type("Walked", (ProtocolUnderFaults,), attributes)
    walk_all(machine)


@pytest.mark.parametrize(
    "sabotage",
    [
        pytest.param({"rule_enforced": False}, id="without the CRD's transition rule"),
        pytest.param({"planner": staticmethod(without_deletes)}, id="without deletes from the old tables"),
        pytest.param({"planner": staticmethod(without_record)}, id="without the record-first step"),
    ],
)
def test_a_protocol_that_lacks_one_part_is_caught(attributes: dict[str, Any], sabotage: dict[str, Any]) -> None:
    machine: type[Protocol] = type("Sabotaged", (Protocol,), {**attributes, **sabotage})
    with pytest.raises(OrphanedRow):
        walk_all(machine)
    print(f"found in history {machine.histories}")  # shown by pytest -rP

"""No row is orphaned when spec.database changes, whatever is configured, broken, away or lost: random histories.

The API server's rules are played, what runs is load_request, make_plan, Store.apply and build_response on two real
databases. A row may be only in spec.database, and there in status.tables united with spec.table; nowhere once the
resource is gone. Taking a part out must let a history orphan a row: so the check is checked itself.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from postgres_writer.config.settings import Config
from postgres_writer.core.plan import Outcome, Permits, Plan, make_plan
from postgres_writer.core.request import HookRequest, load_request
from postgres_writer.core.response import build_response
from postgres_writer.core.row import relation_name
from postgres_writer.database import databases as module
from postgres_writer.database.databases import Databases
from postgres_writer.errors import DatabaseNotConfigured
from support.databases import write_folder
from support.payloads import DELETED, payload, resource
from support.ports import free_port
from support.postgres import Database
from support.spec_cases import spec_with
from support.subject import fresh_call

NAMES, TABLES = ("one", "two"), ("students", "teachers")
WALKS, STEPS = 60, 25

Decide = Callable[[HookRequest, Permits, DatabaseNotConfigured | None], Plan]


def observing(request: HookRequest, permits: Permits, missing: DatabaseNotConfigured | None) -> Plan:
    """Plan, but say that a table was observed although the configuration of its database is unusable."""
    plan = make_plan(request, permits, missing)
    return replace(plan, observed=True) if isinstance(plan, Outcome) else plan


def releasing(request: HookRequest, permits: Permits, missing: DatabaseNotConfigured | None) -> Plan:
    """Plan, but let a deletion not wait for a database that cannot be asked."""
    plan = make_plan(request, permits, missing)
    return Outcome(plan.tables) if request.finalizing and isinstance(plan, Outcome) else plan


class Orphaned(AssertionError):
    """A row is where nobody looks for it."""


@dataclass
class World:
    """Two databases, their configuration, and one resource as the API server has it."""

    folder: Path
    real: dict[str, Database]
    databases: Databases
    chance: random.Random
    decide: Decide
    frozen: bool = True  # whether the API server's rule on spec.database is in force
    database: str = "one"
    table: str = "students"
    status: dict[str, Any] = field(default_factory=dict)
    deleting: bool = False
    gone: bool = False
    lost: bool = False  # whether an answer was lost, and nothing was answered since
    history: list[str] = field(default_factory=list)

    def rows(self) -> set[tuple[str, str]]:
        """Give where the resource's rows are."""
        found = ((name, table) for name in NAMES for table in TABLES)
        return {(name, table) for name, table in found if self.real[name].rows(table)}

    def configured(self, name: str) -> bool:
        return (self.folder / name).exists()

    def check(self) -> None:
        listed = {*self.status.get("tables", ()), relation_name(self.table)}
        reached = set() if self.gone else {(self.database, table) for table in TABLES if f"public.{table}" in listed}
        if stray := self.rows() - reached:
            raise Orphaned(f"{stray} after {' > '.join(self.history)}")

    def edit_table(self) -> None:
        if not self.deleting and self.status.get("observedTable") == self.table:
            self.table = next(table for table in TABLES if table != self.table)

    def edit_database(self) -> None:
        observed = self.status.get("observedTable") == self.table and not self.status.get("tables")
        if not self.deleting and (observed or not self.frozen):
            self.database = next(name for name in NAMES if name != self.database)

    def delete(self) -> None:
        self.deleting = True

    def write(self, name: str, **changes: str) -> None:
        write_folder(self.folder, name, self.real[name], **changes)

    def configure(self) -> None:
        self.write(self.chance.choice(NAMES))

    def cut_off(self) -> None:
        name = self.chance.choice(NAMES)
        if self.configured(name):
            self.write(name, port=str(free_port()))

    def break_folder(self) -> None:
        name = self.chance.choice(NAMES)
        if self.configured(name):
            self.write(name, port="x")

    def remove(self) -> None:
        """Remove a configuration, but not while an answer is lost: that is the one assumption."""
        name = self.chance.choice(NAMES)
        if not (self.lost and name == self.database) and self.configured(name):
            shutil.rmtree(self.folder / name)

    def call(self) -> None:
        """Call the hook; its answer may get lost."""
        metadata = DELETED if self.deleting else {}
        body = payload(
            resource(spec_with(database=self.database, table=self.table), self.status, **metadata),
            finalizing=self.deleting,
        )
        request = load_request(body, finalizing=self.deleting, schema_of=self.databases.schema)
        found = self.databases.find(request.database)
        outcome: Outcome = found.store.apply(self.decide(request, lambda *_: True, found.missing), fresh_call())
        answer = build_response(request, outcome, 0.0, 300.0)
        self.lost = self.chance.random() < 0.4
        self.history.append(f"-> {outcome}{', lost' if self.lost else ''}")
        if not self.lost:
            self.status = answer["status"]
            self.gone = self.deleting and answer["finalized"]

    def walk(self) -> None:
        steps = [
            self.call,
            self.call,
            self.call,
            self.edit_table,
            self.edit_database,
            self.configure,
            self.cut_off,
            self.break_folder,
            self.remove,
        ]
        for number in range(STEPS):
            if self.gone:
                return
            step = self.delete if number == STEPS - 8 else self.chance.choice(steps)
            self.history.append(step.__name__)
            step()
            self.check()

    def settle(self) -> None:
        """Repair and deliver everything: the resource goes, and its row with it."""
        self.deleting = True
        for name in NAMES:
            self.write(name)
        for _ in range(50):
            if self.gone:
                break
            self.call()
        assert self.gone
        self.check()


@pytest.fixture(scope="module")
def real(shared_database: Database) -> Iterator[dict[str, Database]]:
    with shared_database.sibling() as one, shared_database.sibling() as two:
        for database in (one, two):
            database.create_table("teachers")
        yield {"one": replace(one, kept=[]), "two": replace(two, kept=[])}


@pytest.fixture
def run(
    real: dict[str, Database], shared_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., int]]:
    """Give a function that walks many histories; it gives how many had a row."""
    monkeypatch.setattr(module, "_READ_SECONDS", -1.0)
    folder = tmp_path / "databases"
    config = Config(shared_database.config(), databases_dir=folder)
    databases = Databases(config, {"PSQL_CONNECT_TIMEOUT": "1"})

    def walks(decide: Decide = make_plan, *, frozen: bool = True, number: int = WALKS) -> int:
        written = 0
        for seed in range(number):
            for database in real.values():
                for table in TABLES:
                    database.query(f"DELETE FROM {table}")
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            world = World(folder, real, databases, random.Random(seed), decide, frozen)
            world.configure()
            world.walk()
            written += any("INSERTED" in each or "MOVED" in each for each in world.history)
            world.settle()
        return written

    yield walks
    for name in NAMES:
        databases.find(name).store.close()


def test_no_row_is_left_where_nobody_looks(run: Callable[..., int]) -> None:
    assert run() > WALKS / 2, "most histories have a row to lose"


@pytest.mark.long
@pytest.mark.parametrize(
    "broken",
    [
        pytest.param({"decide": observing}, id="an unusable configuration is observed"),
        pytest.param({"decide": releasing}, id="a deletion does not wait"),
        pytest.param({"frozen": False}, id="spec.database is not frozen"),
    ],
)
def test_without_a_part_of_it_a_row_is_lost(run: Callable[..., int], broken: dict[str, Any]) -> None:
    with pytest.raises(Orphaned):
        partial(run, number=1000, **broken)()

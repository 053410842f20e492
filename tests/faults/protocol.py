"""A state machine of random users, delivery and faults around the real hook; see tests/faults/test_protocol.py.

Two things are not random, because the protocol assumes them: a policy or a grant is narrowed only while no answer is
on its way, and what the controller has sent under another policy or grant it sends again only in a newer version.
"""

import contextlib
import time
from collections.abc import Callable
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from faults.breakable_tables import DEFAULT_COUNTRY, FAULTS, HIDDEN, SPELLINGS, TABLES, BreakableTables, Row, resolved
from faults.cluster_model import (
    NAMESPACE,
    OTHER_FINALIZER,
    ApiServer,
    Metacontroller,
    Object,
    Refused,
    Sync,
    edit_of,
    is_managed,
    is_paused,
    listed_tables,
    stays,
    values_of,
)
from faults.late_commits import Flight, SteppedSession
from postgres_writer.core.plan import Permits, Plan, make_plan
from postgres_writer.core.request import PAUSED_ANNOTATION, Controller, HookRequest, load_request
from postgres_writer.core.response import build_response
from postgres_writer.core.row import POSTGRES_WRITER, Kind
from postgres_writer.database.store import Store
from postgres_writer.deadlines import Call

MAX_TABLES = 3
"""Lower than the product's cap, so that histories of a few edits reach it."""
POLICED = "public.c"
ROUNDS = 10
EDITS = ("age", "name", "country", "deletionPolicy", "broken")
SWITCHES = ("paused", "managed", "other finalizer")

# the interesting histories are those of one resource
names = st.sampled_from(("x", "x", "x", "y"))
tables_named = st.sampled_from((*SPELLINGS, "c"))
HANGS = ("commit hangs", "commit hangs, answer lost")
FATES = ("answered", "answered", "answer lost", "connection lost after commit", "call lost", *HANGS, *HANGS)
MOMENTS = (0, 1, 1, 2, 3)
"""Before which of its statements a call finds that what was in flight is over."""
fates = st.sampled_from(FATES)

Planner = Callable[[HookRequest, Permits], Plan]


class OrphanedRow(AssertionError):
    """A row is in a table that is recorded nowhere."""


class FalseReady(AssertionError):
    """A status says Ready of this very generation, and the row is another."""


class Protocol(RuleBasedStateMachine):
    """Users, delivery, the policy and outages; the attributes of the class are set before it runs."""

    tables: ClassVar[BreakableTables]
    store: ClassVar[Store]
    no_store: ClassVar[Store]
    """A store whose database cannot be reached."""
    controls: ClassVar[Controller]
    kind: ClassVar[Kind] = POSTGRES_WRITER
    rules_enforced: ClassVar[bool] = True
    planner: ClassVar[Planner] = staticmethod(make_plan)
    session: ClassVar[type[SteppedSession]] = SteppedSession
    histories: ClassVar[int] = 0
    calls: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).histories += 1
        self.tables.clear()
        self.api = ApiServer(MAX_TABLES, self.rules_enforced, self.kind)
        self.controller = Metacontroller(self.api, self.controls)
        self.syncs: dict[str, Sync] = {}
        self.left: dict[str, set[str]] = {}
        """Tables in which a row stays for good, by the user's wish: retained, or no longer managed."""
        self.policed = False
        self.outage = 0
        """How many more calls find the database down."""
        self.flight = Flight()
        self.tampered = False
        self.now = 1_800_000_000.0

    @initialize(policed=st.booleans(), table=tables_named)
    def begin(self, policed: bool, table: str) -> None:
        self.policed = policed
        self.apply("x", table, True)

    @rule(name=names, table=tables_named, wait=st.booleans())
    def apply(self, name: str, table: str, wait: bool) -> None:
        if name not in self.api.objects:
            self.api.create(name, {"table": table, "name": "alex", "age": 23, "country": "canada"})
        else:
            try:
                self.api.edit(name, {"table": table})
            except Refused:
                # what `kubectl apply` tells the user; the resource stays as it was
                return
        if wait:
            self.sync(name, "answered", True)

    @rule(name=names)
    def delete(self, name: str) -> None:
        if name in self.api.objects:
            self.api.delete(name)

    @rule()
    def switch_policy(self) -> None:
        if self.policed or self._calmed():
            self.policed = not self.policed
            self._present_only()

    @rule(calls=st.integers(1, 3))
    def lose_database(self, calls: int) -> None:
        self.outage = calls

    # What is in flight

    @rule(committed=st.booleans())
    def land(self, committed: bool) -> None:
        """Let the oldest of what is in flight end."""
        self.flight.end_one(committed)

    @rule(moment=st.sampled_from(MOMENTS), committed=st.booleans())
    def land_during(self, moment: int, committed: bool) -> None:
        """Let all that is in flight end in the midst of the next call."""
        self.flight.moment = (moment, committed)

    @rule(committed=st.booleans())
    def restart_database(self, committed: bool) -> None:
        """End all sessions; the recovery commits what had reached the disk, and no lock outlives it."""
        self.flight.end_all(committed)
        self.tables.end_sessions()

    # Delivery, in one go or step by step

    @rule(name=names, fate=fates, written=st.booleans())
    def sync(self, name: str, fate: str, written: bool) -> None:
        self.take(name, 0)
        self.call(name, fate)
        self.write(name, written)

    @rule(name=names, lag=st.integers(0, 2), fate=fates, written=st.booleans())
    def go_on(self, name: str, lag: int, fate: str, written: bool) -> None:
        """Take the next step of the sync on its way, or begin one; other things may happen between the steps."""
        sync = self.syncs.get(name)
        if sync is None:
            self.take(name, lag)
        elif sync.answer is None:
            self.call(name, fate)
        else:
            self.write(name, written)

    def take(self, name: str, lag: int) -> None:
        if name in self.syncs:
            return
        sync = self.controller.take(name, lag)
        if sync is not None:
            self.syncs[name] = sync

    def call(self, name: str, fate: str) -> None:
        sync = self.syncs.get(name)
        if sync is None or sync.answer is not None:
            return
        if fate == "call lost":
            del self.syncs[name]
            return
        answer = self._ask(sync, fate in HANGS)
        if fate == "connection lost after commit":
            answer = self._answer(sync, self.no_store)
        if fate.endswith("answer lost"):
            del self.syncs[name]
        else:
            sync.answer = answer

    def write(self, name: str, written: bool) -> None:
        sync = self.syncs.get(name)
        if sync is None or sync.answer is None:
            return
        del self.syncs[name]
        if written and self.controller.write(sync) and stays(sync):
            # what is in flight when its resource is let go may land afterwards: the audit finds it
            lands = TABLES if self.flight.concerns(name) else ()
            self.left.setdefault(name, set()).update(self.holders(name, self.tables.rows()), lands)

    def _ask(self, sync: Sync, hangs: bool) -> Object:
        if self.outage:
            self.outage -= 1
            return self._answer(sync, self.no_store)
        if not hangs and (self.flight.moment is None or not self.flight.hanging):
            return self._answer(sync, self.store)
        with self.flight.store(self.tables.writer, self.session, sync.name if hangs else "") as store:
            return self._answer(sync, store)

    def _answer(self, sync: Sync, store: Store) -> Object:
        type(self).calls += 1
        self.now += 7
        request = load_request(self.controller.payload(sync), finalizing=sync.finalizing)
        outcome = store.apply(type(self).planner(request, self._permits), Call(time.monotonic(), lambda: False))
        answer = build_response(request, outcome, self.now, 300.0)
        children = "children" if self.controls == "composite" else "attachments"
        assert answer.keys() == {"status", children, "resyncAfterSeconds", "finalized"}
        assert answer["finalized"] is False or sync.finalizing, "a sync must not release the finalizer"
        return answer

    def _permits(self, namespace: str, table: str, _column: str | None) -> bool:
        assert namespace == NAMESPACE
        return not (self.policed and table == POLICED)

    def _calmed(self) -> bool:
        """Let everything arrive, and say whether nothing is on its way, so that a policy or a grant may be narrowed."""
        self.flight.end_all()
        for name in list(self.api.objects):
            self._deliver(name)
        rows = self.tables.rows()
        return all(
            one.get("status", {}).get("observedTable") == one["spec"]["table"]
            and self.holders(name, rows) <= listed_tables(one) | self.left.get(name, set())
            for name, one in self.api.objects.items()
        )

    def _present_only(self) -> None:
        # after a change of policy or grant nothing sent before is sent again
        self.controller.catch_up()
        self.syncs = {name: sync for name, sync in self.syncs.items() if sync.answer is not None or not sync.stale}

    # What must hold

    def row_id(self, name: str) -> str:
        return f"{self.kind.prefix}{NAMESPACE}/{name}"

    def row_of(self, name: str, spec: Object) -> Row:
        values = values_of(spec)
        return (self.row_id(name), values["name"], values["age"], values.get("country", DEFAULT_COUNTRY))

    def holders(self, name: str, rows: dict[str, dict[str, Row]]) -> set[str]:
        return {table for table, found in rows.items() if self.row_id(name) in found}

    @invariant()
    def state_is_sound(self) -> None:
        rows = self.tables.rows()
        self.every_row_is_found_again(rows)
        self.ready_is_true(rows)

    def every_row_is_found_again(self, rows: dict[str, dict[str, Row]]) -> None:
        for name in self.api.history:
            current = self.api.objects.get(name)
            allowed = self.left.setdefault(name, set())
            if current is not None:
                ours = self.controller.finalizer in current["metadata"]["finalizers"]
                allowed -= listed_tables(current) if ours else set()
                if ours or "deletionTimestamp" not in current["metadata"]:
                    allowed = allowed | listed_tables(current) | {resolved(current["spec"]["table"])}
            lost = self.holders(name, rows) - allowed
            if lost:
                raise OrphanedRow(f"{name} has a row in {sorted(lost)}, only {sorted(allowed)} are recorded")

    def ready_is_true(self, rows: dict[str, dict[str, Row]]) -> None:
        for name, current in self.api.objects.items():
            spec, conditions = current["spec"], current.get("status", {}).get("conditions", [])
            found = next((one for one in conditions if one["type"] == "Ready"), {"status": "False"})
            is_new = found.get("observedGeneration") == current["metadata"]["generation"]
            if self.tampered or found["status"] != "True" or not is_new:
                continue
            row = rows[resolved(spec["table"])].get(self.row_id(name))
            if row != self.row_of(name, spec):
                raise FalseReady(f"{name} is Ready with {spec}, its row is {row}")

    def teardown(self) -> None:
        self.flight.end_all()
        self._mend()
        self._settle()
        for name, current in list(self.api.objects.items()):
            self.api.edit(name, {"age": 7})
            if is_paused(current):
                self.api.set_metadata(name, "annotations", PAUSED_ANNOTATION, None)
            if not is_managed(current):
                self.api.set_metadata(name, "labels", "managed", "yes")
        self._settle()
        rows = self.tables.rows()
        for name in self.api.history:
            self._check_settled(name, rows)
        assert {row for found in rows.values() for row in found} <= {self.row_id(name) for name in self.api.history}

    def _check_settled(self, name: str, rows: dict[str, dict[str, Row]]) -> None:
        """Check that the row matches the resource, and that there is no other row for it."""
        current = self.api.objects.get(name)
        holders, left = self.holders(name, rows), self.left.get(name, set())
        if current is None or "deletionTimestamp" in current["metadata"]:
            if not holders <= left:
                raise OrphanedRow(f"{name} is gone, and its row is in {sorted(holders - left)}")
            return
        spec, status = current["spec"], current["status"]
        table, row = resolved(spec["table"]), rows[resolved(spec["table"])].get(self.row_id(name))
        if row != self.row_of(name, spec):
            raise FalseReady(f"{name} is settled with {spec}, its row is {row}")
        assert holders <= left | {table}
        assert (status["tables"], status["observedTable"]) == ([table], spec["table"])
        assert [(c["type"], c["status"], c["reason"]) for c in status["conditions"]] == [("Ready", "True", "RowSynced")]

    def _mend(self) -> None:
        # a table cannot be altered while a transaction in flight has it locked
        self.flight.end_all()
        self.outage, self.policed, self.flight.moment = 0, False, None
        for table in TABLES:
            for fault in list(self.tables.faults[table]):
                self.tables.repair(table, fault)
        self._present_only()

    def _settle(self) -> None:
        """Deliver everything until nothing changes any more; a state that never settles would be written endlessly."""
        state = self._state(self.tables.rows())
        for _ in range(ROUNDS):
            for name in self.api.history:
                self._deliver(name)
                rows = self.tables.rows()
                self.every_row_is_found_again(rows)
            before, state = state, self._state(rows)
            if state == before:
                return
        raise AssertionError(f"still changing after {ROUNDS} rounds")

    def _deliver(self, name: str) -> None:
        self.call(name, "answered")
        self.write(name, True)
        self.sync(name, "answered", True)

    def _state(self, rows: dict[str, dict[str, Row]]) -> Any:
        newest = [versions[-1] for versions in self.api.history.values()]
        return [version and version["metadata"]["resourceVersion"] for version in newest], rows


class ProtocolUnderFaults(Protocol):
    """The same with all that users can do to resources, rows and tables."""

    faults: ClassVar[tuple[str, ...]] = FAULTS

    @rule(name=names, what=st.sampled_from(EDITS))
    def edit(self, name: str, what: str) -> None:
        if name in self.api.objects:
            with contextlib.suppress(Refused):
                self.api.edit(name, edit_of(self.kind, values_of(self.api.objects[name]["spec"]), what))

    @rule(name=names, what=st.sampled_from(SWITCHES))
    def switch(self, name: str, what: str) -> None:
        if name not in self.api.objects:
            return
        current = self.api.objects[name]
        if what == "paused":
            self.api.set_metadata(name, "annotations", PAUSED_ANNOTATION, None if is_paused(current) else "true")
        elif what == "managed":
            self.api.set_metadata(name, "labels", "managed", None if is_managed(current) else "yes")
        else:
            present = OTHER_FINALIZER in current["metadata"]["finalizers"]
            if present or "deletionTimestamp" not in current["metadata"]:
                self.api.set_finalizer(name, OTHER_FINALIZER, present=not present)

    @rule(table=st.sampled_from(TABLES), fault=st.sampled_from(FAULTS))
    def break_or_mend(self, table: str, fault: str) -> None:
        self.flight.end_all()
        self.tampered |= fault in self.tables.TAMPERING
        if fault in self.tables.faults[table]:
            self.tables.repair(table, fault)
        elif self.tables.exists(table) and (fault not in self.tables.NARROWING or self._calmed()):
            self.tables.break_(table, fault)
        if fault in self.tables.NARROWING:
            self._present_only()

    @rule()
    def repair_all(self) -> None:
        self._mend()

    @rule(table=st.sampled_from(TABLES), name=names, value=st.sampled_from((None, HIDDEN)))
    def tamper(self, table: str, name: str, value: str | None) -> None:
        self.flight.end_all()
        self.tampered = True
        if self.tables.exists(table):
            self.tables.tamper(table, self.row_id(name), value)

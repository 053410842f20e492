"""The queue for connections: none starves, none waits while a connection is free for it, none is overtaken."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from postgres_writer.database.sharing import Queue, Tables, Waiter
from postgres_writer.deadlines import LEAST_LOCK_SECONDS, LOADED_LOCK_SECONDS

A, B, C = (frozenset({table}) for table in "abc")
SURVEY: Tables = frozenset()
SIZES = st.sampled_from([1, 2, 3, 8])
TABLES = st.sampled_from([A, B, C, A | B, B | C, A | C, SURVEY])


def take_all(queue: Queue, tables: Tables) -> int:
    """Take for these tables what there is; gives how many."""
    taken = 0
    while (waiter := queue.ask(tables)) is None:
        taken += 1
    queue.leave(tables, waiter)
    return taken


@pytest.mark.parametrize(("size", "most"), [(1, 1), (2, 2), (3, 2), (8, 7)])
def test_a_table_leaves_the_last_connection_to_the_others(size: int, most: int) -> None:
    queue = Queue(size)
    assert take_all(queue, A) == most
    assert take_all(queue, B) == size - most


def test_the_last_connection_goes_to_a_move_only_if_neither_of_its_tables_holds_one() -> None:
    queue = Queue(3)
    assert take_all(queue, A) == 2
    assert take_all(queue, A | B) == 0
    assert take_all(queue, B | C) == 1


def test_a_move_is_served_before_younger_writes_of_its_tables_and_after_older_ones() -> None:
    queue = Queue(3)
    take_all(queue, A)
    older, move, younger = queue.ask(A), queue.ask(A | B), queue.ask(B)
    assert older is not None
    assert move is not None
    assert younger is not None, "a connection is free for it, but the move came first"
    queue.give_back(A)
    assert [each.granted for each in (older, move, younger)] == [True, False, False]
    queue.give_back(A)
    assert [each.granted for each in (older, move, younger)] == [True, True, False]


@pytest.mark.parametrize("refused", [True, False], ids=["refused", "given up"])
def test_who_leaves_is_in_nobodys_way_any_more(refused: bool) -> None:
    queue = Queue(3)
    take_all(queue, A)
    move, write = queue.ask(A | B), queue.ask(B)
    assert move is not None
    assert write is not None
    if refused:
        queue.refuse("a")
        assert move.answered.is_set()
    assert not queue.leave(A | B, move)
    assert write.granted


@pytest.mark.parametrize(("size", "lent"), [(1, 1), (2, 2), (3, 2), (4, 3), (8, 5)])
def test_where_less_than_half_is_free_a_lock_is_not_waited_for_long(size: int, lent: int) -> None:
    queue = Queue(size)
    for _ in range(lent):
        assert queue.lock_seconds(A) == math.inf
        assert queue.lock_seconds(A | B) == LOADED_LOCK_SECONDS, "a move would keep both tables waiting"
        queue.ask(SURVEY)
    assert queue.lock_seconds(A) == LOADED_LOCK_SECONDS
    for _ in range(3 * size - lent):
        queue.ask(SURVEY)
    assert queue.lock_seconds(A) == LOADED_LOCK_SECONDS / 2, "twice as many wait as there are connections"
    for _ in range(100 * size):
        queue.ask(SURVEY)
    assert queue.lock_seconds(A) == LEAST_LOCK_SECONDS


class AnySequence(RuleBasedStateMachine):
    """Messages come, end, give up and are refused in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.lent: list[Tables] = []
        self.waiting: list[tuple[Tables, Waiter]] = []

    @initialize(size=SIZES)
    def begin(self, size: int) -> None:
        self.size, self.queue = size, Queue(size)

    @rule(tables=TABLES)
    def come(self, tables: Tables) -> None:
        waiter = self.queue.ask(tables)
        if waiter is None:
            assert not any(tables & older for older, _ in self.waiting), "it overtook an older one"
            self.lent.append(tables)
        else:
            self.waiting.append((tables, waiter))
        self.look()

    @precondition(lambda self: self.lent)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.queue.give_back(self.lent.pop(data.draw(st.integers(0, len(self.lent) - 1))))
        self.look()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        tables, waiter = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        assert not self.queue.leave(tables, waiter)
        self.look()

    @rule(table=st.sampled_from("abc"))
    def trip(self, table: str) -> None:
        self.queue.refuse(table)
        refused = [(tables, waiter) for tables, waiter in self.waiting if table in tables]
        assert all(waiter.answered.is_set() and not waiter.granted for _, waiter in refused)
        self.waiting = [each for each in self.waiting if each not in refused]
        self.look()

    def look(self) -> None:
        """Take note of who was served; whoever is left must not be an older one that shares a table."""
        left: list[tuple[Tables, Waiter]] = []
        for tables, waiter in self.waiting:
            assert waiter.granted == waiter.answered.is_set()
            if not waiter.granted:
                left.append((tables, waiter))
                continue
            assert not any(tables & older for older, _ in left), "it overtook an older one"
            self.lent.append(tables)
        self.waiting = left

    @invariant()
    def never_more_than_there_are(self) -> None:
        assert len(self.lent) <= self.size

    @invariant()
    def no_table_holds_all(self) -> None:
        for table in "abc":
            assert self.size <= 2 or sum(table in tables for tables in self.lent) < self.size

    @invariant()
    def none_waits_while_a_connection_is_free_for_it(self) -> None:
        free = self.size - len(self.lent)
        for number, (tables, _) in enumerate(self.waiting):
            holds = any(tables & lent for lent in self.lent)
            behind = any(tables & older for older, _ in self.waiting[:number])
            assert behind or free == 0 or (free == 1 and holds and self.size > 2)


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=60, stateful_step_count=30)


@dataclass(order=True)
class Caller:
    """Asks again as soon as it is served: each message holds its connection for ``hold``, at most 1."""

    number: int
    tables: Tables = field(compare=False)
    hold: float = field(compare=False)
    waiter: Waiter | None = field(default=None, compare=False)
    since: float = field(default=0.0, compare=False)
    older: int = field(default=0, compare=False)
    served: int = field(default=0, compare=False)


def press(size: int, callers: list[Caller], until: float) -> None:
    """Let callers press; each must be served within twice the longest hold for every older one, and for itself.

    For the oldest of all: those that hold its tables end within 1, because none of them is lent another, and the next
    that ends leaves it its connection.
    """
    queue, numbers = Queue(size), count()
    running: list[tuple[float, int, Caller]] = []

    def ask(caller: Caller, now: float) -> None:
        caller.since, caller.older = now, sum(each.waiter is not None for each in callers)
        caller.waiter = queue.ask(caller.tables)
        if caller.waiter is None:
            heapq.heappush(running, (now + caller.hold, next(numbers), caller))
        admit(now)

    def admit(now: float) -> None:
        for caller in callers:
            assert caller.waiter is None or now - caller.since <= 2 * (caller.older + 1), "it starves"
            if caller.waiter is not None and caller.waiter.granted:
                caller.waiter = None
                heapq.heappush(running, (now + caller.hold, next(numbers), caller))

    for caller in callers:
        ask(caller, 0.0)
    while running[0][0] < until:
        now, _, caller = heapq.heappop(running)
        caller.served += 1
        queue.give_back(caller.tables)
        admit(now)
        ask(caller, now)


CALLERS = st.lists(st.tuples(TABLES, st.sampled_from([0.02, 0.25, 1.0])), min_size=1, max_size=12)


@settings(max_examples=50)
@given(SIZES, CALLERS)
def test_none_starves_whoever_else_presses(size: int, pressing: list[tuple[Tables, float]]) -> None:
    callers = [Caller(number, tables, hold) for number, (tables, hold) in enumerate(pressing)]
    press(size, callers, until=2.0 * len(callers) + 2)
    assert all(caller.served for caller in callers)


@settings(max_examples=50)
@given(SIZES, st.integers(1, 12))
def test_all_callers_of_a_hot_row_get_through_alike(size: int, number: int) -> None:
    callers = [Caller(each, A, 0.25) for each in range(number)] + [Caller(number, A | B, 0.25)]
    press(size, callers, until=2.0 * len(callers))
    served = [caller.served for caller in callers]
    assert max(served) - min(served) <= 1

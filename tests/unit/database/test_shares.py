"""Shares: no table takes the last connection from another, and a single one may have all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from postgres_writer.database.tables import Shares, Tables
from postgres_writer.deadlines import ALONE_SECONDS

A, B, C = (frozenset({table}) for table in "abc")
SIZES = st.integers(3, 8)


def take_all(shares: Shares, tables: Tables, now: float = 0.0) -> int:
    """Take for these tables what there is; gives how many."""
    taken = 0
    shares.name(tables, now)
    while shares.admits(tables, now):
        shares.take(tables)
        taken += 1
    return taken


@given(SIZES)
def test_a_table_that_is_alone_may_have_all(size: int) -> None:
    assert take_all(Shares(size), A) == size


@given(SIZES)
def test_beside_another_a_table_leaves_one(size: int) -> None:
    shares = Shares(size)
    shares.name(B, 0.0)
    assert take_all(shares, A) == size - 1
    assert take_all(shares, B) == 1


@given(SIZES)
def test_moves_leave_one_to_their_target_and_one_to_the_others(size: int) -> None:
    shares = Shares(size)
    assert take_all(shares, A | B) == size - 2
    shares.name(B, 0.0)
    assert shares.admits(B, 0.0)
    shares.take(B)
    assert take_all(shares, C) == 1


def test_a_table_is_alone_again_when_no_other_was_named_for_long() -> None:
    shares = Shares(4)
    shares.name(B, 0.0)
    assert take_all(shares, A, ALONE_SECONDS) == 3
    assert take_all(shares, A, ALONE_SECONDS + 1) == 1


def test_the_lightest_is_the_one_whose_tables_hold_least() -> None:
    shares = Shares(8)
    shares.take(A)
    shares.take(A | B)
    assert [shares.weight(tables) for tables in (A, B, A | B, C, frozenset())] == [2, 1, 2, 0, 0]


def test_only_a_table_that_was_alone_can_hold_all() -> None:
    shares = Shares(3)
    take_all(shares, A)
    assert shares.holder_of_all() == "a"
    shares.name(B, 0.0)
    shares.give_back(A)
    assert not shares.admits(A, 0.0)
    assert shares.admits(B, 0.0)
    assert shares.holder_of_all() is None


@pytest.mark.parametrize("size", [1, 2])
def test_too_few_connections_to_share_still_serve_everybody(size: int) -> None:
    shares = Shares(size)
    for tables in (A, B, A | B):
        taken = take_all(shares, tables)
        assert taken >= 1
        for _ in range(taken):
            shares.give_back(tables)


class AnySequence(RuleBasedStateMachine):
    """Messages of three tables and moves between them come and go, none ever waits while it would be admitted."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 4
        self.shares = Shares(self.size)
        self.lent: list[Tables] = []
        for tables in (A, B, C):  # none of them is alone
            self.shares.name(tables, 0.0)

    @rule(tables=st.sampled_from([A, B, C, A | B, B | C, A | C]))
    def come(self, tables: Tables) -> None:
        self.shares.name(tables, 0.0)
        if self.shares.admits(tables, 0.0):
            self.shares.take(tables)
            self.lent.append(tables)

    @precondition(lambda self: self.lent)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        self.shares.give_back(self.lent.pop(data.draw(st.integers(0, len(self.lent) - 1))))

    @invariant()
    def never_more_than_there_are(self) -> None:
        assert self.shares.lent == len(self.lent) <= self.size

    @invariant()
    def no_table_holds_all(self) -> None:
        assert self.shares.holder_of_all() is None
        for table in "abc":
            assert sum(table in tables for tables in self.lent) < self.size

    @invariant()
    def a_free_table_gets_one_while_there_is_one(self) -> None:
        """Only as many statements as there are connections can keep a table that holds none of them waiting."""
        for tables in (A, B, C):
            if len(self.lent) < self.size and not any(tables <= lent for lent in self.lent):
                assert self.shares.admits(tables, 0.0)

    @invariant()
    def moves_alone_never_shut_out_a_plain_write(self) -> None:
        for tables in (A, B, C):
            if len(self.lent) < self.size and all(len(lent) > 1 for lent in self.lent if tables <= lent):
                assert self.shares.admits(tables, 0.0)


TestAnySequence = AnySequence.TestCase

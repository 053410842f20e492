"""When the callers of a table fail fast: time-outs of two ids with no success between; one tries now and then."""

from __future__ import annotations

from postgres_writer.database.sharing import TableCircuits
from postgres_writer.deadlines import TABLE_SECONDS

A, B = frozenset({"a"}), frozenset({"b"})


def tripped(*tables: str, now: float = 100.0) -> TableCircuits:
    circuits = TableCircuits()
    for table in tables or ("a",):
        assert [circuits.timed_out(table, row, now) for row in ("one", "two")] == [False, True]
    return circuits


def test_time_outs_of_two_ids_trip_a_table_and_no_other() -> None:
    circuits = tripped()
    assert not circuits.admits(A, 100.1)
    assert not circuits.admits(A | B, 100.1), "nor a move out of it"
    assert circuits.admits(B, 100.1)


def test_time_outs_of_one_id_trip_nothing_however_many() -> None:
    circuits = TableCircuits()
    assert not any(circuits.timed_out("a", "one", float(now)) for now in range(100))
    assert circuits.admits(A, 100.0)


def test_time_outs_on_two_tables_trip_neither() -> None:
    circuits = TableCircuits()
    assert not circuits.timed_out("a", "one", 100.0)
    assert not circuits.timed_out("b", "two", 100.0)


def test_a_move_that_one_table_holds_back_does_not_use_up_the_trial_of_the_other() -> None:
    circuits = tripped("a", now=100.0)
    assert [circuits.timed_out("b", row, 103.0) for row in ("one", "two")] == [False, True]
    assert not circuits.admits(A | B, 100.0 + TABLE_SECONDS)
    assert circuits.admits(A, 100.0 + TABLE_SECONDS)


def test_a_success_lets_all_through_again_and_forgets_a_first_time_out() -> None:
    circuits = tripped()
    circuits.timed_out("b", "one", 100.0)
    assert circuits.succeeded(A | B, 100.1, wrote=True) == ["a"]
    assert all(circuits.admits(A, 100.1) for _ in range(3))
    assert circuits.succeeded(A, 100.1, wrote=True) == []
    assert not circuits.timed_out("b", "two", 100.2)


def test_a_read_forgets_no_time_out_of_a_write_but_closes_as_the_trial() -> None:
    """A lock that keeps out writes may let reads through; and what is only read must be able to close its circuit."""
    circuits = TableCircuits()
    circuits.timed_out("a", "one", 100.0)
    assert circuits.succeeded(A, 100.1, wrote=False) == []
    assert circuits.timed_out("a", "two", 100.2)
    assert circuits.succeeded(A, 100.3, wrote=False) == []
    assert not circuits.admits(A, 100.4)
    later = 100.2 + TABLE_SECONDS
    assert circuits.admits(A, later)
    assert circuits.succeeded(A, later, wrote=False) == ["a"]


def test_what_is_known_of_tables_is_bounded_and_forgotten_the_oldest_first() -> None:
    circuits = TableCircuits(most=2)
    for table in ("a", "b", "c"):
        circuits.timed_out(table, "one", 100.0)
    assert circuits.timed_out("c", "two", 100.0)
    assert not circuits.timed_out("a", "two", 100.0), "forgotten"

"""When the callers of a table fail fast: time-outs of two ids with no success between; one tries now and then."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from postgres_writer.database.tables import TableCircuits

A, B = frozenset({"a"}), frozenset({"b"})
SECONDS = 5.0


def tripped(now: float = 100.0) -> TableCircuits:
    circuits = TableCircuits(SECONDS)
    assert [circuits.timed_out("a", row, now) for row in ("one", "two")] == [False, True]
    return circuits


def test_time_outs_of_two_ids_trip_a_table_and_no_other() -> None:
    circuits = tripped()
    assert not circuits.admits(A, 100.1)
    assert not circuits.admits(A | B, 100.1), "nor a move out of it"
    assert circuits.admits(B, 100.1)


def test_time_outs_of_one_id_trip_nothing_however_many() -> None:
    circuits = TableCircuits(SECONDS)
    assert not any(circuits.timed_out("a", "one", float(now)) for now in range(100))
    assert circuits.admits(A, 100.0)


def test_a_success_between_two_time_outs_forgets_the_first() -> None:
    circuits = TableCircuits(SECONDS)
    circuits.timed_out("a", "one", 100.0)
    assert circuits.succeeded(A) == []
    assert not circuits.timed_out("a", "two", 101.0)
    assert circuits.admits(A, 101.0)


def test_time_outs_on_two_tables_trip_neither() -> None:
    circuits = TableCircuits(SECONDS)
    assert not circuits.timed_out("a", "one", 100.0)
    assert not circuits.timed_out("b", "two", 100.0)


def test_one_tries_at_a_time_and_a_failed_try_starts_the_while_again() -> None:
    circuits = tripped(100.0)
    assert [circuits.admits(A, 105.0) for _ in range(3)] == [True, False, False]
    assert not circuits.timed_out("a", "one", 108.0), "it has tripped before"
    assert not circuits.admits(A, 112.9)
    assert circuits.admits(A, 113.0)


def test_a_try_that_tells_nothing_is_followed_by_another() -> None:
    circuits = tripped(100.0)
    assert circuits.admits(A | B, 105.0)
    assert not circuits.admits(A, 109.9)
    assert circuits.admits(A, 110.0)


def test_a_success_lets_all_through_again() -> None:
    circuits = tripped()
    assert circuits.succeeded(A | B) == ["a"]
    assert [circuits.admits(A, 100.1) for _ in range(3)] == [True, True, True]
    assert circuits.succeeded(A) == []


def test_what_is_known_of_tables_is_bounded_and_forgotten_the_oldest_first() -> None:
    circuits = TableCircuits(SECONDS, most=2)
    for table in ("a", "b", "c"):
        circuits.timed_out(table, "one", 100.0)
    assert not circuits.timed_out("a", "two", 100.0), "forgotten"
    assert circuits.timed_out("c", "two", 100.0)


EVENTS = st.lists(
    st.tuples(st.sampled_from(["time-out", "success"]), st.sampled_from(["one", "two", "three"]), st.floats(0.1, 4.0))
)


@given(EVENTS)
def test_it_trips_exactly_when_two_ids_timed_out_with_no_success_between(
    events: list[tuple[str, str, float]],
) -> None:
    circuits, now = TableCircuits(SECONDS), 100.0
    timed_out: set[str] = set()
    for event, row, step in events:
        now += step
        if event == "success":
            circuits.succeeded(A)
            timed_out.clear()
        else:
            circuits.timed_out("a", row, now)
            timed_out.add(row)
        assert (len(timed_out) < 2) == all(circuits.admits(A, now) for _ in range(2))


@given(EVENTS, st.floats(0.1, 20.0))
def test_whatever_happened_one_success_or_a_while_lets_somebody_through(
    events: list[tuple[str, str, float]], later: float
) -> None:
    circuits, now = TableCircuits(SECONDS), 100.0
    for event, row, step in events:
        now += step
        if event == "success":
            circuits.succeeded(A)
        else:
            circuits.timed_out("a", row, now)
    assert circuits.admits(A, now + SECONDS)
    circuits.succeeded(A)
    assert circuits.admits(A, now + SECONDS + later)

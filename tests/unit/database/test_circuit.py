"""The circuit: fail fast for a while after failures, let one caller try, close at the first success."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postgres_writer.database.sharing import Circuit
from postgres_writer.deadlines import OUTAGE_PAUSE_SECONDS

SECONDS = 2.0
CALLERS = ("one", "two", "three")


def opened(now: float = 100.0, needed: int = 1) -> Circuit:
    circuit = Circuit(SECONDS, needed)
    assert [circuit.failed(now, caller) for caller in CALLERS[:needed]] == [False] * (needed - 1) + [True]
    return circuit


def test_a_closed_circuit_admits_everyone() -> None:
    circuit = Circuit(SECONDS)
    assert all(circuit.admits(0.0) for _ in range(3))
    assert not circuit.succeeded()


@pytest.mark.parametrize("needed", [1, 2])
def test_an_open_circuit_admits_no_one(needed: int) -> None:
    circuit = opened(100.0, needed)
    assert circuit.holds_back(101.9)
    assert not circuit.admits(101.9)


def test_only_the_first_failure_opens_and_each_starts_the_time_again() -> None:
    circuit = opened(100.0)
    assert not circuit.failed(101.5)
    assert not circuit.admits(103.0)
    assert circuit.admits(103.5)


def test_when_the_time_is_over_one_caller_tries_and_the_others_wait_on() -> None:
    circuit = opened(100.0)
    assert [circuit.admits(102.0) for _ in range(3)] == [True, False, False]
    assert circuit.admits(104.0), "the trial told nothing, and another follows"


def test_the_first_success_closes_it_for_all() -> None:
    circuit = opened(100.0)
    assert [circuit.succeeded(), circuit.succeeded()] == [True, False]
    assert [circuit.admits(100.1) for _ in range(3)] == [True] * 3
    assert circuit.failed(100.2), "it opens again"


def test_failures_that_follow_each_other_are_one_outage() -> None:
    circuit = Circuit(SECONDS)
    # as one resource finds it whose retries go round dozens of replicas
    lasted = []
    for now in (100.0, 102.0, 244.0, 388.0):
        circuit.failed(now)
        lasted.append(now - circuit.since)
    assert lasted == [0.0, 2.0, 144.0, 288.0]
    circuit.failed(388.0 + OUTAGE_PAUSE_SECONDS + 1)
    assert circuit.since == 388.0 + OUTAGE_PAUSE_SECONDS + 1, "after so long it is another one"


def test_a_success_ends_an_outage() -> None:
    circuit = opened(100.0)
    circuit.succeeded()
    circuit.failed(101.0)
    assert circuit.since == 101.0


EVENTS = st.lists(st.tuples(st.sampled_from(["failure", "success"]), st.sampled_from(CALLERS), st.floats(0.1, 1.9)))


@given(st.integers(1, 3), EVENTS)
def test_it_is_open_exactly_when_enough_different_callers_failed_with_no_success_between(
    needed: int, events: list[tuple[str, str, float]]
) -> None:
    circuit, now = Circuit(SECONDS, needed), 100.0
    failed: set[str] = set()
    for event, caller, step in events:
        now += step
        if event == "success":
            assert circuit.succeeded() == (len(failed) >= needed)
            failed.clear()
        else:
            before = len(failed)
            failed.add(caller)
            assert circuit.failed(now, caller) == (before < needed <= len(failed))
            assert circuit.holds_back(now) == (len(failed) >= needed)


@given(st.integers(1, 3), EVENTS)
def test_whatever_happened_a_while_lets_one_through_and_a_success_all(
    needed: int, events: list[tuple[str, str, float]]
) -> None:
    circuit, now = Circuit(SECONDS, needed), 100.0
    for event, caller, step in events:
        now += step
        if event == "success":
            circuit.succeeded()
        else:
            circuit.failed(now, caller)
    assert circuit.admits(now + SECONDS)
    circuit.succeeded()
    assert all(circuit.admits(now) for _ in range(3))

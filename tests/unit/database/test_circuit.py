"""The circuit: fail fast for a moment after a failure, let one caller try, close at the first answer."""

from __future__ import annotations

import threading

from postgres_writer.database.dial import Circuit
from postgres_writer.deadlines import CIRCUIT_SECONDS


def test_a_closed_circuit_admits_everybody() -> None:
    circuit = Circuit()
    assert circuit.admits(0.0, connected=False)
    assert circuit.admits(0.0, connected=True)


def test_after_a_failed_connect_only_callers_with_a_connection_are_admitted() -> None:
    circuit = Circuit()
    assert circuit.failed(100.0, hanging=False)
    assert not circuit.admits(100.1, connected=False)
    assert circuit.admits(100.1, connected=True)


def test_behind_a_hanging_server_nobody_waits() -> None:
    circuit = Circuit()
    circuit.failed(100.0, hanging=True)
    assert not circuit.admits(100.1, connected=True)
    assert not circuit.admits(100.1, connected=False)


def test_a_failed_connect_does_not_hide_that_the_server_hangs() -> None:
    circuit = Circuit()
    circuit.failed(100.0, hanging=True)
    circuit.failed(100.1, hanging=False)
    assert not circuit.admits(100.2, connected=True)


def test_only_the_first_failure_opens() -> None:
    circuit = Circuit()
    assert [circuit.failed(100.0, hanging=False), circuit.failed(100.1, hanging=False)] == [True, False]


def test_a_failure_starts_the_moment_anew() -> None:
    circuit = Circuit(seconds=2.0)
    circuit.failed(100.0, hanging=False)
    circuit.failed(101.5, hanging=False)
    assert not circuit.admits(103.0, connected=False)
    assert circuit.admits(103.5, connected=False)


def test_when_the_moment_is_over_one_caller_tries_and_the_others_wait_on() -> None:
    circuit = Circuit(seconds=2.0)
    circuit.failed(100.0, hanging=True)
    assert not circuit.admits(101.9, connected=True)
    assert [circuit.admits(102.0, connected=True) for _ in range(3)] == [True, False, False]
    assert circuit.admits(104.0, connected=True)


def test_the_first_answer_closes_it_for_all() -> None:
    circuit = Circuit()
    circuit.failed(100.0, hanging=True)
    assert [circuit.succeeded(), circuit.succeeded()] == [True, False]
    assert circuit.admits(100.1, connected=False)
    assert circuit.failed(100.2, hanging=False), "it opens again"
    assert circuit.admits(100.3, connected=True), "and no longer takes the server for a hanging one"


def test_of_many_callers_at_once_exactly_one_tries() -> None:
    circuit = Circuit()
    circuit.failed(0.0, hanging=True)
    barrier = threading.Barrier(8)
    admitted: list[bool] = []

    def call() -> None:
        barrier.wait()
        admitted.append(circuit.admits(CIRCUIT_SECONDS, connected=False))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(admitted) == [False] * 7 + [True]

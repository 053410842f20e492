"""The retry slots: bounded in rate and in memory, and one busy table's apart from all others'."""

from __future__ import annotations

import os
from collections.abc import Hashable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postgres_writer.config.settings import Config
from postgres_writer.core.plan import Outcome
from postgres_writer.core.request import load_request
from postgres_writer.core.response import RETRY_SECONDS
from postgres_writer.database.databases import Databases
from postgres_writer.errors import DatabaseBusy
from postgres_writer.server import app
from postgres_writer.server.app import RETRIES_PER_SECOND, HookServer, RetrySlots
from support.payloads import payload, resource
from support.spec_cases import spec_with

PERIOD = 300.0


def test_the_queue_of_a_locked_table_holds_up_no_other() -> None:
    slots = RetrySlots(PERIOD)
    waits = [slots.take(0.0, "locked") for _ in range(20_000)]
    assert waits[-1] is None
    assert slots.take(0.0, "healthy") == RETRY_SECONDS
    assert slots.take(0.0, (None, False)) == RETRY_SECONDS


def test_a_hundred_resources_are_tried_again_within_four_seconds() -> None:
    slots = RetrySlots(PERIOD)
    waits = [slots.take(0.0, "queue") for _ in range(100)]
    assert waits[0] == RETRY_SECONDS
    assert waits[-1] is not None
    assert waits[-1] <= 4


@settings(max_examples=100)
@given(failures=st.lists(st.floats(0, 20), min_size=1, max_size=400), period=st.floats(1, 60), start=st.floats(0, 1e7))
def test_retries_never_storm_and_come_within_the_period(failures: list[float], period: float, start: float) -> None:
    slots, taken = RetrySlots(period), [0.0]
    for now in sorted(start + after for after in failures):
        wait = slots.take(now, "queue")
        if wait is None:
            assert taken[-1] + 2 / RETRIES_PER_SECOND > now + period or period < RETRY_SECONDS
            continue
        assert RETRY_SECONDS - 1e-6 <= wait <= period + 1e-6
        taken.append(now + wait)
    gaps = [after - before for before, after in pairwise(taken[1:])]
    assert all(gap >= 1 / RETRIES_PER_SECOND - 1e-6 for gap in gaps)


def test_two_spellings_of_a_table_share_a_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSQL_HOST", "localhost")
    config = Config.from_env(os.environ)
    server, busy = HookServer(config, Databases(config, {})), Outcome((), error=DatabaseBusy("locked"))
    requests = [load_request(payload(resource(spec_with(table=table)))) for table in ("students", "public.students")]
    first, second = (server._slot(request, busy, kept=False) for request in requests)
    assert first is not None
    assert second is not None
    assert second > first + 0.5 / RETRIES_PER_SECOND


def test_what_users_wait_for_does_not_wait_for_late_resyncs() -> None:
    slots = RetrySlots(PERIOD)
    waits = [slots.take(0.0, (None, True)) for _ in range(5_000)]
    assert waits[-1] == pytest.approx(RETRY_SECONDS + 4_999 / RETRIES_PER_SECOND)
    assert slots.take(0.0, (None, False)) == RETRY_SECONDS


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from(["a", "b", None])), max_size=50))
def test_no_two_slots_of_a_queue_are_closer_than_the_rate(calls: list[tuple[float, Hashable]]) -> None:
    slots, now, taken = RetrySlots(PERIOD), 1000.0, dict[Hashable, list[float]]()
    for pause, queue in calls:
        now += pause
        wait = slots.take(now, queue)
        assert wait is not None
        assert wait >= RETRY_SECONDS - 1e-6
        taken.setdefault(queue, []).append(now + wait)
    for moments in taken.values():
        gaps = [later - earlier for earlier, later in pairwise(moments)]
        assert all(gap >= 1 / RETRIES_PER_SECOND - 1e-6 for gap in gaps)


def test_the_number_of_queues_is_bounded() -> None:
    slots = RetrySlots(PERIOD)
    for number in range(10 * app._MOST_QUEUES):
        assert slots.take(0.0, f"table_{number}") == RETRY_SECONDS
    assert len(slots._last) <= app._MOST_QUEUES
    # the past ones make room
    assert slots.take(RETRY_SECONDS + 1, "late") == RETRY_SECONDS
    assert slots.take(RETRY_SECONDS + 1, "late") == pytest.approx(RETRY_SECONDS + 1 / RETRIES_PER_SECOND)

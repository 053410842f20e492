"""Every fault at random, while users work: `make soak SECONDS=600 SEED=n` (a failure prints its seed).

Faults of a second database go on meanwhile, whose resources are others.
"""

from __future__ import annotations

import os
import random
import secrets
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from e2e.faults import FAULTS
from e2e.traffic import Traffic
from support.stack import TABLES, Stack, Variant
from support.world import NotConverged

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from e2e.report import Report

BOUND = 180.0
NAMESPACES = ("soak-a", "soak-b", "soak-c")
SECOND = "second"
OF_POSTGRES = ("PostgreSQL", "table", "commits", "password", "rows", "connections")


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_soak(stack: Stack, report: Report, tmp_path: Path) -> None:
    """Mix faults and users for SOAK_SECONDS; the seed chooses the variant, the users' actions and the faults."""
    seconds = float(os.environ.get("SOAK_SECONDS") or 600)
    seed = os.environ.get("SOAK_SEED") or secrets.token_hex(4)
    report.notes.append(f"soak: SECONDS={seconds:.0f} SEED={seed}")
    dice = random.Random(seed)
    variant = Variant(dice.choice(("composite", "decorator")), secure=dice.random() < 0.5)
    second = stack.of_another_database(tmp_path, SECOND)
    stack.install(variant, servers=2, HOOK_RESYNC_SECONDS="20", PSQL_DATABASES_DIR=str(tmp_path))
    stack.wait_for_controller()
    for namespace in (*NAMESPACES, SECOND):
        stack.client.create_namespace(namespace)
    traffic = Traffic(stack.client, stack.recorder, NAMESPACES, TABLES, seed=dice.randrange(2**32))
    happened: list[str] = []
    try:
        with troubled(second, dice.randrange(2**32), happened):
            run(stack, traffic, dice, seconds, happened)
        calls = stack.metacontroller.calls()
        # Edits while no hook server answered have doubled back-offs up to 1000 s: the runbook's way to end them.
        # test_faults.py shows that the world converges without it.
        stack.metacontroller.stop()
        stack.metacontroller.start()
        took = stack.world.converge(BOUND) + second.world.converge(BOUND)
    except Exception as error:
        raise NotConverged(f"SEED={seed} {variant}, after {' > '.join(happened)}:\n{error}") from error
    report.add(variant.kind, f"soak of {len(happened)} faults", took, calls, traffic.counts)
    stack.uninstall()


def run(stack: Stack, traffic: Traffic, dice: random.Random, seconds: float, happened: list[str]) -> None:
    """Let users work and one fault follow the other, some before the last one is got over."""
    end = time.monotonic() + seconds
    traffic.start()
    try:
        traffic.wait_until_busy()
        while time.monotonic() < end:
            fault = dice.choice(list(FAULTS))
            happened.append(fault)
            stack.recorder.mark(f"begin of: {fault}")
            FAULTS[fault](stack)
            stack.recorder.mark(f"end of: {fault}")
            time.sleep(dice.choice((0, 0, 2, 10)))
    finally:
        traffic.stop()


@contextmanager
def troubled(second: Stack, seed: int, happened: list[str]) -> Iterator[None]:
    """Let users work on the second database and faults of its PostgreSQL follow each other, for a with-block."""
    dice, over = random.Random(seed), threading.Event()
    failures: list[Exception] = []

    def trouble() -> None:
        faults = [name for name in FAULTS if name.startswith(OF_POSTGRES)]
        try:
            while not over.wait(dice.choice((0, 2, 10))):
                happened.append(f"second: {(fault := dice.choice(faults))}")
                second.recorder.mark(f"begin of: {happened[-1]}")
                FAULTS[fault](second)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=trouble, name="faults of the second database")
    traffic = Traffic(second.client, second.recorder, (SECOND,), TABLES, seed, objects=60, clients=1, database=SECOND)
    traffic.start()
    thread.start()
    try:
        traffic.wait_until_busy()
        yield
    finally:
        over.set()
        thread.join()
        traffic.stop()
    if failures:
        raise failures[0]
    assert traffic.counts["edit"] > 0

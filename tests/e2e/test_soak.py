"""Every fault at random, while users work: `make soak SECONDS=600 SEED=n` (a failure prints its seed)."""

from __future__ import annotations

import os
import random
import secrets
import time
from typing import TYPE_CHECKING

import pytest

from e2e.faults import FAULTS
from e2e.traffic import Traffic
from support.stack import TABLES, Stack, Variant
from support.world import NotConverged

if TYPE_CHECKING:
    from e2e.report import Report

BOUND = 180.0
NAMESPACES = ("soak-a", "soak-b", "soak-c")


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_soak(stack: Stack, report: Report) -> None:
    """Mix faults and users for SOAK_SECONDS; the seed chooses the variant, the users' actions and the faults."""
    seconds = float(os.environ.get("SOAK_SECONDS") or 600)
    seed = os.environ.get("SOAK_SEED") or secrets.token_hex(4)
    report.notes.append(f"soak: SECONDS={seconds:.0f} SEED={seed}")
    dice = random.Random(seed)
    variant = Variant(dice.choice(("composite", "decorator")), secure=dice.random() < 0.5)
    stack.install(variant, servers=2, HOOK_RESYNC_SECONDS="20")
    stack.wait_for_controller()
    for namespace in NAMESPACES:
        stack.client.create_namespace(namespace)
    traffic = Traffic(stack.client, stack.recorder, NAMESPACES, TABLES, seed=dice.randrange(2**32))
    happened: list[str] = []
    try:
        run(stack, traffic, dice, seconds, happened)
        calls = stack.metacontroller.calls()
        # Edits while no hook server answered have doubled back-offs up to 1000 s: the runbook's way to end them.
        # test_faults.py shows that the world converges without it.
        stack.metacontroller.stop()
        stack.metacontroller.start()
        took = stack.world.converge(BOUND)
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

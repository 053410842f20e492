"""A live install switches from one kind of controller to the other as docs/install.md says, while users go on."""

from __future__ import annotations

import subprocess
import time
from dataclasses import replace

import pytest

from support.stack import TABLES, TOP, Stack, Variant
from support.traffic import Traffic

FINALIZER = "metacontroller.io/{}controller-postgres-writer"

pytestmark = pytest.mark.timeout(300)


def test_switch_to_the_decorator_and_back_under_load(stack: Stack) -> None:
    stack.client.clear_events()
    stack.install(Variant("composite"), HOOK_RESYNC_SECONDS="20")
    stack.wait_for_controller()
    stack.client.create_namespace("switch")
    traffic = Traffic(stack.client, stack.recorder, ("switch",), TABLES, seed=3, objects=60)
    for old, new in (("composite", "decorator"), ("decorator", "composite")):
        traffic.start()
        try:
            traffic.wait_until_busy()
            switch(stack, old, new, traffic)
            traffic.wait_until_busy()
        finally:
            traffic.stop()
        stack.world.converge(60)
        assert carried(stack) == {FINALIZER.format(new)}
    stack.uninstall()


def switch(stack: Stack, old: str, new: str, traffic: Traffic) -> None:
    """Follow the section "Switch controllers" step by step."""
    stack.remove_controller(old)
    time.sleep(15)
    traffic.wait_until_busy(actions=30)
    stack.variant = replace(stack.variant, kind=new)
    stack.apply(stack.controller(stack.address))
    deadline = time.monotonic() + 60
    while complaint := handed_over(stack, old, new):
        assert time.monotonic() < deadline, f"resources still carry the finalizer of {old}: {complaint}"
        time.sleep(1)


def handed_over(stack: Stack, old: str, new: str) -> str:
    """Run the script of the guide once and return what it complains about."""
    script = [str(TOP / "k8s" / "finalizers.sh"), "handover", FINALIZER.format(old), FINALIZER.format(new)]
    done = subprocess.run(script, env=stack.api.environment(), capture_output=True, text=True, check=False)
    return done.stdout + done.stderr if done.returncode else ""


def carried(stack: Stack) -> set[str]:
    """Return every finalizer that any resource carries."""
    return {name for found in stack.client.resources() for name in found["metadata"].get("finalizers", [])}

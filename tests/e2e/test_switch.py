"""A live install switches from one kind of controller to the other as docs/switch.md says, while users go on."""

from __future__ import annotations

import subprocess
import time
from contextlib import nullcontext
from dataclasses import replace

import pytest

from e2e.traffic import Traffic
from support.api_client import resource
from support.stack import TABLES, TOP, Stack, Variant
from support.waiting import wait_until

NAME = "postgres-writer"
FINALIZER = f"metacontroller.io/{{}}controller-{NAME}"


@pytest.mark.parametrize("early", [False, True], ids=["late", "early-finalizer"])
def test_switch_to_the_decorator_and_back_under_load(stack: Stack, early: bool) -> None:
    stack.client.clear_events()
    stack.install(Variant("composite"), HOOK_RESYNC_SECONDS="20")
    stack.wait_for_controller()
    stack.client.create_namespace("switch")
    with stack.early_finalizer() if early else nullcontext():
        switch_there_and_back(stack)
    stack.uninstall()


def switch_there_and_back(stack: Stack) -> None:
    """Switch twice while users go on; in the end each resource has the finalizer of the controller that is there."""
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


@pytest.mark.parametrize("kind", ["composite", "decorator"])
def test_the_finalizers_survive_the_deletion_of_their_controller(stack: Stack, kind: str) -> None:
    """When this fails, the guide's hold has become what keeps the resources in a switch; say so in docs/switch.md."""
    stack.install(Variant(kind))
    stack.wait_for_controller()
    stack.client.create(resource("default", "survivor"))
    stack.wait_ready("default", "survivor", "True/RowSynced@1")
    stack.remove_controller(kind)
    wait_until(lambda: f"Stopped controller: {NAME}" in events(stack), "the end of the controller")
    assert carried(stack) == {FINALIZER.format(kind)}
    stack.apply(*stack.controllers(stack.address))
    stack.uninstall()


def events(stack: Stack) -> str:
    """Return the texts of all events."""
    return stack.api.kubectl("get", "events", "--all-namespaces", "-o", "jsonpath={.items[*].message}").stdout


def switch(stack: Stack, old: str, new: str, traffic: Traffic) -> None:
    """Follow the section "Switch controllers" step by step."""
    hold(stack)
    stack.remove_controller(old)
    time.sleep(15)
    traffic.wait_until_busy(actions=30)
    stack.variant = replace(stack.variant, kind=new)
    stack.apply(*stack.controllers(stack.address))
    deadline = time.monotonic() + 60
    while complaint := handed_over(stack, old, new):
        assert time.monotonic() < deadline, f"resources still carry the finalizer of {old}: {complaint}"
        time.sleep(1)


def handed_over(stack: Stack, old: str, new: str) -> str:
    """Run the commands of the guide once and return what they complain about."""
    return finalizers(stack, "handover", FINALIZER.format(old), FINALIZER.format(new)) or finalizers(
        stack, "release", FINALIZER.format(new)
    )


def hold(stack: Stack) -> None:
    """Hold all resources, in a moment in which the users of the test delete none."""
    deadline = time.monotonic() + 60
    while complaint := finalizers(stack, "hold"):
        assert time.monotonic() < deadline, complaint


def finalizers(stack: Stack, *arguments: str) -> str:
    """Run the guide's script and return what it complains about."""
    script = [str(TOP / "k8s" / "finalizers.sh"), *arguments]
    done = subprocess.run(script, env=stack.api.environment(), capture_output=True, text=True, check=False)
    return done.stdout + done.stderr if done.returncode else ""


def carried(stack: Stack) -> set[str]:
    """Return every finalizer that any resource carries."""
    return {name for found in stack.client.every() for name in found["metadata"].get("finalizers", [])}

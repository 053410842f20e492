"""What peace costs: hook calls and API writes of each operation, and of a minute in which nothing happens."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from support.api_client import resource
from support.stack import Stack, Variant, gone
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.metacontroller import HookCalls

COUNT = 20
NAMES = [f"quiet-{number}" for number in range(COUNT)]
# Requests per resource: (PUT of the object, PUT of its status). A DecoratorController follows a changed status up
# with a PUT of the object; finalizers are PUTs of the object too.
WRITES = {
    "composite": {"create": (1, 1), "edit": (0, 1), "touch": (0, 0), "delete": (1, 0)},
    "decorator": {"create": (2, 1), "edit": (1, 1), "touch": (0, 0), "delete": (1, 0)},
}
MINUTE = 60.0


@pytest.fixture(scope="class", params=["composite", "decorator"])
def quiet(stack: Stack, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Install a variant with the default resync period, on an empty cluster."""
    stack.client.clear_events()
    stack.install(Variant(request.param))
    stack.wait_for_controller()
    yield stack
    stack.uninstall()


class TestCost:
    """Each operation on twenty resources, one after the other; the cases build on each other."""

    @pytest.mark.short
    def test_each_operation_takes_one_call_and_its_writes(self, quiet: Stack) -> None:
        for operation, number in (("create", 1), ("edit", 2), ("touch", 2), ("delete", 0)):
            calls, writes = measure(quiet, operation, number)
            answered = calls.finalize if operation == "delete" else calls.sync
            assert (answered, calls.total) == (COUNT, COUNT), f"hook calls of {operation}"
            puts, status_puts = WRITES[quiet.variant.kind][operation]
            assert writes == (puts * COUNT, status_puts * COUNT), f"API writes of {operation}"
        assert quiet.client.warnings() == []


class TestMinute:
    """A minute without any change, with the default resync period of five."""

    def test_nobody_calls(self, quiet: Stack) -> None:
        measure(quiet, "create", 1)
        calls, writes = idle(quiet)
        assert (calls.total, writes) == (0, (0, 0))
        measure(quiet, "delete", 0)


class TestShortPeriod:
    """A minute without any change, with a resync period that it spans three times."""

    def test_each_is_called_once_in_a_period(self, stack: Stack) -> None:
        period = 20
        stack.install(Variant("composite"), HOOK_RESYNC_SECONDS=str(period))
        stack.wait_for_controller()
        measure(stack, "create", 1)
        time.sleep(1.5 * period)  # the first wait is up to one and a half periods long
        calls, writes = idle(stack)
        expected = COUNT * MINUTE / period
        # each of them may gain or lose one call at the ends of the minute
        assert expected - COUNT <= calls.sync <= expected + COUNT
        assert (calls.finalize, writes) == (0, (0, 0))
        assert stack.client.warnings() == []
        stack.uninstall()


class TestFailover:
    """PostgreSQL is away for some seconds while resyncs come due."""

    @pytest.mark.parametrize("kind", ["composite", "decorator"])
    def test_no_status_is_written_and_no_event_posted(self, stack: Stack, kind: str) -> None:
        stack.client.clear_events()
        stack.install(Variant(kind), HOOK_RESYNC_SECONDS="10")
        stack.wait_for_controller()
        measure(stack, "create", 1)
        calls, writes = stack.metacontroller.calls(), stack.client.writes()
        stack.postgres.stop()
        time.sleep(20)  # each resource comes due in it, and is refused more than once
        stack.postgres.start()
        time.sleep(20)  # and in this it is synced again
        made = stack.metacontroller.calls() - calls
        assert made.refused > COUNT
        assert made.sync - made.refused >= COUNT
        assert puts_since(stack, writes) == (0, 0)
        assert stack.client.warnings() == []
        stack.world.converge(10)
        stack.uninstall()


def measure(stack: Stack, operation: str, generation: int) -> tuple[HookCalls, tuple[int, int]]:
    """Do one operation on all names and return the hook calls and (PUT, PUT/status) requests that it took."""
    calls, writes = stack.metacontroller.calls(), stack.client.writes()
    for number, name in enumerate(NAMES):
        if operation == "create":
            stack.client.create(resource("default", name))
        elif operation == "edit":
            stack.client.edit("default", name, age=number)
        elif operation == "touch":
            stack.client.merge("default", name, {"metadata": {"annotations": {"touched": str(calls.total)}}})
        else:
            stack.client.delete("default", name)
    for name in NAMES:
        if operation == "delete":
            wait_until(lambda name=name: gone(stack.client, "default", name), f"{name} is gone")  # type: ignore[misc]
        else:
            stack.wait_ready("default", name, f"True/RowSynced@{generation}")
    time.sleep(1)  # a call too many would come now
    stack.world.converge(10)
    return stack.metacontroller.calls() - calls, puts_since(stack, writes)


def idle(stack: Stack) -> tuple[HookCalls, tuple[int, int]]:
    """Let a minute pass and return the hook calls and (PUT, PUT/status) requests in it."""
    calls, writes = stack.metacontroller.calls(), stack.client.writes()
    time.sleep(MINUTE)
    return stack.metacontroller.calls() - calls, puts_since(stack, writes)


def puts_since(stack: Stack, before: dict[str, int]) -> tuple[int, int]:
    now = stack.client.writes()
    return now["PUT"] - before["PUT"], now["PUT/status"] - before["PUT/status"]

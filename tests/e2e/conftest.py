"""Fixtures of the tests that need the real Metacontroller: one stack for the session, a variant, a namespace.

What the stack needs beside the binary is built or found by the fixtures of tests/cluster.
"""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from e2e.report import Report
from postgres_writer.core.row import KINDS
from support.kube_tools import find_tools
from support.metacontroller import SKIP_REASON, find_binary
from support.programs import found_or_skipped
from support.stack import Stack, Variant

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIANTS = [
    Variant(kind, version, secure)
    for kind in ("composite", "decorator")
    for version in ("v2", "v1")
    for secure in (True, False)
]
SHORT_VARIANTS = (Variant("composite", "v2", True), Variant("decorator", "v1", False))
SHORT_FAULTS = ("PostgreSQL killed, back after 5 s", "worker stopped 20 s in mid-request")
_REPORT = pytest.StashKey[Report]()
_numbers = count(1)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark of the selection that CI runs, and begin the table of figures."""
    config.stash[_REPORT] = Report()
    config.addinivalue_line("markers", "soak: faults at random for SOAK_SECONDS (make soak)")
    config.addinivalue_line("markers", "short: in the selection for every change (make e2e TESTS='tests/e2e -m short')")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the selection that CI runs: the cells and faults that between them touch everything once.

    Without the binary one test is left, whose skip says how to get them all to run.
    """
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    if ours and find_binary() is None:
        ours[0].add_marker(pytest.mark.skip(SKIP_REASON))
        config.hook.pytest_deselected(items=ours[1:])
        items[:] = [item for item in items if item not in ours[1:]]
    for item in ours:
        parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        cell = parameters.get("installed") in SHORT_VARIANTS
        fault = parameters.get("loaded") == "composite" and parameters.get("fault") in SHORT_FAULTS
        if cell or fault:
            item.add_marker(pytest.mark.short)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table of faults."""
    for line in config.stash[_REPORT].render():
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> Report:
    """Give the table to which cases add their figures."""
    return request.config.stash[_REPORT]


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, report: Report) -> Iterator[Stack]:
    """Start everything but hook servers and controller; skip where there is no API server."""
    binary = find_binary()
    assert binary is not None, SKIP_REASON
    tools = found_or_skipped(find_tools)
    running = Stack(tmp_path_factory.mktemp("stack"), tools, binary)
    try:
        running.start()
        yield running
    finally:
        if running.recorder.vanished:
            report.notes.append(f"{len(running.recorder.vanished)} resources vanished in spite of their finalizer")
        running.stop()
        _keep_logs(running.folder)


@pytest.fixture(scope="module", params=VARIANTS, ids=str)
def installed(stack: Stack, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Install one variant after the other and take it away again."""
    stack.client.clear_events()
    stack.install(request.param)
    stack.wait_for_controller()
    yield stack
    stack.uninstall()


@pytest.fixture
def namespace(installed: Stack) -> Iterator[str]:
    """Make a namespace of the test's own, and leave neither resources nor rows of it behind."""
    name = f"case-{next(_numbers)}"
    installed.client.create_namespace(name)
    yield name
    for kind in KINDS.values():
        installed.api.kubectl("delete", kind.plural, "--all", f"--namespace={name}", "--timeout=60s")
    installed.forget_rows(name)


def _keep_logs(folder: Path) -> None:
    """Copy the logs to where E2E_LOGS says, for anyone who has to find out why a run failed."""
    kept = os.environ.get("E2E_LOGS")
    for log in folder.rglob("*.log") if kept else ():
        (Path(kept or "") / log.name).write_bytes(log.read_bytes())

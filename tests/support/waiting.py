"""Waiting for what another process is about to do, without a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil


def wait_until(condition: Callable[[], object], what: str | Callable[[], str], timeout: float = 60.0) -> None:
    """Wait until a condition holds; ``what`` says so in words, or as they are at the end.

    Raises AssertionError when it does not hold in time. The time is for what hangs: a busy machine needs a part of it.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:.0f} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Say whether a process exists and has not ended (a zombie has)."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

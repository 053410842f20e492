"""Fail fast for a while when PostgreSQL or one table does not answer, so that callers do not queue up behind it."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from postgres_writer.deadlines import CIRCUIT_SECONDS, TABLE_SECONDS


class Circuit:
    """One for all threads of a process; times are of the monotonic clock, in seconds."""

    def __init__(self, seconds: float = CIRCUIT_SECONDS) -> None:
        self._seconds = seconds
        self._until = 0.0
        self._hanging = False
        self._lock = threading.Lock()

    def admits(self, now: float, connected: bool) -> bool:
        """Say whether a caller may ask the database now.

        A caller with a live connection is held back only when the server hangs. When the time is over, one caller is
        let through to try; the others are held back for the same time again.
        """
        # without the lock, for which every statement would queue: an outdated value costs one call, not correctness
        if not self._until or (connected and not self._hanging):
            return True
        with self._lock:
            if not self._until:
                return True
            if now < self._until:
                return False
            # before the outcome of this trial is known, so that the others do not hang beside it
            self._until = now + self._seconds
            return True

    def failed(self, now: float, hanging: bool) -> bool:
        """Open: a connect failed, or (``hanging``) a connected server does not answer. True when it was closed."""
        with self._lock:
            opened = not self._until
            self._until = now + self._seconds
            # kept until an answer: a connect that fails says nothing of the statements that still hang
            self._hanging = self._hanging or hanging
            return opened

    def succeeded(self) -> bool:
        """Close: the server has answered. True when it was open."""
        if not self._until:
            return False
        with self._lock:
            closed = bool(self._until)
            self._until, self._hanging = 0.0, False
            return closed


@dataclass(slots=True)
class _Trouble:
    """What is known of a table since its last success: the id that timed out on it first; until when to fail fast."""

    row: str
    until: float | None = None


class TableCircuits:
    """The tables that keep their statements waiting until they time out. Pure: no lock, the time is an argument.

    A table trips when statements of two different ids timed out on it with no success between: one locked row, or one
    row with a slow trigger, is not the table's trouble. Nothing is kept of a table that works, and never more than
    ``most`` tables in all: one that is forgotten trips again.
    """

    def __init__(self, seconds: float = TABLE_SECONDS, most: int = 256) -> None:
        self._seconds = seconds
        self._most = most
        self._troubles: dict[str, _Trouble] = {}

    def admits(self, tables: frozenset[str], now: float) -> bool:
        """Say whether a message that names these tables may be sent; of a tripped table, one at a time as a trial."""
        if not self._troubles:
            return True
        tripped = [self._troubles[table] for table in tables if self._is_open(table)]
        if any(now < trouble.until for trouble in tripped if trouble.until is not None):
            return False
        # only when all tables agree: a move that is held back by one must not use up the trial of the other
        for trouble in tripped:
            trouble.until = now + self._seconds
        return True

    def timed_out(self, table: str, row: str, now: float) -> bool:
        """Note that a statement of that id timed out on the table. True when the table has tripped now."""
        trouble = self._troubles.get(table)
        if trouble is None:
            if len(self._troubles) >= self._most:
                # the one that was noted first
                del self._troubles[next(iter(self._troubles))]
            self._troubles[table] = _Trouble(row)
            return False
        if trouble.until is None and trouble.row == row:
            # the same row again proves nothing about the table
            return False
        # a trial that timed out, too, holds its table back for another while
        tripped = trouble.until is None
        trouble.until = now + self._seconds
        return tripped

    def succeeded(self, tables: frozenset[str]) -> list[str]:
        """Note that a message went through; gives those of its tables that had tripped."""
        if not self._troubles:
            return []
        closed = [table for table in tables if self._is_open(table)]
        for table in tables:
            self._troubles.pop(table, None)
        return closed

    def _is_open(self, table: str) -> bool:
        trouble = self._troubles.get(table)
        return trouble is not None and trouble.until is not None

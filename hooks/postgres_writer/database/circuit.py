"""Fail fast for a moment after PostgreSQL could not be reached, so that callers do not pile up behind it."""

from __future__ import annotations

import threading

from postgres_writer.deadlines import CIRCUIT_SECONDS


class Circuit:
    """One for all threads of a process; times are of the monotonic clock, in seconds."""

    def __init__(self, seconds: float = CIRCUIT_SECONDS) -> None:
        self._seconds = seconds
        self._until = 0.0
        self._hanging = False
        self._lock = threading.Lock()

    def admits(self, now: float, connected: bool) -> bool:
        """Say whether a caller may ask the database now.

        A caller with a live connection is held back only when the server hangs. When the time is over one caller is
        let through to try, the others wait for another while.
        """
        if not self._until or (connected and not self._hanging):
            return True
        with self._lock:
            if not self._until:
                return True
            if now < self._until:
                return False
            self._until = now + self._seconds
            return True

    def failed(self, now: float, hanging: bool) -> bool:
        """Open: a connect failed, or (``hanging``) a connected server does not answer. True when it was closed."""
        with self._lock:
            opened = not self._until
            self._until = now + self._seconds
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

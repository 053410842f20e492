"""The retry slots of one worker: soft state, as the circuit is. If it is lost, some retries come at the same time."""

from __future__ import annotations

import threading

from postgres_writer.core.response import next_retry


class RetrySlots:
    """One for all requests of a process; times are of the monotonic clock, in seconds."""

    def __init__(self, period: float) -> None:
        self._period = period
        self._last = 0.0
        self._lock = threading.Lock()

    def take(self, now: float) -> float | None:
        """Take the next slot; give the seconds until it comes, or None when the resync period has no more."""
        with self._lock:
            slot = next_retry(self._last, now, self._period)
            if slot is None:
                return None
            self._last = slot
            return slot - now

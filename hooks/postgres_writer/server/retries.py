"""When a worker's failures are tried again, and since when PostgreSQL is away: soft state, as the circuit is.

If it is lost, some retries come at the same time, and a resource's status may say a little later what is wrong.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable

from postgres_writer.core.response import OUTAGE_SECONDS, next_retry

_MOST_QUEUES = 256
_PAUSE_SECONDS = 10 * OUTAGE_SECONDS
"""After so long with neither a failure nor a success a worker knows nothing of an earlier outage: far longer than the
retries of a single resource take to go round dozens of workers."""


class RetrySlots:
    """One for all requests of a process; times are of the monotonic clock, in seconds.

    Slots are handed out in queues, so that the thousands of one do not hold up the few of another.
    """

    def __init__(self, period: float) -> None:
        self._period = period
        self._last: dict[Hashable, float] = {}
        self._lock = threading.Lock()

    def take(self, now: float, queue: Hashable) -> float | None:
        """Take the next slot of a queue; give the seconds until it comes, or None when the period has no more."""
        with self._lock:
            slot = next_retry(self._last.get(queue, 0.0), now, self._period)
            if slot is None:
                return None
            if queue not in self._last and len(self._last) >= _MOST_QUEUES:
                # a queue whose last slot has passed says nothing any more
                self._last = {name: last for name, last in self._last.items() if last > now}
            if queue in self._last or len(self._last) < _MOST_QUEUES:
                self._last[queue] = slot
            return slot - now


class Outage:
    """Since when PostgreSQL has been away, as far as this worker has noticed; times are of the monotonic clock."""

    def __init__(self) -> None:
        self._since = self._last = float("-inf")
        self._lock = threading.Lock()

    def note_failure(self, now: float) -> float:
        """Give how many seconds ago this outage began.

        Every failure is tried again within seconds, so the first one after a long pause is of another outage.
        """
        with self._lock:
            if now - self._last > _PAUSE_SECONDS:
                self._since = now
            self._last = now
            return now - self._since

    def note_success(self) -> None:
        """Let the next failure be the first of another outage."""
        self._last = float("-inf")

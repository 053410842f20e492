"""When a worker's failures are tried again: soft state, without locks, for greenlets take turns where they wait."""

from __future__ import annotations

from collections.abc import Hashable

from postgres_writer.core.response import RETRIES_PER_SECOND, RETRY_SECONDS

_MOST_QUEUES = 256


class RetrySlots:
    """One for all requests of a process; times are of the monotonic clock, in seconds.

    Slots are handed out in queues, so that the thousands of one do not hold up the few of another. Those of a queue
    follow each other at RETRIES_PER_SECOND, the first RETRY_SECONDS from now. So a few resources are tried again soon
    after PostgreSQL is back, and many come one after the other.
    """

    def __init__(self, period: float) -> None:
        self._period = period
        self._last: dict[Hashable, float] = {}

    def take(self, now: float, queue: Hashable) -> float | None:
        """Take the next slot of a queue; give the seconds until it comes, or None when the period has no more."""
        slot = max(self._last.get(queue, 0.0) + 1 / RETRIES_PER_SECOND, now + RETRY_SECONDS)
        if slot > now + self._period:
            return None
        if queue not in self._last and len(self._last) >= _MOST_QUEUES:
            # a queue whose last slot has passed says nothing any more
            self._last = {name: last for name, last in self._last.items() if last > now}
        if queue in self._last or len(self._last) < _MOST_QUEUES:
            self._last[queue] = slot
        return slot - now

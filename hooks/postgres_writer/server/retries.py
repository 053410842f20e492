"""When a worker's failures are tried again, and since when PostgreSQL is away: soft state, as the circuit is.

If it is lost, some retries come at the same time, and a resource's status may say a little later what is wrong.
"""

from __future__ import annotations

import threading

from postgres_writer.core.response import OUTAGE_SECONDS, next_retry

_MOST_QUEUES = 256


class RetrySlots:
    """One for all requests of a process; times are of the monotonic clock, in seconds.

    Slots are handed out in queues: one for all that wait for PostgreSQL, and one for each table that is busy, so that
    the thousands of a locked table do not hold up the few of another.
    """

    def __init__(self, period: float) -> None:
        self._period = period
        self._last: dict[str, float] = {}
        self._lock = threading.Lock()

    def take(self, now: float, table: str = "") -> float | None:
        """Take the next slot of a table's queue, or of PostgreSQL's ("").

        Gives the seconds until it comes, or None when the resync period has no more.
        """
        with self._lock:
            slot = next_retry(self._last.get(table, 0.0), now, self._period)
            if slot is None:
                return None
            if table not in self._last and len(self._last) >= _MOST_QUEUES:
                # a queue whose last slot has passed says nothing any more
                self._last = {name: last for name, last in self._last.items() if last > now}
            if table in self._last or len(self._last) < _MOST_QUEUES:
                self._last[table] = slot
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
            if now - self._last > OUTAGE_SECONDS:
                self._since = now
            self._last = now
            return now - self._since

    def note_success(self) -> None:
        """Let the next failure be the first of another outage."""
        self._last = float("-inf")

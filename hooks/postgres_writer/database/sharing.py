"""How messages share what is scarce: who gets the next connection, and who fails fast instead of waiting in vain.

It knows neither connections nor statements. Of the circuits nothing is locked and the time is an argument (monotonic
seconds): the pool locks its own, and of the server's an outdated value costs a call, not correctness.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from postgres_writer.deadlines import LEAST_LOCK_SECONDS, LOADED_LOCK_SECONDS, OUTAGE_PAUSE_SECONDS, TABLE_SECONDS

Tables = frozenset[str]


@dataclass(eq=False)
class Waiter:
    """A message that waits for a connection. Once ``answered`` it has been ``granted`` one, or is refused."""

    number: int
    answered: threading.Event = field(default_factory=threading.Event)
    granted: bool = False


class Queue:
    """A bounded number of connections, and the messages that wait for one, each with the tables that it names.

    The last free connection is only lent to a message none of whose tables holds one (of one or two connections none
    can be spared). Those that may have one are served in the order in which they came, and none overtakes an older one
    that shares a table with it: else a move, which needs two, would wait for as long as either is busy.

    ``make_room`` is tried before a message waits, as long as it is true.
    """

    def __init__(self, size: int, make_room: Callable[[], bool] = lambda: False) -> None:
        self._size = self._free = size
        self._make_room, self._lock = make_room, threading.Lock()
        self._held: Counter[str] = Counter()
        self._waiting: dict[Tables, deque[Waiter]] = {}
        self._numbers = count()

    def lock_seconds(self, tables: Tables) -> float:
        """Give how many seconds a message that was lent a connection may wait for a lock.

        Any while half of them are free, but never for a move, which keeps its other tables from their callers. The more
        wait for a connection, the fewer, so that all locked rows of a batch take their turns.
        """
        if 2 * self._free >= self._size and len(tables) <= 1:
            return math.inf
        share = self._size / max(self._size, sum(map(len, self._waiting.values())))
        return max(LEAST_LOCK_SECONDS, LOADED_LOCK_SECONDS * share)

    def take(self, tables: Tables, until: float) -> str:
        """Take a connection, or wait for one until ``until`` (monotonic seconds).

        Gives how a wait ended: lent, refused or expired; an empty text where none was needed.
        """
        waiter = self.ask(tables)
        if waiter is None:
            return ""
        in_time = None
        try:
            while not waiter.answered.is_set() and self._make_room():
                pass
            in_time = waiter.answered.wait(max(0.0, until - time.monotonic()))
        finally:
            granted = self.leave(tables, waiter)
            if granted and in_time is None:
                # interrupted in the very moment in which it was granted a connection, which would be lost with it
                self.give_back(tables)
        return "lent" if granted else "refused" if in_time else "expired"

    def ask(self, tables: Tables) -> Waiter | None:
        """Take a connection (None), or where there is none for these tables a place in the queue."""
        with self._lock:
            if not self._waiting and self._may_hold_one(tables):
                self._hold_one(tables)
                return None
            waiter = Waiter(next(self._numbers))
            self._waiting.setdefault(tables, deque()).append(waiter)
            self._serve()
        return None if waiter.granted else waiter

    def give_back(self, tables: Tables) -> None:
        """Note that a message of these tables needs its connection no more."""
        with self._lock:
            self._free += 1
            self._held.subtract(tables)
            self._held = +self._held
            self._serve()

    def leave(self, tables: Tables, waiter: Waiter) -> bool:
        """Note that a message waits no more; True when it was granted a connection, which it still has."""
        with self._lock:
            if not waiter.answered.is_set():
                self._remove(tables, waiter)
                # it may have been in the way of a younger one
                self._serve()
        return waiter.granted

    def refuse(self, table: str) -> None:
        """Refuse all that wait and name this table."""
        # every message that ends its turn asks
        if not self._waiting:
            return
        with self._lock:
            for tables in [tables for tables in self._waiting if table in tables]:
                for waiter in self._waiting.pop(tables):
                    waiter.answered.set()
            self._serve()

    def is_owed(self, tables: Tables) -> bool:
        """Say whether others wait, and hold none, or clearly fewer than these do."""
        if not self._waiting:
            return False
        with self._lock:
            mine = max(self._held[table] for table in tables)
            others = [self._held[table] for waiting in self._waiting if waiting != tables for table in waiting]
        return any(not held or held + 1 < mine for held in others)

    def _serve(self) -> None:
        while (tables := self._next()) is not None:
            waiter = self._waiting[tables][0]
            self._remove(tables, waiter)
            self._hold_one(tables)
            waiter.granted = True
            waiter.answered.set()

    def _next(self) -> Tables | None:
        """Give the tables whose oldest waiter is to be served now; all with the same tables are in one queue."""
        older: set[str] = set()
        for tables in sorted(self._waiting, key=lambda each: self._waiting[each][0].number) if self._free else ():
            if older.isdisjoint(tables) and self._may_hold_one(tables):
                return tables
            older |= tables
        return None

    def _may_hold_one(self, tables: Tables) -> bool:
        # of those that hold a connection none gets the last free one
        is_last = self._free == 1 and self._size > 2  # noqa: PLR2004 - see the class
        return self._free > 0 and not (is_last and any(table in self._held for table in tables))

    def _hold_one(self, tables: Tables) -> None:
        self._free -= 1
        self._held.update(tables)

    def _remove(self, tables: Tables, waiter: Waiter) -> None:
        self._waiting[tables].remove(waiter)
        if not self._waiting[tables]:
            del self._waiting[tables]


class Circuit:
    """Fail fast for a while, so that callers do not queue up behind what does not answer.

    It opens when ``needed`` different callers have failed with no success between. ``seconds`` later one is let through
    to try, and another as long after that; the first success closes it. Soft state: correctness never depends on it.
    """

    def __init__(self, seconds: float, needed: int = 1) -> None:
        self.cause, self.since = "", -math.inf
        """Why the last one failed, for those that are held back; when the first of the failures was."""
        self._seconds, self._needed = seconds, needed
        self._failed: set[str] = set()
        self._until, self._last = 0.0, -math.inf

    def holds_back(self, now: float) -> bool:
        """Say whether no caller is let through now."""
        return now < self._until

    def admits(self, now: float) -> bool:
        """Say whether a caller may ask now; where the circuit is open, and its time over, this one is the trial."""
        if now < self._until:
            return False
        if self._until:
            # before the outcome of this trial is known, so that the others do not hang beside it
            self._until = now + self._seconds
        return True

    def failed(self, now: float, caller: str = "") -> bool:
        """Note a failure; True when it opens the circuit. A failed trial lets it stay open for another while."""
        # every failure is tried again within seconds: after a pause this one is of another outage
        if now - self._last > OUTAGE_PAUSE_SECONDS:
            self.since = now
        self._last = now
        if not self._until:
            self._failed.add(caller)
            if len(self._failed) < self._needed:
                return False
        opened, self._until = not self._until, now + self._seconds
        return opened

    def succeeded(self) -> bool:
        """Close and forget; True when it was open."""
        was_open, self._until, self._last = bool(self._until), 0.0, -math.inf
        self._failed.clear()
        return was_open

    def is_quiet(self, now: float) -> bool:
        """Say whether nothing has failed for as long as the circuit stays open."""
        return now - self._last >= self._seconds


class TableCircuits:
    """The circuits of at most ``most`` tables that fail: two ids must time out, as one locked row says too little."""

    def __init__(self, most: int = 256) -> None:
        self._most = most
        self._known: dict[str, Circuit] = {}

    def admits(self, tables: Tables, now: float) -> bool:
        """Say whether a message that names these tables may be sent."""
        known = [self._known[table] for table in tables if table in self._known]
        # only when all agree: a move that is held back by one table must not use up the trial of the other
        return not any(circuit.holds_back(now) for circuit in known) and all(each.admits(now) for each in known)

    def timed_out(self, table: str, row_id: str, now: float) -> bool:
        """Note that a statement of that id timed out on the table. True when the table has tripped now."""
        if table not in self._known and len(self._known) >= self._most:
            # the one that was noted first
            del self._known[next(iter(self._known))]
        return self._known.setdefault(table, Circuit(TABLE_SECONDS, needed=2)).failed(now, row_id)

    def succeeded(self, tables: Tables, now: float, *, wrote: bool) -> list[str]:
        """Note that a message went through; gives those of its tables that had tripped."""
        # a lock may keep out writes and let reads through: a read only proves something if no write fails meanwhile
        well = [table for table in tables if table in self._known and (wrote or self._known[table].is_quiet(now))]
        return [table for table in well if self._known.pop(table).succeeded()]

"""What a worker knows of each table: how many connections it has, and whether its statements time out.

Pure: no lock, the time is an argument.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from postgres_writer.deadlines import ALONE_SECONDS, TABLE_SECONDS

Tables = frozenset[str]


class Shares:
    """The connections that are lent, by the tables that their messages name.

    A message needs one connection and a share of each of its tables, all together. One connection is always left to
    the other tables, and moves, which hold a share of two tables or more, leave one more: those that wait on a locked
    source must not keep plain writes from a healthy target. A table that is alone may have all connections.
    """

    def __init__(self, size: int) -> None:
        self.lent = 0
        self._size = size
        self._held: defaultdict[str, int] = defaultdict(int)
        self._newest: tuple[str, float] | None = None
        self._other: tuple[str, float] | None = None
        """The two tables that were named last, and when: all that has to be known to know whether one is alone."""

    def name(self, tables: Tables, now: float) -> None:
        """Note that a message names these tables."""
        for table in tables:
            if self._newest is not None and self._newest[0] != table:
                self._other = self._newest
            self._newest = table, now

    def admits(self, tables: Tables, now: float) -> bool:
        """Say whether a message that names these tables may have a connection now."""
        if self.lent >= self._size:
            return False
        most = self._most(tables, now)
        # get(), because a defaultdict would keep an entry for each table that was ever asked for
        return all(self._held.get(table, 0) < most for table in tables)

    def take(self, tables: Tables) -> None:
        """Lend a connection to a message of these tables."""
        self.lent += 1
        for table in tables:
            self._held[table] += 1

    def give_back(self, tables: Tables) -> None:
        """Note that a message of these tables has returned its connection."""
        self.lent -= 1
        for table in tables:
            self._held[table] -= 1
            if not self._held[table]:
                del self._held[table]

    def weight(self, tables: Tables) -> int:
        """Give how much these tables hold already: of those that wait, the lightest comes first."""
        return max((self._held.get(table, 0) for table in tables), default=0)

    def holder_of_all(self) -> str | None:
        """Give the table that holds every connection, if there is one: it was alone when it took them."""
        return next((table for table, held in self._held.items() if held >= self._size), None)

    def _most(self, tables: Tables, now: float) -> int:
        """Give how many connections a table may hold for one more message to be admitted."""
        if self._other is None or now - self._other[1] > ALONE_SECONDS:
            return self._size
        # at least one: with one or two connections a message could otherwise never be sent
        return max(1, self._size - (1 if len(tables) <= 1 else 2))


@dataclass(slots=True)
class _Trouble:
    """What is known of a table since its last success: the first id that timed out; until when to fail fast, or 0."""

    row: str
    until: float = 0.0


class TableCircuits:
    """The tables whose callers fail fast for a while, because statements time out.

    A table trips when statements of two different ids timed out on it with no success between: one locked row, or one
    row with a slow trigger, is not the table's trouble. Nothing is kept of a table that works, and never more than
    ``most`` tables in all: one that is forgotten trips again.
    """

    def __init__(self, seconds: float = TABLE_SECONDS, most: int = 256) -> None:
        self._seconds = seconds
        self._most = most
        self._troubles: dict[str, _Trouble] = {}

    def admits(self, tables: Tables, now: float) -> bool:
        """Say whether a message that names these tables may be sent; of a tripped table, one at a time as a trial."""
        if not self._troubles:
            return True
        known = [self._troubles[table] for table in tables if table in self._troubles]
        tripped = [trouble for trouble in known if trouble.until]
        if any(now < trouble.until for trouble in tripped):
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
        if not trouble.until and trouble.row == row:
            # the same row again proves nothing about the table
            return False
        # a trial that timed out, too, holds its table back for another while
        tripped = not trouble.until
        trouble.until = now + self._seconds
        return tripped

    def succeeded(self, tables: Tables) -> list[str]:
        """Note that a message went through; gives those of its tables that had tripped."""
        if not self._troubles:
            return []
        known = {table: self._troubles.pop(table) for table in tables if table in self._troubles}
        return [table for table, trouble in known.items() if trouble.until]

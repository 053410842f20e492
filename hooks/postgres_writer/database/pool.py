"""The connections of one worker process: a bounded number, shared out among the tables, closed when they are not used.

Built from the primitives of `threading`, so that it serves threads and, where gevent has patched them, greenlets.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from postgres_writer.core.refusals import Refused
from postgres_writer.database.session import BUSY, EXPIRED, Session, is_table_timeout
from postgres_writer.database.statements import Message
from postgres_writer.database.tables import Shares, TableCircuits, Tables
from postgres_writer.deadlines import PATIENCE_SECONDS
from postgres_writer.errors import DatabaseBusy, RequestExpired, ResourceError
from postgres_writer.telemetry import metrics
from postgres_writer.telemetry.logs import fields

logger = logging.getLogger(__name__)

_SOUND = (ResourceError, Refused)
"""After these a session has ended its statement; any other exception may have come in the middle of one."""


class _Waiter:
    """A message that waits for a session; ``refused`` when its table tripped meanwhile."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.session: Session | None = None
        self.refused = False
        self.answered = threading.Event()


class Pool:
    """Lends sessions, each to one message at a time.

    ``make`` gives a new session (which connects when it is first used), ``size`` is the largest number of sessions,
    ``idle_seconds`` after its last use a connection is closed. Replaced rather than tried: a connection that a balancer
    has dropped answers nothing, so a try would have to wait for a timeout, and a new one takes milliseconds.
    """

    def __init__(self, make: Callable[[], Session], size: int, idle_seconds: float) -> None:
        self._make = make
        self._idle_seconds = idle_seconds
        self._shares = Shares(size)
        self._circuits = TableCircuits()
        self._lent: dict[Session, float] = {}
        """The sessions that are lent, and since when."""
        self._idle: deque[Session] = deque()
        self._waiting: dict[Tables, deque[_Waiter]] = {}
        self._reaping = False
        self._lock = threading.Lock()
        self._emptied = threading.Condition(self._lock)

    @contextmanager
    def lend(self, statement: Message, row: str, until: float) -> Iterator[Session]:
        """Lend a session to a message about one id; wait for one until ``until`` (monotonic seconds).

        Success or failure of the message is noted for its tables. Raises RequestExpired when there was no session in
        time, and DatabaseBusy at once when one of the tables keeps its statements waiting until they time out.
        """
        tables = statement.tables
        session = self._take(tables, until)
        try:
            yield session
        except _SOUND as exc:
            self._note_failure(statement, row, exc)
            raise
        except BaseException:
            session.close()
            raise
        else:
            self._note_success(statement)
        finally:
            self._give_back(session, tables)

    def close(self) -> None:
        """Close all connections that are not lent."""
        with self._lock:
            idle, self._idle = self._idle, deque()
            self._emptied.notify_all()
        for session in idle:
            session.close()

    # What a message needs

    def _take(self, tables: Tables, until: float) -> Session:
        now = time.monotonic()
        with self._lock:
            if not self._circuits.admits(tables, now):
                metrics.TABLE_CIRCUIT.labels("refused").inc()
                raise DatabaseBusy(BUSY)
            self._shares.name(tables, now)
            session = self._pick(tables, now) if self._shares.admits(tables, now) else None
            if session is None:
                waiter = _Waiter(now)
                self._waiting.setdefault(tables, deque()).append(waiter)
        if session is None:
            session = self._wait(tables, waiter, until)
        if time.monotonic() - session.idle_since > self._idle_seconds:
            # it is the youngest of them, and the reaper is late
            session.close()
        return session

    def _wait(self, tables: Tables, waiter: _Waiter, until: float) -> Session:
        try:
            while (remaining := until - time.monotonic()) > 0:
                if waiter.answered.wait(min(PATIENCE_SECONDS, remaining)):
                    break
                self._interrupt_holder_of_all(tables)
        except BaseException:
            # the waiter may have been given a session at this very moment, which would be lost with it
            session = self._leave_queue(tables, waiter)
            if session is not None:
                self._give_back(session, tables)
            raise
        session = self._leave_queue(tables, waiter)
        result = "refused" if waiter.refused else "expired" if session is None else "lent"
        metrics.CONNECTION_WAITS.labels(result).inc()
        if waiter.refused:
            raise DatabaseBusy(BUSY)
        if session is None:
            raise RequestExpired(EXPIRED)
        return session

    def _leave_queue(self, tables: Tables, waiter: _Waiter) -> Session | None:
        """Take a waiter from its queue if it is still in it; gives the session that it got."""
        with self._lock:
            if waiter.session is None and not waiter.refused:
                self._waiting[tables].remove(waiter)
                if not self._waiting[tables]:
                    del self._waiting[tables]
            return waiter.session

    def _interrupt_holder_of_all(self, tables: Tables) -> None:
        """Take a connection from a table that holds all of them, since it was alone when it took them.

        Healthy statements end, and so give their connections back, long before anyone's patience does.
        """
        with self._lock:
            holder = self._shares.holder_of_all()
            if holder is None or holder in tables:
                return
            # lent the longest, and so the least likely to end without help
            session = min(self._lent, key=self._lent.__getitem__)
            if time.monotonic() - self._lent[session] >= PATIENCE_SECONDS and session.interrupt():
                metrics.CONNECTION_WAITS.labels("interrupted").inc()

    # Sessions; with the lock held

    def _pick(self, tables: Tables, now: float) -> Session:
        """Lend the session that was used last: the others get the chance to be idle for long enough to be closed."""
        self._shares.take(tables)
        session = self._idle.pop() if self._idle else self._make()
        self._lent[session] = now
        return session

    def _give_back(self, session: Session, tables: Tables) -> None:
        now = time.monotonic()
        if not session.is_worth_keeping(now):
            # outside of the lock, because closing a connection talks to the network
            session.close()
        with self._lock:
            self._shares.give_back(tables)
            del self._lent[session]
            if session.is_connected:
                session.idle_since = now
                self._idle.append(session)
            self._serve_waiters(now)
            if self._idle and not self._reaping:
                # started with the first idle connection, since a process that forks must have no other thread
                self._reaping = True
                threading.Thread(target=self._reap, name="idle connections", daemon=True).start()

    def _serve_waiters(self, now: float) -> None:
        """Lend what is free to those that wait: first whose tables hold the fewest connections, then who came first."""
        while self._waiting:
            admitted = [tables for tables in self._waiting if self._shares.admits(tables, now)]
            if not admitted:
                return
            tables = min(admitted, key=lambda each: (self._shares.weight(each), self._waiting[each][0].since))
            waiter = self._waiting[tables].popleft()
            if not self._waiting[tables]:
                del self._waiting[tables]
            waiter.session = self._pick(tables, now)
            waiter.answered.set()

    def _reap(self) -> None:
        """Close what has been idle for too long, until nothing is idle any more."""
        while True:
            with self._lock:
                if not self._idle:
                    self._reaping = False
                    return
                wait = self._idle[0].idle_since + self._idle_seconds - time.monotonic()
                if wait > 0:
                    self._emptied.wait(wait)
                    continue
                session = self._idle.popleft()
            session.close()

    # What the end of a message says about its tables

    def _note_success(self, statement: Message) -> None:
        if not statement.writes:
            # a table lock may block writes and let reads through, so a read proves nothing
            return
        with self._lock:
            closed = self._circuits.succeeded(statement.tables)
        for table in closed:
            metrics.TABLE_CIRCUIT.labels("closed").inc()
            logger.info("The table is no longer locked or slow", extra=fields(table=table))

    def _note_failure(self, statement: Message, row: str, exc: Exception) -> None:
        if isinstance(exc, Refused):
            # the table answered, so it is neither locked nor slow
            self._note_success(statement)
        if not row or len(statement.tables) != 1 or not is_table_timeout(exc):
            # the timeout of a move does not say which of its tables it is about
            return
        [table] = statement.tables
        with self._lock:
            if not self._circuits.timed_out(table, row, time.monotonic()):
                return
            # those that wait for a connection would only join those that wait for the table
            for tables in [tables for tables in self._waiting if table in tables]:
                for waiter in self._waiting.pop(tables):
                    waiter.refused = True
                    waiter.answered.set()
        metrics.TABLE_CIRCUIT.labels("opened").inc()
        logger.warning("The table is locked or slow; requests for it fail fast for a while", extra=fields(table=table))

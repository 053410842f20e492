"""The connections of one worker process: a bounded number, shared among the tables, closed when they are not used.

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
from postgres_writer.database.session import Session, is_table_timeout
from postgres_writer.database.sharing import Queue, TableCircuits, Tables, Waiter
from postgres_writer.database.statements import Message
from postgres_writer.errors import BUSY, EXPIRED, DatabaseBusy, RequestExpired, ResourceError
from postgres_writer.telemetry import metrics
from postgres_writer.telemetry.logs import fields

logger = logging.getLogger(__name__)


class Pool:
    """Lends sessions, each to one message at a time.

    ``make`` gives a new session (which connects when it is first used), ``size`` is the largest number of sessions.
    ``idle_seconds`` after its last use a connection is closed: one that a balancer has dropped would answer nothing.
    ``lock_seconds`` is how long a message may wait for a lock of PostgreSQL where the queue does not shorten it.
    """

    def __init__(self, make: Callable[[], Session], size: int, idle_seconds: float, lock_seconds: float) -> None:
        self._make = make
        self._idle_seconds, self._lock_seconds = idle_seconds, lock_seconds
        self._queue = Queue(size)
        self._circuits = TableCircuits()
        self._idle: deque[Session] = deque()
        self._reaping = False
        self._lock = threading.Lock()

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
        except (ResourceError, Refused) as exc:
            self._note_failure(statement, row, exc)
            raise
        except BaseException:
            # it may have come in the middle of a statement
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
        for session in idle:
            session.close()

    def _take(self, tables: Tables, until: float) -> Session:
        with self._lock:
            if not self._circuits.admits(tables, time.monotonic()):
                metrics.TABLE_CIRCUIT.labels("refused").inc()
                raise DatabaseBusy(BUSY)
            waiter = self._queue.ask(tables)
        if waiter is not None:
            self._wait(tables, waiter, until)
        with self._lock:
            # the one that was used last: the others get the chance to be idle for long enough to be closed
            session = self._idle.pop() if self._idle else self._make()
            session.lock_timeout = min(self._lock_seconds, self._queue.lock_seconds(tables))
        if time.monotonic() - session.idle_since > self._idle_seconds:
            # the reaper is late
            session.close()
        return session

    def _wait(self, tables: Tables, waiter: Waiter, until: float) -> None:
        in_time = None
        try:
            in_time = waiter.answered.wait(max(0.0, until - time.monotonic()))
        finally:
            with self._lock:
                granted = self._queue.leave(tables, waiter)
                if granted and in_time is None:
                    # interrupted in the very moment in which it was granted a connection, which would be lost with it
                    self._queue.give_back(tables)
        metrics.CONNECTION_WAITS.labels("lent" if granted else "refused" if in_time else "expired").inc()
        if not granted:
            raise DatabaseBusy(BUSY) if in_time else RequestExpired(EXPIRED)

    def _give_back(self, session: Session, tables: Tables) -> None:
        session.idle_since = time.monotonic()
        if not (keep := session.is_worth_keeping(session.idle_since)):
            # outside of the lock, because closing a connection talks to the network
            session.close()
        with self._lock:
            if keep:
                self._idle.append(session)
            self._queue.give_back(tables)
            if self._idle and not self._reaping:
                # started with the first idle connection, since a process that forks must have no other thread
                self._reaping = True
                threading.Thread(target=self._reap, name="idle connections", daemon=True).start()

    def _reap(self) -> None:
        """Close what has been idle for too long, until nothing is idle any more."""
        while True:
            with self._lock:
                if not self._idle:
                    self._reaping = False
                    return
                wait = self._idle[0].idle_since + self._idle_seconds - time.monotonic()
                session = self._idle.popleft() if wait <= 0 else None
            if session is None:
                time.sleep(wait)
            else:
                session.close()

    def _note_success(self, statement: Message) -> None:
        with self._lock:
            closed = self._circuits.succeeded(statement.tables, time.monotonic(), wrote=statement.writes)
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
            self._queue.refuse(table)
        metrics.TABLE_CIRCUIT.labels("opened").inc()
        logger.warning("The table is locked or slow; requests for it fail fast for a while", extra=fields(table=table))

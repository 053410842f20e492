"""The connections of one worker process: a bounded number, shared among the tables, closed when they are not used.

Built from the primitives of `threading`, so that it serves threads and, where gevent has patched them, greenlets.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from postgres_writer.core.refusals import Refused
from postgres_writer.database.session import Session, is_table_timeout
from postgres_writer.database.sharing import Queue, TableCircuits, Tables
from postgres_writer.database.statements import Message
from postgres_writer.errors import BUSY, EXPIRED, DatabaseBusy, RequestExpired, ResourceError
from postgres_writer.telemetry import metrics
from postgres_writer.telemetry.logs import log_fields

logger = logging.getLogger(__name__)


class Pool:
    """Lends sessions, each to one message at a time.

    ``make`` gives a new session (which connects when it is first used), ``queue`` bounds the number of sessions, and
    ``total`` that of all databases together. ``idle_seconds`` after its last use a connection is closed: one that a
    balancer has dropped would answer nothing.
    """

    def __init__(
        self, make: Callable[[], Session], queue: Queue, total: Queue, idle_seconds: float, meters: metrics.OfDatabase
    ) -> None:
        self._make, self._idle_seconds = make, idle_seconds
        self._queue, self._total = queue, total
        self._meters, self._self = meters, frozenset({meters.name})
        self._circuits = TableCircuits()
        self._idle: deque[Session] = deque()
        self._reaping = False
        self._lock = threading.Lock()

    @contextmanager
    def lend(self, statement: Message, row_id: str, until: float) -> Iterator[Session]:
        """Lend a session to a message about one id; wait for one until ``until`` (monotonic seconds).

        Success or failure of the message is noted for its tables. Raises RequestExpired when there was no session in
        time, and DatabaseBusy at once when one of the tables keeps its statements waiting until they time out.
        """
        tables = statement.tables
        session = self._take(tables, until)
        try:
            yield session
        except (ResourceError, Refused) as exc:
            self._note_failure(statement, row_id, exc)
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
        while self.close_oldest():
            pass

    @property
    def idle_since(self) -> float:
        """Since when the connection that is idle for longest is idle (monotonic seconds); infinite without one."""
        with self._lock:
            return self._idle[0].idle_since if self._idle else math.inf

    def close_oldest(self) -> bool:
        """Close the connection that is idle for longest; False when none is idle."""
        with self._lock:
            session = self._idle.popleft() if self._idle else None
        if session is not None:
            self._drop(session)
        return session is not None

    def _take(self, tables: Tables, until: float) -> Session:
        with self._lock:
            admitted = self._circuits.admits(tables, time.monotonic())
        if not admitted:
            self._meters.circuits["refused"].inc()
        if not admitted or not self._granted(self._queue, tables, until):
            raise DatabaseBusy(BUSY)
        try:
            session = self._session(until)
        except BaseException:
            self._queue.give_back(tables)
            raise
        session.lock_timeout = min(session.lock_seconds, self._queue.lock_seconds(tables))
        if time.monotonic() - session.idle_since > self._idle_seconds:
            # the reaper is late
            session.close()
        return session

    def _session(self, until: float) -> Session:
        while True:
            with self._lock:
                # the one that was used last: the others get the chance to be idle for long enough to be closed
                if self._idle:
                    return self._idle.pop()
            # refused where one of our own has become idle meanwhile
            if self._granted(self._total, self._self, until):
                return self._make()

    def _granted(self, queue: Queue, tables: Tables, until: float) -> bool:
        waited = queue.take(tables, until)
        if waited:
            self._meters.waits[waited].inc()
        if waited == "expired":
            raise RequestExpired(EXPIRED)
        return waited != "refused"

    def _drop(self, session: Session) -> None:
        # outside of the lock, because closing a connection talks to the network
        session.close()
        self._total.give_back(self._self)

    def _give_back(self, session: Session, tables: Tables) -> None:
        session.idle_since = time.monotonic()
        if session.is_worth_keeping(session.idle_since) and not self._total.is_owed(self._self):
            with self._lock:
                self._idle.append(session)
                starts, self._reaping = not self._reaping, True
            self._total.refuse(self._meters.name)
            if starts:
                # with the first idle connection, since a process that forks must have no other thread
                threading.Thread(target=self._reap, name="idle connections", daemon=True).start()
        else:
            self._drop(session)
        self._queue.give_back(tables)

    def _reap(self) -> None:
        """Close what has been idle for too long, until nothing is idle any more."""
        while True:
            with self._lock:
                if not self._idle:
                    self._reaping = False
                    return
                wait = self._idle[0].idle_since + self._idle_seconds - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            else:
                self.close_oldest()

    def _note_success(self, statement: Message) -> None:
        with self._lock:
            closed = self._circuits.succeeded(statement.tables, time.monotonic(), wrote=statement.writes)
        for table in closed:
            self._meters.circuits["closed"].inc()
            logger.info(
                "The table is no longer locked or slow", extra=log_fields(table=table, database=self._meters.name)
            )

    def _note_failure(self, statement: Message, row_id: str, exc: Exception) -> None:
        if isinstance(exc, Refused):
            # the table answered, so it is neither locked nor slow
            self._note_success(statement)
        if not row_id or len(statement.tables) != 1 or not is_table_timeout(exc):
            # the timeout of a move does not say which of its tables it is about
            return
        [table] = statement.tables
        with self._lock:
            if not self._circuits.timed_out(table, row_id, time.monotonic()):
                return
        # those that wait for a connection would only join those that wait for the table
        self._queue.refuse(table)
        self._meters.circuits["opened"].inc()
        about = log_fields(table=table, database=self._meters.name)
        logger.warning("The table is locked or slow; requests for it fail fast for a while", extra=about)

"""The connections of one worker process: a bounded number, the one used last first, closed when they are not used.

Built from the primitives of `threading`, so that it serves threads and, where gevent has patched them, greenlets.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from postgres_writer.core.refusals import Refused
from postgres_writer.database.session import EXPIRED, Session
from postgres_writer.errors import RequestExpired, ResourceError

_SOUND = (ResourceError, Refused)
"""After these a session has ended its statement; any other exception may have come in the middle of one."""


class _Waiter:
    """One message that waits for a session."""

    def __init__(self) -> None:
        self.session: Session | None = None
        self.granted = threading.Event()


class Pool:
    """Lends sessions, each to one message at a time.

    ``make`` gives a new session (it connects by itself when it is used), ``size`` is the largest number of sessions,
    ``idle_seconds`` after its last use a connection is closed. Replaced rather than tried: a connection that a balancer
    has dropped answers nothing, so a try would have to wait for a time-out, and a new one takes milliseconds.
    """

    def __init__(self, make: Callable[[], Session], size: int, idle_seconds: float) -> None:
        self._make = make
        self._size = size
        self._idle_seconds = idle_seconds
        self._lent = 0
        self._idle: deque[tuple[float, Session]] = deque()
        self._waiting: deque[_Waiter] = deque()
        self._reaping = False
        self._lock = threading.Lock()
        self._emptied = threading.Condition(self._lock)

    @contextmanager
    def lend(self, until: float) -> Iterator[Session]:
        """Lend a session for the length of a with-block; wait for one until ``until`` (monotonic seconds).

        Raises RequestExpired when there was none in time.
        """
        session = self._take(until)
        try:
            yield session
        except _SOUND:
            raise
        except BaseException:
            session.close()
            raise
        finally:
            self._give_back(session)

    def close(self) -> None:
        """Close all connections that are not lent."""
        with self._lock:
            idle, self._idle = self._idle, deque()
            self._emptied.notify_all()
        for _, session in idle:
            session.close()

    def _take(self, until: float) -> Session:
        with self._lock:
            if self._lent < self._size:
                self._lent += 1
                return self._pick()
            waiter = _Waiter()
            self._waiting.append(waiter)
        try:
            waiter.granted.wait(max(0.0, until - time.monotonic()))
        except BaseException:
            self._leave(waiter)
            raise
        with self._lock:
            if waiter.session is None:
                self._waiting.remove(waiter)
                raise RequestExpired(EXPIRED)
        return waiter.session

    def _pick(self) -> Session:
        """Give the session that was used last: the others get the chance to be idle for long enough to be closed."""
        if not self._idle:
            return self._make()
        since, session = self._idle.pop()
        if time.monotonic() - since > self._idle_seconds:
            # it is the youngest of them, and the reaper is late
            session.close()
        return session

    def _leave(self, waiter: _Waiter) -> None:
        """Take back what a waiter that was interrupted has, or would have, got."""
        with self._lock:
            if waiter.session is None:
                self._waiting.remove(waiter)
                return
        self._give_back(waiter.session)

    def _give_back(self, session: Session) -> None:
        now = time.monotonic()
        if not session.is_worth_keeping(now):
            session.close()
        with self._lock:
            self._lent -= 1
            if session.is_connected:
                self._idle.append((now, session))
            if self._waiting:
                waiter = self._waiting.popleft()
                self._lent += 1
                waiter.session = self._pick()
                waiter.granted.set()
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
                since, session = self._idle[0]
                wait = since + self._idle_seconds - time.monotonic()
                if wait > 0:
                    self._emptied.wait(wait)
                    continue
                self._idle.popleft()
            session.close()

"""Sessions that connect to nothing, and pools of them, for tests of how connections are shared."""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager
from typing import cast

from postgres_writer.database import statements
from postgres_writer.database.pool import Pool
from postgres_writer.database.session import Session
from postgres_writer.database.sharing import Queue
from postgres_writer.errors import ResourceError
from postgres_writer.telemetry.metrics import OfDatabase

SOON, LONG, LOCK = 0.05, 30.0, 3.0


class FakeSession:
    """What the pool knows of a session; it connects when it is made."""

    def __init__(self) -> None:
        self.is_connected = True
        self.closed = threading.Event()
        self.young = True
        self.idle_since = time.monotonic()
        self.lock_timeout, self.lock_seconds = 0.0, LOCK

    def is_worth_keeping(self, _now: float) -> bool:
        """Say whether it would be used again."""
        return self.is_connected and self.young

    def close(self) -> None:
        """Note that it was closed."""
        self.is_connected = False
        self.closed.set()


class Maker:
    """Makes the sessions of a pool and remembers them."""

    def __init__(self) -> None:
        self.made: list[FakeSession] = []

    def __call__(self) -> Session:
        """Make one more."""
        self.made.append(FakeSession())
        return cast(Session, self.made[-1])


def pool_of(size: int, idle_seconds: float = LONG) -> tuple[Pool, list[FakeSession]]:
    """Make a pool of a database that has all connections for itself; gives its sessions, too."""
    maker = Maker()
    return Pool(maker, Queue(size), Queue(size + 1), idle_seconds, OfDatabase("default")), maker.made


def lend(
    pool: Pool, until: float, table: str = "students", row: str = "default/one"
) -> AbstractContextManager[Session]:
    """Lend a session to a write of that row."""
    return pool.lend(statements.write(table, ("name",)), row, until)


def soon(seconds: float = LONG) -> float:
    """Give a moment so far away (monotonic seconds)."""
    return time.monotonic() + seconds


def waiting_for(pool: Pool, queue: Queue, table: str = "students") -> tuple[threading.Thread, list[object]]:
    """Start a caller that must wait in one of the pool's queues; gives it, and what it will have got."""
    got: list[object] = []

    def wait() -> None:
        try:
            with lend(pool, soon(), table) as session:
                got.append(session)
        except ResourceError as exc:
            got.append(exc)

    thread = threading.Thread(target=wait)
    thread.start()
    while not queue._waiting:
        time.sleep(0.001)
    return thread, got

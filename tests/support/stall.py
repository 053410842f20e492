"""Commits that hang: PostgreSQL waits for a synchronous standby that does not exist, and the three ways out of it."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator

import psycopg2
import psycopg2.extensions

from support.postgres import Database, PostgresInstance
from support.waiting import wait_until

PATIENCE = 20.0
_HANGING = "FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = 'postgres-writer'"

Ending = Callable[[PostgresInstance], None]


def hanging(database: Database) -> int:
    """Count the hooks' commits that hang."""
    ((count,),) = database.query(f"SELECT count(*) {_HANGING}")
    return int(count)


@contextlib.contextmanager
def stalled_commits(instance: PostgresInstance) -> Iterator[None]:
    """Let every commit hang that writes (but those of sessions with synchronous_commit = local) until it is ended."""
    database = instance.maintenance
    database.query("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    database.query("SELECT pg_reload_conf()")
    try:
        with _probes(database) as hangs:
            wait_until(hangs, "commits hang")
        yield
    finally:
        lift(instance)


def lift(instance: PostgresInstance) -> None:
    """Wait for no standby any more: what hangs is committed."""
    database = instance.maintenance
    database.query("ALTER SYSTEM RESET synchronous_standby_names")
    database.query("SELECT pg_reload_conf()")
    wait_until(lambda: hanging(database) == 0, "no commit hangs")


def crash(instance: PostgresInstance) -> None:
    """Shut the server down at once and start it without the setting: what hung is committed by the recovery."""
    instance.maintenance.query("ALTER SYSTEM RESET synchronous_standby_names")
    # its immediate shutdown, which is a crash but for the wait until every session has ended
    instance.stop(signal.SIGQUIT)
    instance.start()


def cancel(instance: PostgresInstance) -> None:
    """Cancel what hangs, as an operator does: it is committed all the same."""
    database = instance.maintenance
    database.query(f"SELECT pg_cancel_backend(pid) {_HANGING}")
    wait_until(lambda: hanging(database) == 0, "no commit hangs")
    lift(instance)


ENDINGS: dict[str, Ending] = {"lifted": lift, "restarted at once": crash, "cancelled": cancel}


@contextlib.contextmanager
def _probes(database: Database) -> Iterator[Callable[[], bool]]:
    """Give a function that commits something, and says whether that hangs: a reload takes its time."""
    with contextlib.ExitStack() as stack:

        def hangs() -> bool:
            connection = psycopg2.connect(psycopg2.extensions.make_dsn(**database.connect), async_=True)
            stack.callback(connection.close)
            while connection.poll() != psycopg2.extensions.POLL_OK:
                time.sleep(0.001)
            # held by its name: the driver takes only a weak reference, and then finds no cursor any more
            cursor = connection.cursor()
            cursor.execute("SELECT pg_logical_emit_message(true, 'probe', '')")
            while (state := connection.poll()) != psycopg2.extensions.POLL_OK:
                ((wait,),) = database.query(
                    "SELECT wait_event FROM pg_stat_activity WHERE pid = %s", connection.info.backend_pid
                )
                if wait == "SyncRep":
                    return True
                assert state in (psycopg2.extensions.POLL_READ, psycopg2.extensions.POLL_WRITE)
            return False

        yield hangs

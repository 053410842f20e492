"""A hook server on a PostgreSQL that a test breaks, and what must hold before, during and after."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from postgres_writer.deadlines import CIRCUIT_SECONDS
from support.callers import Answer, ask, ask_all, body
from support.postgres import Database, PostgresInstance
from support.server import ServerProcess, running_server

CONNECTIONS = 8
CALLERS = 64
LIMIT = 10.0
"""Seconds within which every answer comes, whatever is wrong."""


@dataclass(frozen=True)
class Site:
    """The server and the database under it."""

    instance: PostgresInstance
    server: ServerProcess

    @property
    def database(self) -> Database:
        """The database with the table, as its owner sees it."""
        return self.instance.maintenance

    def sync_all(self, age: int) -> list[Answer]:
        """Let many callers sync a resource each, at the same time; all get an answer in time."""
        answers = ask_all(self.server.port, (body(f"r{number}", age) for number in range(CALLERS)), patience=20)
        assert {answer.status for answer in answers} == {200}
        slowest = max(answer.seconds for answer in answers)
        print(f"slowest of {CALLERS} answers: {slowest:.1f} s")  # shown by pytest -rP
        assert slowest < LIMIT
        assert all(answer.tables == ["public.students"] for answer in answers), "the table may hold the row"
        return answers

    def check_healthy(self, age: int) -> None:
        """Sync all: every row is written, no connection is left over."""
        found = {answer.ready for answer in self.sync_all(age)}
        if found == {"True RowSynced", "False RequestExpired"}:
            # so many at once may wait too long for their turn on a busy machine; what hangs does so again
            found = {answer.ready for answer in self.sync_all(age)}
        assert found == {"True RowSynced"}
        assert [row[2] for row in self.database.rows()] == [age] * CALLERS
        assert self.connections() <= CONNECTIONS

    def check_recovered(self, age: int, seconds: float = CIRCUIT_SECONDS) -> None:
        """Let the first syncs, so long after a fault, succeed one by one, then all at once, without a restart.

        The server lets one caller through to find out that the database is back; of many at the same moment the
        others are told once more that it is away.
        """
        time.sleep(seconds + 0.5)
        for number in range(8):
            assert ask(self.server.port, body(f"r{number}", age)).ready == "True RowSynced"
        self.sync_all(age)
        self.check_healthy(age)

    def connections(self) -> int:
        """Count the server's connections."""
        ((count,),) = self.database.query("SELECT count(*) FROM pg_stat_activity WHERE usename = 'hook'")
        return int(count)

    def end_connections(self) -> None:
        """End every connection of the server from the database's side."""
        self.database.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'hook'")


@contextlib.contextmanager
def running_site(instance: PostgresInstance, port: int, **environ: str) -> Iterator[Site]:
    """Run a server on the instance, which it reaches by the port, with more variables."""
    connect = {**instance.connect, "user": "hook", "password": "hook", "port": str(port)}
    with running_server(Database(connect), **{"HOOK_CONNECTIONS": str(CONNECTIONS), **environ}) as server:
        yield Site(instance, server)

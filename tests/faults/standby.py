"""A standby of a PostgreSQL server: real streaming replication, and its promotion."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from support.postgres import PostgresInstance, program
from support.waiting import wait_until


@contextlib.contextmanager
def standby_of(primary: PostgresInstance) -> Iterator[PostgresInstance]:
    """Run a streaming standby of the instance, with the same roles and passwords."""
    folder = Path(tempfile.mkdtemp(prefix="pgw-"))
    standby = PostgresInstance(folder, primary.password, primary.tcp, primary.settings)
    folder.chmod(0o755)
    as_owner: dict[str, object] = {}
    if os.geteuid() == 0:
        PostgresInstance._hand_over(folder)
        as_owner = {"user": "pgserver", "group": "pgserver", "extra_groups": []}
    connect = primary.connect
    subprocess.run(
        [
            str(program("pg_basebackup")),
            f"--pgdata={standby.data}",
            f"--host={connect['host']}",
            f"--port={connect['port']}",
            f"--username={connect['user']}",
            "--wal-method=stream",
            "--checkpoint=fast",
            "--write-recovery-conf",
            "--no-sync",
        ],
        check=True,
        cwd="/",
        env={"PATH": os.environ["PATH"], "PGPASSWORD": connect["password"], "LC_ALL": "C"},
        stdout=subprocess.DEVNULL,
        timeout=60,
        **as_owner,  # type: ignore[call-overload]
    )
    try:
        standby.start()
        yield standby
    finally:
        standby.remove()


def wait_for_replay(primary: PostgresInstance, standby: PostgresInstance) -> None:
    """Wait until the standby shows what the primary has now."""
    ((target,),) = primary.maintenance.query("SELECT pg_current_wal_lsn()::text")
    replayed = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
    wait_until(lambda: standby.maintenance.query(replayed, target) == [(True,)], "the standby follows")


def promote(standby: PostgresInstance) -> None:
    """Make the standby a primary, and wait until it is."""
    assert standby.maintenance.query("SELECT pg_promote(true, 30)") == [(True,)]

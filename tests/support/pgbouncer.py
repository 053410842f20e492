"""A real PgBouncer before a PostgreSQL, as a child process on a free port of the loopback."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg2

from support.ports import free_port
from support.postgres import Database, PostgresInstance
from support.programs import require_program


@dataclass(frozen=True)
class PgBouncer:
    """A running PgBouncer."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def database(self, instance: PostgresInstance | Database, user: str, password: str) -> Database:
        """Return the instance's maintenance database as clients reach it through the pooler."""
        reached = {"host": "127.0.0.1", "port": str(self.port), "user": user, "password": password}
        return Database({**instance.connect, **reached})


@contextlib.contextmanager
def running_pgbouncer(
    instance: PostgresInstance | Database, mode: str, users: dict[str, str], *, pool_size: int = 4, **settings: str
) -> Iterator[PgBouncer]:
    """Run a PgBouncer that pools transactions or sessions (``mode``) for the users given with their passwords.

    ``settings`` are more of its own.
    """
    program, port = require_program("pgbouncer", "pgbouncer"), free_port()
    folder = Path(tempfile.mkdtemp(prefix="pgw-bouncer-"))
    server = instance.connect
    # passwords in clear: PgBouncer logs in to the server with them, which asks for SCRAM
    listed = "".join(f'"{user}" "{password}"\n' for user, password in users.items())
    (folder / "users.txt").write_text(listed)
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={server['host']} port={server['port']}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = scram-sha-256\nauth_file = {folder / 'users.txt'}\n"
        f"pool_mode = {mode}\ndefault_pool_size = {pool_size}\nmax_client_conn = 100\n"
        # libpq's channel binding and our application_name must pass without special treatment
        "ignore_startup_parameters =\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())
    )
    # it refuses to run as root
    user = "nobody" if os.geteuid() == 0 else None
    if user is not None:
        owner = pwd.getpwnam(user)
        for path in (folder, *folder.iterdir()):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    log = folder / "pgbouncer.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, str(folder / "pgbouncer.ini")],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            user=user,
            extra_groups=[] if user else None,
        )
    try:
        pooler = PgBouncer(port, process, log)
        _wait_until_ready(pooler, instance, *next(iter(users.items())))
        yield pooler
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(folder)


def _wait_until_ready(pooler: PgBouncer, instance: PostgresInstance | Database, user: str, password: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            pooler.database(instance, user, password).query("SELECT 1")
        except psycopg2.OperationalError:
            if pooler.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(pooler.log.read_text(errors="replace")) from None
            time.sleep(0.05)
        else:
            return

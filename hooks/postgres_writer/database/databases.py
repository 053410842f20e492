"""The databases by name: each has connections and soft state of its own, all share a bounded number of connections.

The default one is configured by the PSQL_* variables, the others by the folders of PSQL_DATABASES_DIR. A folder is read
again when it was last read a second ago; what it says now is what the next message is sent to.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from postgres_writer.config.settings import Config, DatabaseConfig, database_names
from postgres_writer.config.variables import DEFAULT_DATABASE
from postgres_writer.database.sharing import Queue
from postgres_writer.database.store import Store
from postgres_writer.deadlines import Call
from postgres_writer.errors import ConfigError, DatabaseNotConfigured, ResourceError
from postgres_writer.telemetry.logs import fields

logger = logging.getLogger(__name__)

_READ_SECONDS = 1.0


@dataclass
class Database:
    """What is known of a database: ``missing`` says why it cannot be asked."""

    config: DatabaseConfig
    store: Store
    missing: DatabaseNotConfigured | None = None
    read: float = math.inf  # when its folder was read; monotonic seconds


class Databases:
    """Finds a database by its name, and makes what it needs when it is first asked for."""

    def __init__(self, config: Config, environ: Mapping[str, str]) -> None:
        """``environ`` has the settings that a folder does not give."""
        self._config, self._environ = config, dict(environ)
        # the last one is only for a database that holds none
        self._total = Queue(max(config.total_connections, config.connections + 1), self._close_oldest)
        self._lock = threading.Lock()
        self._default = self._made(DEFAULT_DATABASE, config.database)
        self._known = {DEFAULT_DATABASE: self._default}

    def find(self, name: str) -> Database:
        """Give the database of that name as it is configured now."""
        known = self._known.get(name)
        if known is None or time.monotonic() - known.read > _READ_SECONDS:
            with self._lock:
                known = self._read(name)
        return known

    def schema(self, name: str) -> str:
        """Give the schema of the tables without one in their name."""
        return self.find(name).config.schema

    def states(self) -> Iterator[tuple[str, bool, str]]:
        """Connect to every database; yield its name, whether it can be used, and what was found."""
        for name in (DEFAULT_DATABASE, *database_names(self._config.databases_dir)):
            found = self.find(name)
            config, schema = found.config, found.config.schema
            try:
                if found.missing:
                    raise found.missing
                version, role, dbname, usable = found.store.about(schema, Call(time.monotonic(), lambda: False))
            except ResourceError as exc:
                yield name, False, str(exc)
                continue
            # the first requests are not to wait for a second one, where a pooler has no more
            found.store.close()
            where = ",".join(f"{host.name}:{host.port}" for host in config.hosts)
            said = f"PostgreSQL {version} at {where}, database {dbname}, role {role}, schema {schema}"
            yield name, usable, said if usable else f"{said}, which does not exist or lacks a grant of USAGE"

    def log_states(self) -> None:
        """Log what `states` finds; no request waits for it."""
        for name, usable, said in self.states():
            logger.log(logging.INFO if usable else logging.WARNING, said, extra=fields(database=name))

    def _read(self, name: str) -> Database:
        known, config = self._known.get(name), None
        missing = DatabaseNotConfigured(_UNKNOWN.format(name or "of that name"))
        try:
            folder = self._config.databases_dir
            # listed: a path that cannot be followed is no proof that there is none
            if folder and name in database_names(folder):
                config = DatabaseConfig.from_folder(folder / name, self._environ)
        except ConfigError as exc:
            missing = DatabaseNotConfigured(_UNUSABLE.format(name, exc), found=True)
        if known is None or known.config != config:
            if known is not None:
                logger.info("The configuration of the database has changed", extra=fields(database=name))
                known.store.close()
                del self._known[name]
            if config is None:
                # no connection, no series: callers may name any number of them
                return Database(self._default.config, self._default.store, missing)
            self._known[name] = known = self._made(name, config)
        known.read = time.monotonic()
        return known

    def _made(self, name: str, config: DatabaseConfig) -> Database:
        return Database(config, Store(config, self._config.connections, name, self._total))

    def _close_oldest(self) -> bool:
        """Close the connection that is idle for longest, of whatever database; False when there is none."""
        pools = [known.store.pool for known in list(self._known.values())]
        return min(pools, key=lambda pool: pool.idle_since).close_oldest()


_WAYS_OUT = "or correct spec.database, or set spec.deletionPolicy to Retain to delete the resource without its row."
_UNKNOWN = f"Database {{}} is not configured; ask your PostgresWriter administrator to add it, {_WAYS_OUT}"
_UNUSABLE = f"Database {{}} is configured wrongly: {{}} Ask your PostgresWriter administrator to fix it, {_WAYS_OUT}"

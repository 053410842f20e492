"""The configuration as frozen values, read from an environment that the caller passes in.

Nothing reads the environment at import. Every error is a ConfigError whose text is one sentence that names
the variable and says what to do.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from postgres_writer.config.settings import DATABASE_SETTINGS, SETTINGS, default_workers
from postgres_writer.config.tls import server_context
from postgres_writer.deadlines import DATABASE_SECONDS
from postgres_writer.errors import ConfigError

# libpq rounds a shorter timeout up to this, for each host.
_LIBPQ_SHORTEST_CONNECT = 2


@dataclass(frozen=True)
class DatabaseConfig:
    """How to reach PostgreSQL. The port is a text only when several hosts have ports of their own."""

    host: str
    port: int | str = 5432
    dbname: str = "postgres"
    user: str = "postgres"
    password: str = field(default="", repr=False)
    password_file: Path | None = None
    sslmode: str | None = None
    sslrootcert: str | None = None
    target_session_attrs: str | None = None
    connect_timeout: float = 3.0
    statement_timeout: float = 4.0
    prepared_statements: bool = True
    libpq_options: Mapping[str, str] = field(default_factory=dict)

    @property
    def connect_timeout_per_host(self) -> int:
        """Whole seconds that libpq may spend on each host, so that all together stay within the timeout."""
        return max(_LIBPQ_SHORTEST_CONNECT, int(self.connect_timeout / len(self.host.split(","))))

    @property
    def longest_connect(self) -> float:
        """Seconds that libpq may spend on all hosts."""
        return self.connect_timeout_per_host * len(self.host.split(","))

    def connect_arguments(self) -> dict[str, str]:
        """Return libpq's keywords for a new connection, with the first of the passwords.

        Raises ConfigError when the password file cannot be read (any more).
        """
        arguments = {
            "host": self.host,
            "port": str(self.port),
            "dbname": self.dbname,
            "user": self.user,
            "password": self.passwords()[0],
            "sslmode": self.sslmode,
            "sslrootcert": self.sslrootcert,
            "target_session_attrs": self.target_session_attrs,
            "connect_timeout": str(self.connect_timeout_per_host),
            "application_name": "postgres-writer",
            **self.libpq_options,
        }
        return {keyword: value for keyword, value in arguments.items() if value}

    def passwords(self) -> tuple[str, ...]:
        """Return the passwords to try, in their order; the file is read anew each time.

        More than one is for the time of a rotation, in which PostgreSQL changes from one to the other.
        Raises ConfigError when the password file cannot be read (any more).
        """
        if self.password_file is None:
            return (self.password,)
        try:
            # only the line ends go: a password may begin or end with a blank
            lines = self.password_file.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"PSQL_PASSWORD_FILE cannot be read as text: {self.password_file}.") from error
        return tuple(filter(None, (line.rstrip("\r") for line in lines))) or ("",)


@dataclass(frozen=True)
class Config:
    """Everything that a server needs to know."""

    database: DatabaseConfig
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 2
    threads: int = 4
    tokens_file: Path | None = None
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    max_body_bytes: int = 16 * 1024 * 1024
    resync_seconds: float = 300.0
    table_policy_file: Path | None = None
    metrics_token_required: bool = False
    log_level: str = "INFO"
    log_format: str = "json"

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Config":
        """Read the variables of settings.py; unset and empty ones take their defaults.

        Raises ConfigError with one sentence that names the variable.
        """
        values = {setting.name: setting.read(environ) for setting in SETTINGS}
        config = cls(
            database=_database(values),
            host=values["HOOK_HOST"],
            port=values["HOOK_PORT"],
            workers=values["HOOK_WORKERS"] or default_workers(),
            threads=values["HOOK_THREADS"],
            tokens_file=values["HOOK_TOKENS_FILE"],
            tls_cert_file=values["HOOK_TLS_CERT_FILE"],
            tls_key_file=values["HOOK_TLS_KEY_FILE"],
            max_body_bytes=values["HOOK_MAX_BODY_BYTES"],
            resync_seconds=values["HOOK_RESYNC_SECONDS"],
            table_policy_file=values["HOOK_TABLE_POLICY_FILE"],
            metrics_token_required=values["HOOK_METRICS_TOKEN_REQUIRED"],
            log_level=values["LOG_LEVEL"],
            log_format=values["LOG_FORMAT"],
        )
        _check_pairs(values)
        _check_tokens(config)
        _check_tls(config)
        return config


def database_from_env(environ: Mapping[str, str]) -> DatabaseConfig:
    """Read only the PSQL_* variables, for commands that need the database and no server.

    Raises ConfigError with one sentence that names the variable.
    """
    return _database({setting.name: setting.read(environ) for setting in DATABASE_SETTINGS})


def _database(values: Mapping[str, Any]) -> DatabaseConfig:
    if values["PSQL_HOST"] is None:
        raise ConfigError("PSQL_HOST is not set: name the host of PostgreSQL, or start with --embedded.")
    if values["PSQL_PASSWORD"] is not None and values["PSQL_PASSWORD_FILE"] is not None:
        raise ConfigError("PSQL_PASSWORD and PSQL_PASSWORD_FILE are both set: keep one of them.")
    database = DatabaseConfig(
        host=values["PSQL_HOST"],
        port=values["PSQL_PORT"],
        dbname=values["PSQL_DBNAME"],
        user=values["PSQL_USER"],
        password=values["PSQL_PASSWORD"] or "",
        password_file=values["PSQL_PASSWORD_FILE"],
        sslmode=values["PSQL_SSLMODE"],
        sslrootcert=values["PSQL_SSLROOTCERT"],
        target_session_attrs=values["PSQL_TARGET_SESSION_ATTRS"],
        connect_timeout=values["PSQL_CONNECT_TIMEOUT"],
        statement_timeout=values["PSQL_STATEMENT_TIMEOUT"],
        prepared_statements=values["PSQL_PREPARED_STATEMENTS"],
        libpq_options=_libpq_options(values),
    )
    _check_hosts(database)
    _check_time(database)
    return database


def _libpq_options(values: Mapping[str, Any]) -> dict[str, str]:
    names = {
        "sslcert": "PSQL_SSLCERT",
        "sslkey": "PSQL_SSLKEY",
        "channel_binding": "PSQL_CHANNEL_BINDING",
    }
    return {keyword: str(values[name]) for keyword, name in names.items() if values[name] is not None}


def _check_hosts(database: DatabaseConfig) -> None:
    hosts = [host.strip() for host in database.host.split(",")]
    if not all(hosts):
        raise ConfigError(f"PSQL_HOST has an empty host in its list: {database.host!r}.")
    ports = str(database.port).split(",")
    if len(ports) not in (1, len(hosts)):
        raise ConfigError(
            f"PSQL_PORT lists {len(ports)} ports for {len(hosts)} hosts of PSQL_HOST: give one, or as many."
        )


def _check_time(database: DatabaseConfig) -> None:
    connect = max(database.connect_timeout, database.longest_connect)
    if connect + database.statement_timeout > DATABASE_SECONDS:
        raise ConfigError(
            f"PSQL_CONNECT_TIMEOUT ({connect:g} s over all hosts) and PSQL_STATEMENT_TIMEOUT "
            f"({database.statement_timeout:g} s) must together be at most {DATABASE_SECONDS:g} s, because "
            "the webhook's caller gives up after 10 s."
        )


def _check_pairs(values: Mapping[str, Any]) -> None:
    for one, other in (("HOOK_TLS_CERT_FILE", "HOOK_TLS_KEY_FILE"), ("PSQL_SSLCERT", "PSQL_SSLKEY")):
        for present, missing in ((one, other), (other, one)):
            if values[present] is not None and values[missing] is None:
                raise ConfigError(f"{present} is set without {missing}: set both, or neither.")


def _check_tokens(config: Config) -> None:
    if config.metrics_token_required and config.tokens_file is None:
        raise ConfigError("HOOK_METRICS_TOKEN_REQUIRED is true but HOOK_TOKENS_FILE is not set: set it too.")


def _check_tls(config: Config) -> None:
    if config.tls_cert_file is None or config.tls_key_file is None:
        return
    try:
        server_context(config.tls_cert_file, config.tls_key_file)
    except (OSError, ValueError) as error:
        raise ConfigError(
            "HOOK_TLS_CERT_FILE and HOOK_TLS_KEY_FILE are not a PEM certificate and its unencrypted key "
            f"({config.tls_cert_file}, {config.tls_key_file})."
        ) from error

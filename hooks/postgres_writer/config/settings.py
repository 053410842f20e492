"""Every setting, declared once: its variable, default, parser and meaning are on the field that holds its value.

`from_env`, the help of `serve` and docs/configuration.md follow from these fields. Nothing reads the environment at
import, and no file is loaded here but the password's: server/files.py loads and checks tokens, certificate and policy.
What is unusable is a ConfigError with one sentence that names the variable.
"""

from __future__ import annotations

import re
import ssl
import textwrap
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from postgres_writer.config import variables
from postgres_writer.config.variables import boolean, choice, integer, read, seconds, secret, setting, settings_of
from postgres_writer.deadlines import DATABASE_SECONDS
from postgres_writer.errors import ConfigError

_LIBPQ_KEYWORD = re.compile("dbname|user|ssl[a-z]+|channel_binding|target_session_attrs|keepalives_[a-z]+")
"""The fields of DatabaseConfig that go to libpq under their own name."""
_NOT_INHERITED = frozenset(f"PSQL_{name}" for name in ("HOST", "PORT", "DBNAME", "USER", "PASSWORD", "PASSWORD_FILE"))
_LIBPQ_VARIABLE = re.compile("PG([A-Z]+|CONNECT_TIMEOUT)")
"""https://www.postgresql.org/docs/current/libpq-envars.html; those of a Kubernetes service (PGBOUNCER_PORT) are not."""


@dataclass(frozen=True)
class Host:
    """One server that may answer for the database: a name, an address or the folder of a Unix socket, and a port."""

    name: str
    port: int = 5432


@dataclass(frozen=True)
class DatabaseConfig:
    """How to reach PostgreSQL."""

    host_names: tuple[str, ...] = setting(
        "PSQL_HOST",
        "Host of PostgreSQL, or the directory of its Unix socket; comma-separated for failover. "
        "Required unless --embedded is given.",
        variables.host_names,
    )
    ports: tuple[int, ...] = setting(
        "PSQL_PORT", "Port of PostgreSQL: one port for all hosts, or one per host.", variables.ports, "5432"
    )
    dbname: str = setting("PSQL_DBNAME", "Database that holds the tables.", default="postgres")
    schema: str = setting(
        "PSQL_SCHEMA",
        "Schema of the tables whose names are given without one, whatever the role's search_path is.",
        variables.schema,
        "public",
    )
    user: str = setting("PSQL_USER", "Role to log in as.", default="postgres")
    password: str | None = setting("PSQL_PASSWORD", "Password of the role. Prefer PSQL_PASSWORD_FILE.", secret)
    password_file: Path | None = setting(
        "PSQL_PASSWORD_FILE",
        "File with the password, read again for every connection, so that a rotated password needs no restart. "
        "During a rotation, put the old and the new one on separate lines: both are tried.",
        variables.path,
    )
    sslmode: str | None = choice(
        "PSQL_SSLMODE", "TLS to PostgreSQL", "disable, allow, prefer, require, verify-ca, verify-full", unset="prefer"
    )
    sslrootcert: str | None = setting(
        "PSQL_SSLROOTCERT",
        "File with the CA certificates that verify PostgreSQL's certificate, or \"system\" for the system's own.",
        variables.root_certificate,
    )
    sslcert: str | None = setting("PSQL_SSLCERT", "File with the client certificate for PostgreSQL.")
    sslkey: str | None = setting("PSQL_SSLKEY", "File with the key of PSQL_SSLCERT.")
    channel_binding: str | None = choice(
        "PSQL_CHANNEL_BINDING", "SCRAM channel binding", "disable, prefer, require", unset="prefer"
    )
    target_session_attrs: str | None = choice(
        "PSQL_TARGET_SESSION_ATTRS",
        "Which of several hosts are acceptable",
        "any, read-write, read-only, primary, standby, prefer-standby",
        unset="any",
    )
    # From a tenth of a second on: libpq's and PostgreSQL's own timers count in milliseconds, where 0 means no limit.
    connect_timeout: float = setting(
        "PSQL_CONNECT_TIMEOUT",
        "Seconds to wait for a connection, for all hosts and the lookup of their names together.",
        seconds(0.1, DATABASE_SECONDS),
        "3",
    )
    statement_timeout: float = setting(
        "PSQL_STATEMENT_TIMEOUT",
        "Seconds that a statement may take, including lock waits. Together with PSQL_CONNECT_TIMEOUT at most "
        f"{DATABASE_SECONDS:g}, because Metacontroller gives up after 10 s.",
        seconds(0.1, DATABASE_SECONDS),
        "4",
    )
    idle_timeout: float = setting(
        "PSQL_IDLE_TIMEOUT",
        "Seconds after which a connection that is not used is closed. Keep it below the time after which a load "
        "balancer, firewall or NAT in between drops idle connections.",
        seconds(0.1, 3600),
        # such devices drop after 350 s (AWS), 240 s (Azure), and the hastier ones after 60 s
        "30",
    )
    # The kernel asks an idle peer after a minute, so that a balancer which drops after 350 s sees traffic also where
    # idle connections are kept for longer than that.
    keepalives_idle: int = setting(
        "PSQL_KEEPALIVES_IDLE", "Seconds without traffic after which TCP keepalives are sent.", integer(1, 3600), "60"
    )
    keepalives_interval: int = setting(
        "PSQL_KEEPALIVES_INTERVAL", "Seconds between TCP keepalives.", integer(1, 3600), "10"
    )
    keepalives_count: int = setting(
        "PSQL_KEEPALIVES_COUNT", "Unanswered keepalives after which a connection counts as dead.", integer(1, 100), "3"
    )
    # Below the default statement timeout: the statement is then repeated on a new connection in the same request.
    tcp_user_timeout: float = setting(
        "PSQL_TCP_USER_TIMEOUT",
        "Seconds without a TCP acknowledgement after which a connection counts as dead and the statement is repeated "
        "on a new one. A slow PostgreSQL still acknowledges; only an unreachable one does not.",
        seconds(0.1, 60),
        "2",
    )
    prepared_statements: bool = setting(
        "PSQL_PREPARED_STATEMENTS",
        "Prepare statements once per connection. Set to false behind a PgBouncer with transaction pooling.",
        boolean,
        "true",
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> DatabaseConfig:
        """Read the PSQL_* variables; unset and empty ones take their defaults."""
        if not environ.get("PSQL_HOST"):
            raise ConfigError("PSQL_HOST is not set: name the host of PostgreSQL, or start with --embedded.")
        config = cls(**read(cls, environ))
        hosts, ports = len(config.host_names), len(config.ports)
        if ports not in {1, hosts}:
            raise ConfigError(f"PSQL_PORT lists {ports} ports for {hosts} hosts of PSQL_HOST: give one, or one each.")
        if config.password is not None and config.password_file is not None:
            raise ConfigError("PSQL_PASSWORD and PSQL_PASSWORD_FILE are both set: keep one of them.")
        _both_or_neither(PSQL_SSLCERT=config.sslcert, PSQL_SSLKEY=config.sslkey)
        if config.sslcert and config.sslkey:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            variables.certificate_and_key("PSQL_SSLCERT and PSQL_SSLKEY", context, config.sslcert, config.sslkey)
        if config.connect_timeout + config.statement_timeout > DATABASE_SECONDS:
            raise ConfigError(
                f"PSQL_CONNECT_TIMEOUT ({config.connect_timeout:g} s) and PSQL_STATEMENT_TIMEOUT "
                f"({config.statement_timeout:g} s) must together be at most {DATABASE_SECONDS:g} s, because "
                "Metacontroller gives up after 10 s."
            )
        config.passwords()
        return config

    @classmethod
    def from_folder(cls, folder: Path, environ: Mapping[str, str]) -> DatabaseConfig:
        """Read a database from its folder: a file for each setting, named ``host`` or PSQL_HOST, and so on.

        Which database it is comes from the folder alone; other settings that it lacks are those of the environment.
        Files of other names are left alone: the Secrets of operators hold more.
        """
        known = {each.name for each in settings_of(cls).values()}
        given = {name: value for name, value in environ.items() if name in known - _NOT_INHERITED}
        try:
            files = {file.name: file for file in folder.iterdir() if not file.name.startswith(".")}
        except OSError as exc:
            raise ConfigError(f"{folder} cannot be read ({exc.strerror}).") from exc
        for key, file in files.items():
            name = key if key.startswith("PSQL_") else f"PSQL_{key.upper()}"
            if name in known:
                given[name] = variables.text_of(name, file).rstrip("\r\n")
            elif name == key:
                raise ConfigError(f"{name} is no setting of a database.")
        if not given.get("PSQL_HOST"):
            raise ConfigError(f"{folder} has no file host, which names the host of PostgreSQL.")
        if "PSQL_PASSWORD" in given:
            # read again for every connection, and with a line for each that is valid
            del given["PSQL_PASSWORD"]
            given["PSQL_PASSWORD_FILE"] = str(files.get("password", folder / "PSQL_PASSWORD"))
        return cls.from_env(given)

    @property
    def hosts(self) -> tuple[Host, ...]:
        """The servers to try: one port serves all hosts, unset each host has its own, as libpq has it."""
        ports = self.ports * len(self.host_names) if len(self.ports) == 1 else self.ports
        return tuple(map(Host, self.host_names, ports))

    def connect_arguments(self) -> dict[str, str]:
        """Return libpq's keywords for a new connection, except those of the host and the password."""
        # What libpq would look for in the home folder, where a root certificate would turn sslmode=require into
        # verify-ca, is at a path where nothing can be: it complains of /dev/null itself.
        # https://www.postgresql.org/docs/current/libpq-ssl.html https://www.postgresql.org/docs/current/libpq-pgpass.html
        return {
            **dict.fromkeys(("passfile", "sslcert", "sslrootcert", "sslcrl"), "/dev/null/none"),
            "application_name": "postgres-writer",
            "tcp_user_timeout": str(int(self.tcp_user_timeout * 1000)),
            **{name: str(value) for name, value in vars(self).items() if value and _LIBPQ_KEYWORD.fullmatch(name)},
        }

    def passwords(self) -> tuple[str, ...]:
        """Return the passwords to try, in their order; the file is read again each time.

        More than one is for the time of a rotation, in which PostgreSQL changes from one to the other.
        Raises ConfigError when the password file cannot be read (any more).
        """
        if self.password_file is None:
            return (self.password or "",)
        name = "PSQL_PASSWORD_FILE"
        lines = secret(name, variables.text_of(name, self.password_file)).split("\n")
        # only the line ends go: a password may begin or end with a blank
        return tuple(filter(None, (line.rstrip("\r") for line in lines))) or ("",)


@dataclass(frozen=True)
class Config:
    """Everything that a server needs to know."""

    database: DatabaseConfig
    host: str = setting(
        "HOOK_HOST",
        "Address to listen on. :: means all addresses, IPv6 and IPv4, or only IPv4 where IPv6 is off; the "
        "container image sets it. 0.0.0.0 means all IPv4 addresses.",
        variables.host,
        "127.0.0.1",
    )
    port: int = setting("HOOK_PORT", "Port to listen on.", variables.port, "8080")
    connections: int = setting(
        "HOOK_CONNECTIONS",
        "Maximum number of connections to a database. If none is free, a request waits for one.",
        integer(3, 256),
        "8",
    )
    total_connections: int = setting(
        "HOOK_TOTAL_CONNECTIONS",
        "Maximum number of connections to all databases together; never less than HOOK_CONNECTIONS. If none is free, "
        "those that other databases do not use are closed.",
        integer(3, 256),
        "128",
    )
    databases_dir: Path | None = setting(
        "PSQL_DATABASES_DIR",
        "Folder with a folder for each further database, of the name that spec.database gives; in it are files named "
        "host, port, dbname, user and password, and like any other PSQL_* setting. Read again when it changes.",
        variables.path,
    )
    tokens_file: Path | None = setting(
        "HOOK_TOKENS_FILE",
        "File with the bearer tokens that /sync and /finalize accept, one per line, all valid at once; read again "
        "when it changes. A token has only visible ASCII characters; lines that begin with # are comments. Without the "
        "file anyone who reaches the port may call the hooks.",
        variables.path,
    )
    tls_cert_file: Path | None = setting(
        "HOOK_TLS_CERT_FILE",
        "Certificate chain of the server (PEM); with it the server speaks only TLS 1.2 or later. Read again when "
        "it changes.",
        variables.path,
    )
    tls_key_file: Path | None = setting("HOOK_TLS_KEY_FILE", "Key of HOOK_TLS_CERT_FILE.", variables.path)
    max_body_bytes: int = setting(
        "HOOK_MAX_BODY_BYTES",
        "Largest request body in bytes. The default is enough to finalize the largest object that etcd can store.",
        integer(1024, 1024**3),
        str(16 * 1024**2),
    )
    resync_seconds: float = setting(
        "HOOK_RESYNC_SECONDS",
        "Average seconds between resyncs of a resource, which repair drift.",
        seconds(0.1, 7 * 24 * 3600),
        "300",
    )
    table_policy_file: Path | None = setting(
        "HOOK_TABLE_POLICY_FILE",
        "YAML file that lists which namespaces may write to which tables; without it, all may. Read again when it "
        "changes.",
        variables.path,
    )
    audit_result_file: Path | None = setting(
        "HOOK_AUDIT_RESULT_FILE",
        "File with the latest result of the audit, mounted by the component audit; /metrics shows it. Read again when "
        "it changes.",
        variables.path,
    )
    metrics_token_required: bool = setting(
        "HOOK_METRICS_TOKEN_REQUIRED", "Whether /metrics requires a bearer token too.", boolean, "false"
    )
    log_level: str = choice("LOG_LEVEL", "Minimum level", "DEBUG, INFO, WARNING, ERROR", "INFO")
    log_format: str = choice("LOG_FORMAT", "Format of a log line", "json, text", "json")

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Config:
        """Read all variables; unset and empty ones take their defaults."""
        config = cls(DatabaseConfig.from_env(environ), **read(cls, environ))
        _both_or_neither(HOOK_TLS_CERT_FILE=config.tls_cert_file, HOOK_TLS_KEY_FILE=config.tls_key_file)
        if config.metrics_token_required and config.tokens_file is None:
            raise ConfigError("HOOK_METRICS_TOKEN_REQUIRED is true but HOOK_TOKENS_FILE is not set: set it too.")
        return config


def database_names(folder: Path | None) -> list[str]:
    """Return the names of the further databases. Raises ConfigError when the folder cannot be read."""
    try:
        return sorted(entry.name for entry in folder.iterdir() if variables.is_database(entry.name)) if folder else []
    except OSError as exc:
        raise ConfigError(f"PSQL_DATABASES_DIR cannot be read: {folder} ({exc.strerror}).") from exc


def ignore_libpq_variables(environ: MutableMapping[str, str]) -> str:
    """Remove libpq's own variables, because only PSQL_* count; gives a sentence that names them, or an empty text."""
    ignored = sorted(filter(_LIBPQ_VARIABLE.fullmatch, environ))
    for name in ignored:
        del environ[name]
    return f"Ignored the environment's {', '.join(ignored)}: only the PSQL_* variables count." if ignored else ""


def _both_or_neither(**pair: object) -> None:
    missing = [name for name, value in pair.items() if value is None]
    if len(missing) == 1:
        [present] = pair.keys() - set(missing)
        raise ConfigError(f"{present} is set without {missing[0]}: set both, or neither.")


GROUPS = {"database": settings_of(DatabaseConfig).values(), "server": settings_of(Config).values()}
SETTINGS = tuple(each for group in GROUPS.values() for each in group)


def help_text() -> str:
    """Return the variables as a help shows them."""
    lines: list[str] = []
    for title, group in GROUPS.items():
        lines.append(f"environment ({title}):")
        for each in group:
            lines.append(f"  {each.name} (default: {each.default_text})")
            lines += textwrap.wrap(each.meaning, 80, initial_indent=" " * 6, subsequent_indent=" " * 6)
        lines.append("")
    return "\n".join(lines)

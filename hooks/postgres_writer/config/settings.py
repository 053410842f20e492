"""The one table of environment variables: name, default, meaning and how its text is read.

`config.py` turns the parsed values into a Config; `serve --help` and the configuration reference print the
same table, so that a variable cannot exist without its documentation.
"""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from postgres_writer.config.tokens import tokens_in
from postgres_writer.errors import ConfigError

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
LOG_FORMATS = ("json", "text")
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
SESSION_ATTRIBUTES = ("any", "read-write", "read-only", "primary", "standby", "prefer-standby")
CHANNEL_BINDINGS = ("disable", "prefer", "require")
MAX_BODY_BYTES = 16 * 1024 * 1024


def text(_name: str, value: str) -> str:
    """Return the value as it is."""
    return value


def integer(lowest: int, highest: int) -> Callable[[str, str], int]:
    """Return a parser of whole numbers between lowest and highest."""

    def parse(name: str, value: str) -> int:
        # isdecimal keeps out the signs, underscores and blanks that int() lets through
        if not (value.isascii() and value.isdecimal() and lowest <= int(value[:20]) <= highest):
            raise ConfigError(f"{name} must be a whole number from {lowest} to {highest}, not {value!r}.")
        return int(value)

    return parse


def seconds(name: str, value: str) -> float:
    """Return a positive, finite number of seconds."""
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise ConfigError(f"{name} must be a positive number of seconds, not {value!r}.")
    return number


def boolean(name: str, value: str) -> bool:
    """Return whether the value says true or false in one of the usual spellings."""
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if value.lower() not in known:
        raise ConfigError(f"{name} must be true or false, not {value!r}.")
    return known[value.lower()]


def one_of(*choices: str) -> Callable[[str, str], str]:
    """Return a parser that accepts one of the choices, whatever its case."""

    def parse(name: str, value: str) -> str:
        for choice in choices:
            if value.lower() == choice.lower():
                return choice
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, not {value!r}.")

    return parse


def readable_file(name: str, value: str) -> Path:
    """Return the path of a file that this process can read now."""
    path = Path(value)
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise ConfigError(f"{name} names a file that cannot be read: {value} ({error.strerror}).") from error
    return path


def root_certificate(name: str, value: str) -> str:
    """Return the path of a readable file, or libpq's word "system" for the system's own trust store."""
    return value if value == "system" else str(readable_file(name, value))


def tokens_file(name: str, value: str) -> Path:
    """Return the path of a readable file that holds at least one token."""
    path = readable_file(name, value)
    try:
        content = path.read_text(encoding="utf-8").encode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} must be UTF-8 text with one token per line: {value}.") from error
    if not tokens_in(content):
        raise ConfigError(f"{name} holds no token, so every hook call would be refused: {value}.")
    return path


_PORT = integer(1, 65535)


def ports(name: str, value: str) -> int | str:
    """Return one port, or libpq's comma-separated list of them when PSQL_HOST is a list."""
    parsed = [_PORT(name, part.strip()) for part in value.split(",")]
    return parsed[0] if len(parsed) == 1 else ",".join(str(port) for port in parsed)


def available_cpus() -> int:
    """Return how many processors this process may use: its affinity, and the container's limit if lower.

    A container limited to one processor of a 64-core node still sees 64 in os.cpu_count().
    """
    try:
        affinity = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        affinity = os.cpu_count() or 1
    limit = container_cpu_limit(Path("/sys/fs/cgroup/cpu.max"))
    return affinity if limit is None else max(1, min(affinity, math.ceil(limit)))


def container_cpu_limit(cpu_max: Path) -> float | None:
    """Return the processors that cgroup v2's "quota period" allows; None for "max" and where it is absent."""
    try:
        quota, period = cpu_max.read_text(encoding="ascii").split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def default_workers() -> int:
    """Return the number of worker processes: one per processor, so that each can be busy whatever holds a GIL.

    Two at least: a worker that ends must not leave nobody. Eight at most: each holds connections to PostgreSQL.
    """
    # The benchmark on two processors, at 16 and 64 connections: 2 workers of 4 threads answer as many no-op syncs
    # as 4 of 4 (3,128 to 3,310 a second) and as many writes (1,894 to 1,814), with half the connections and memory.
    return max(2, min(available_cpus(), 8))


# A thread waits for PostgreSQL during a third of a write: with 4 a worker has one that computes, one that waits and
# two to spare for a slow statement. With 8 they queue for the GIL, and every one keeps a connection open.
DEFAULT_THREADS = 4


@dataclass(frozen=True)
class Setting:
    """One environment variable: what it means, what it is when unset, how its text is read."""

    name: str
    default: str | None
    meaning: str
    parse: Callable[[str, str], Any] = text
    shown_default: str | None = None

    @property
    def default_text(self) -> str:
        """The default as the help shows it."""
        return self.shown_default or self.default or "none"

    def read(self, environ: Mapping[str, str]) -> Any:
        """Return the parsed value of this variable; an empty one counts as unset.

        Raises ConfigError with one sentence that names the variable.
        """
        value = environ.get(self.name) or self.default
        return None if value is None else self.parse(self.name, value)


DATABASE_SETTINGS = (
    Setting(
        "PSQL_HOST",
        None,
        "Host of PostgreSQL, or the folder of its Unix socket; several hosts as a,b for a fail-over. "
        "Required unless --embedded is given.",
    ),
    Setting("PSQL_PORT", "5432", "Port of PostgreSQL; with several hosts one for all, or a list as long.", ports),
    Setting("PSQL_DBNAME", "postgres", "Database that holds the tables."),
    Setting("PSQL_USER", "postgres", "Role to log in as."),
    Setting("PSQL_PASSWORD", None, "Password of the role. Prefer PSQL_PASSWORD_FILE."),
    Setting(
        "PSQL_PASSWORD_FILE",
        None,
        "File with the password, read anew for every connection, so that a rotated one needs no restart. While it "
        "is rotated, old and new on a line each: both are tried.",
        readable_file,
    ),
    Setting("PSQL_SSLMODE", None, f"TLS to PostgreSQL: {', '.join(SSL_MODES)}.", one_of(*SSL_MODES), "prefer"),
    Setting(
        "PSQL_SSLROOTCERT",
        None,
        'File with the certificates that may sign PostgreSQL\'s, or "system".',
        root_certificate,
    ),
    Setting("PSQL_SSLCERT", None, "File with the client certificate for PostgreSQL.", readable_file),
    Setting("PSQL_SSLKEY", None, "File with the key of PSQL_SSLCERT.", readable_file),
    Setting(
        "PSQL_CHANNEL_BINDING",
        None,
        f"SCRAM channel binding: {', '.join(CHANNEL_BINDINGS)}.",
        one_of(*CHANNEL_BINDINGS),
        "prefer",
    ),
    Setting(
        "PSQL_TARGET_SESSION_ATTRS",
        None,
        f"Which of several hosts will do: {', '.join(SESSION_ATTRIBUTES)}.",
        one_of(*SESSION_ATTRIBUTES),
        "any",
    ),
    Setting("PSQL_CONNECT_TIMEOUT", "3", "Seconds to wait for a connection, shared by the hosts.", seconds),
    Setting(
        "PSQL_STATEMENT_TIMEOUT",
        "4",
        "Seconds that a statement, its locks included, may take. Together with the connect timeout at most "
        "8, because the webhook's caller gives up after 10.",
        seconds,
    ),
    Setting(
        "PSQL_PREPARED_STATEMENTS",
        "true",
        "Prepare statements once per connection. Set to false behind a PgBouncer that pools transactions.",
        boolean,
    ),
)

SERVER_SETTINGS = (
    Setting(
        "HOOK_HOST",
        "127.0.0.1",
        "Address to listen on. :: stands for all addresses, IPv6 and IPv4, or only IPv4 where IPv6 is off; the "
        "container image sets it. 0.0.0.0 stands for all IPv4 addresses.",
    ),
    Setting("HOOK_PORT", "8080", "Port to listen on.", _PORT),
    Setting(
        "HOOK_WORKERS",
        None,
        "Worker processes.",
        integer(1, 128),
        "one per processor, 2 to 8",
    ),
    Setting(
        "HOOK_THREADS",
        str(DEFAULT_THREADS),
        "Threads, and so database connections, per worker.",
        integer(1, 256),
    ),
    Setting(
        "HOOK_TOKENS_FILE",
        None,
        "File with the bearer tokens that /sync and /finalize accept, one per line, all valid at once; read "
        "anew when it changes. Without it anyone who reaches the port may call the hooks.",
        tokens_file,
    ),
    Setting(
        "HOOK_TLS_CERT_FILE",
        None,
        "Certificate chain of the server (PEM); with it the server speaks TLS 1.2 or later only. Read anew "
        "when it changes.",
        readable_file,
    ),
    Setting("HOOK_TLS_KEY_FILE", None, "Key of HOOK_TLS_CERT_FILE.", readable_file),
    Setting(
        "HOOK_MAX_BODY_BYTES",
        str(MAX_BODY_BYTES),
        "Largest request body in bytes. The default lets the largest object that etcd holds finalize.",
        integer(1024, 1024**3),
    ),
    Setting(
        "HOOK_RESYNC_SECONDS",
        "300",
        "Mean seconds between two looks at a row, so that drift is repaired.",
        seconds,
    ),
    Setting(
        "HOOK_TABLE_POLICY_FILE",
        None,
        "YAML file that says which namespaces may write which tables; without it, all. Read anew when it changes.",
        readable_file,
    ),
    Setting("HOOK_METRICS_TOKEN_REQUIRED", "false", "Ask for a bearer token on /metrics too.", boolean),
    Setting("LOG_LEVEL", "INFO", f"Least level logged: {', '.join(LOG_LEVELS)}.", one_of(*LOG_LEVELS)),
    Setting("LOG_FORMAT", "json", "Shape of a log line: json or text.", one_of(*LOG_FORMATS)),
)

SETTINGS = DATABASE_SETTINGS + SERVER_SETTINGS

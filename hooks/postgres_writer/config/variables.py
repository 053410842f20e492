"""One environment variable: how a field of a frozen dataclass declares it, and how its text is read.

A parser takes the variable's name and its text and returns the value. Every error is a ConfigError whose text is one
sentence that names the variable and says what it may be.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from postgres_writer.errors import ConfigError

T = TypeVar("T")
Parser = Callable[[str, str], T]

IDENTIFIER = r"[A-Za-z_][A-Za-z0-9_$]{0,62}"
"""The pattern of a schema's or a table's name; PostgreSQL truncates a longer one than 63 bytes, so it is refused."""
DEFAULT_DATABASE = "default"  # what the database of the PSQL_* variables is called
_DATABASE = re.compile("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_DAMAGED = "\ufeff\ud800-\udfff"  # A byte order mark, and what stands for bytes that are not UTF-8
# a name in Compose may hold an underscore
_LABEL = re.compile("[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)


def is_database(value: object) -> TypeGuard[str]:
    """Say whether the value can be the name of a further database."""
    return isinstance(value, str) and value != DEFAULT_DATABASE and _DATABASE.fullmatch(value) is not None


def _parser(form: str, fits: Callable[[str], object], read: Callable[[str], T]) -> Parser[T]:
    """Return a parser that reads what fits; ``form`` says what that is, and may quote the text as {!r}."""

    def parse(name: str, value: str) -> T:
        if not fits(value):
            raise ConfigError(f"{name} must be {form.format(value)}.")
        return read(value)

    return parse


def integer(lowest: int, highest: int) -> Parser[int]:
    """Return a parser of whole numbers between lowest and highest."""
    # without the signs, underscores and blanks that int() lets through, and the 5,000 digits that it refuses
    return _parser(
        f"a whole number from {lowest} to {highest}, not {{!r}}",
        lambda value: re.fullmatch("[0-9]{1,20}", value) and lowest <= int(value) <= highest,
        int,
    )


def seconds(lowest: float, highest: float) -> Parser[float]:
    """Return a parser of seconds between lowest and highest, fractions included."""
    # without the words, exponents, underscores, blanks and digits of other scripts that float() lets through
    return _parser(
        f"a number of seconds from {lowest:g} to {highest:g}, not {{!r}}",
        lambda value: re.fullmatch(r"[0-9]{1,20}(\.[0-9]{1,20})?", value) and lowest <= float(value) <= highest,
        float,
    )


def _one_of(form: str, values: Mapping[str, T]) -> Parser[T]:
    """Return a parser that finds a value by its text in lower case."""
    return _parser(f"{form}, not {{!r}}", lambda value: value.lower() in values, lambda value: values[value.lower()])


def _is_host(value: str) -> bool:
    """Say whether it is an IP address, or a host name as RFC 1123 has it."""
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(value))
    labels = [""]
    with contextlib.suppress(UnicodeError):
        labels = value.encode("idna").decode().removesuffix(".").split(".")
    # a name that ends in a number is an address that is none
    return all(map(_LABEL.fullmatch, labels)) and not labels[-1].isdigit()


_is_line = re.compile(f"[^\x00-\x1f\x7f-\x9f{_DAMAGED}]*").fullmatch
_LINE = "one line of UTF-8 text without control characters and byte order mark"
text = _parser(_LINE, _is_line, str)
path = _parser(_LINE, _is_line, Path)  # A parser of a file's name; the code that loads the file checks that it is there
# a password is not quoted, and control characters may be part of it
secret = _parser("UTF-8 text without NUL and byte order mark", re.compile(f"[^\0{_DAMAGED}]*").fullmatch, str)
boolean = _one_of("true or false", {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False})
port = integer(1, 65535)
host = _parser("an IP address or a host name, not {!r}", _is_host, str)
schema = _parser(
    "at most 63 letters, digits, '_' or '$', not starting with a digit or '$', and no system schema, not {!r}",
    re.compile(rf"(?!pg_|information_schema\Z){IDENTIFIER}").fullmatch,
    str,
)
"""A parser of a schema that spec.table can name, too."""


def host_names(name: str, value: str) -> tuple[str, ...]:
    """Return the hosts of a comma-separated list: addresses, names, or folders of Unix sockets."""
    hosts = tuple(each.strip() for each in text(name, value).split(","))
    if not all(hosts):
        raise ConfigError(f"{name} has an empty host in its list: {value!r}.")
    return tuple(each if each.startswith(("/", "@")) else host(name, each) for each in hosts)


def ports(name: str, value: str) -> tuple[int, ...]:
    """Return the ports of a comma-separated list."""
    return tuple(port(name, part.strip()) for part in value.split(","))


def root_certificate(name: str, value: str) -> str:
    """Return the path of a file with certificates, or libpq's word "system" for the system's own trust store."""
    return value if value == "system" else certificates(name, value)


def certificates(name: str, value: str) -> str:
    """Return the path of a file with certificates, readable now: libpq would complain at the first connection."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(text(name, value))
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{name} must name a file with certificates in PEM: {value} ({_reason(exc)}).") from exc
    return value


def certificate_and_key(names: str, context: ssl.SSLContext, certificate: Path | str, key: Path | str) -> None:
    """Load a certificate with its key; ``names`` are those of both settings.

    Raises ConfigError with one sentence when the files are not a certificate and its unencrypted key.
    """
    try:
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except (OSError, ValueError) as exc:
        raise ConfigError(
            f"{names} must be a certificate in PEM and its unencrypted key: {certificate}, {key} ({_reason(exc)})."
        ) from exc


def _reason(exc: Exception) -> object:
    # ssl.SSLError is an OSError with a short reason beside its text about OpenSSL's internals
    reason = getattr(exc, "reason", None) or getattr(exc, "strerror", None) or exc
    return "the key is not that of the certificate" if reason == "KEY_VALUES_MISMATCH" else reason


def _no_passphrase() -> str:
    # without this OpenSSL would ask on the terminal and the start would hang
    raise ValueError("the key is encrypted")


def text_of(name: str, file: Path) -> str:
    """Return the text of a file, whose line ends stay as they are."""
    try:
        return file.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{name} cannot be read: {file} ({getattr(exc, 'strerror', 'not UTF-8')}).") from exc


@dataclass(frozen=True)
class Setting:
    """One environment variable: what it means, how its text is read, and the text that an unset or empty one has.

    Without a default its value is then None, which the help shows as ``unset``.
    """

    name: str
    meaning: str
    parse: Parser[Any] = text
    default: str = ""
    unset: str = "none"

    @property
    def default_text(self) -> str:
        """The default as the help shows it."""
        return self.default or self.unset

    def read(self, environ: Mapping[str, str]) -> Any:
        """Return the value that the environment gives this setting."""
        value = environ.get(self.name) or self.default
        return self.parse(self.name, value) if value else None


def setting(name: str, meaning: str, parse: Parser[Any] = text, default: str = "", unset: str = "none") -> Any:
    """Declare a field with the variable that sets it; what a secret holds shows in no text of the dataclass."""
    declared = Setting(name, meaning, parse, default, unset)
    return field(default=declared.read({}), repr=parse is not secret, metadata={"setting": declared})


def choice(name: str, meaning: str, choices: str, default: str = "", unset: str = "none") -> Any:
    """Declare a field whose variable takes one of the choices, whatever its case; its meaning lists them."""
    parse = _one_of(f"one of {choices}", {each.lower(): each for each in choices.split(", ")})
    return setting(name, f"{meaning}: {choices}.", parse, default, unset)


def settings_of(cls: type[Any]) -> dict[str, Setting]:
    """Return the settings of a dataclass by their fields."""
    return {each.name: each.metadata["setting"] for each in fields(cls) if each.metadata}


def read(cls: type[Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of the fields that settings declare."""
    return {name: each.read(environ) for name, each in settings_of(cls).items()}

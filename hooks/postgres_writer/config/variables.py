"""One environment variable: how a field of a frozen dataclass declares it, and how its text is read.

A parser takes the variable's name and its text and returns the value. Every error is a ConfigError whose text is one
sentence that names the variable and says what it may be.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from postgres_writer.errors import ConfigError

# control characters, a byte order mark, and what stands for bytes that are not UTF-8
_UNUSABLE = re.compile("[\x00-\x1f\x7f-\x9f\ufeff\ud800-\udfff]")
# a name in Compose may hold an underscore
_LABEL = re.compile("[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)


def text(name: str, value: str) -> str:
    """Return the value as it is: one line of text."""
    if _UNUSABLE.search(value):
        raise ConfigError(f"{name} must be one line of UTF-8 text without control characters and byte order mark.")
    return value


def secret(name: str, value: str) -> str:
    """Return a password as it is; control characters may be part of it."""
    if re.search("[\0\ufeff\ud800-\udfff]", value):
        raise ConfigError(f"{name} must be UTF-8 text without NUL and byte order mark.")
    return value


@dataclass(frozen=True)
class Setting:
    """One environment variable: what it means, how its text is read, and its value when it is unset or empty."""

    name: str
    meaning: str
    parse: Callable[[str, str], Any] = text
    default: Any = None
    shown_default: str = ""
    required: str = ""
    """What to do when it is unset, for a setting without which nothing works."""

    @property
    def default_text(self) -> str:
        """The default as the help shows it."""
        if self.shown_default or self.default is None:
            return self.shown_default or "none"
        if isinstance(self.default, bool):
            return str(self.default).lower()
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    def read(self, environ: Mapping[str, str]) -> Any:
        """Return the value that the environment gives this setting.

        Raises ConfigError with one sentence that names the variable.
        """
        value = environ.get(self.name)
        if value:
            return self.parse(self.name, value)
        if self.required:
            raise ConfigError(f"{self.name} is not set: {self.required}.")
        return self.default


def setting(  # noqa: PLR0913, PLR0917 - what a Setting takes
    name: str,
    meaning: str,
    parse: Callable[[str, str], Any] = text,
    default: Any = None,
    shown_default: str = "",
    required: str = "",
    **options: Any,
) -> Any:
    """Declare a field with the variable that sets it; ``options`` are those of dataclasses.field."""
    if not required:
        options["default"] = default
    return field(**options, metadata={"setting": Setting(name, meaning, parse, default, shown_default, required)})


def choice(name: str, meaning: str, choices: Sequence[str], default: str | None = None, shown_default: str = "") -> Any:
    """Declare a field whose variable takes one of the choices, which its meaning lists."""
    return setting(name, f"{meaning}: {', '.join(choices)}.", one_of(*choices), default, shown_default)


def read(cls: type[Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of the fields that settings declare."""
    return {each.name: each.metadata["setting"].read(environ) for each in fields(cls) if each.metadata}


def settings_of(cls: type[Any]) -> tuple[Setting, ...]:
    """Return the settings of a dataclass in the order of its fields."""
    return tuple(each.metadata["setting"] for each in fields(cls) if each.metadata)


def integer(lowest: int, highest: int) -> Callable[[str, str], int]:
    """Return a parser of whole numbers between lowest and highest."""

    def parse(name: str, value: str) -> int:
        # without the signs, underscores and blanks that int() lets through, and the 5,000 digits that it refuses
        if not (re.fullmatch("[0-9]{1,20}", value) and lowest <= int(value) <= highest):
            raise ConfigError(f"{name} must be a whole number from {lowest} to {highest}, not {value!r}.")
        return int(value)

    return parse


def seconds(lowest: float, highest: float) -> Callable[[str, str], float]:
    """Return a parser of seconds between lowest and highest, fractions included."""

    def parse(name: str, value: str) -> float:
        # without the words, exponents, underscores, blanks and digits of other scripts that float() lets through
        if not (re.fullmatch(r"[0-9]{1,20}(\.[0-9]{1,20})?", value) and lowest <= float(value) <= highest):
            raise ConfigError(f"{name} must be a number of seconds from {lowest:g} to {highest:g}, not {value!r}.")
        return float(value)

    return parse


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


def path(name: str, value: str) -> Path:
    """Return the path of a file; the code that loads the file checks it."""
    return Path(text(name, value))


def text_of(name: str, file: Path) -> str:
    """Return the text of a file, whose line ends stay as they are.

    Raises ConfigError with one sentence that names the setting.
    """
    try:
        return file.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{name} cannot be read: {file} ({getattr(exc, 'strerror', 'not UTF-8')}).") from exc


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


def host(name: str, value: str) -> str:
    """Return an IP address, or a host name as RFC 1123 has it."""
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(value)
        return value
    labels = [""]
    with contextlib.suppress(UnicodeError):
        labels = value.encode("idna").decode().removesuffix(".").split(".")
    # a name that ends in a number is an address that is none
    if not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdigit():
        raise ConfigError(f"{name} must be an IP address or a host name, not {value!r}.")
    return value


def schema(name: str, value: str) -> str:
    """Return the name of a schema that spec.table can name, too."""
    if not re.fullmatch(r"(?!pg_|information_schema\Z)[A-Za-z_][A-Za-z0-9_$]{0,62}", value):
        raise ConfigError(
            f"{name} must be at most 63 letters, digits, '_' or '$', not starting with a digit or '$', and no system "
            f"schema, not {value!r}."
        )
    return value


def host_names(name: str, value: str) -> tuple[str, ...]:
    """Return the hosts of a comma-separated list: addresses, names, or folders of Unix sockets."""
    hosts = tuple(each.strip() for each in text(name, value).split(","))
    if not all(hosts):
        raise ConfigError(f"{name} has an empty host in its list: {value!r}.")
    return tuple(each if each.startswith(("/", "@")) else host(name, each) for each in hosts)


port = integer(1, 65535)


def ports(name: str, value: str) -> tuple[int, ...]:
    """Return the ports of a comma-separated list."""
    return tuple(port(name, part.strip()) for part in value.split(","))

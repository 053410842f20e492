"""Tokens, certificate and table policy: loaded and checked here, and read again when their files change.

A file that cannot be read, or holds something else, is a ConfigError with one sentence that names the setting.
"""

from __future__ import annotations

import logging
import re
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from postgres_writer.config.settings import Config, database_names
from postgres_writer.config.variables import certificate_and_key, text_of
from postgres_writer.core.audit_result import AuditResult
from postgres_writer.core.policy import TablePolicy, parse_policy
from postgres_writer.errors import ConfigError

logger = logging.getLogger(__name__)

T = TypeVar("T")

CHECK_SECONDS = 1.0
"""How often the files are looked at, at most; Kubernetes itself takes up to a minute to update a mounted Secret."""


class Watched(Generic[T]):
    """The value of ``load(*paths)``, made again when one of the files has changed.

    A change that cannot be loaded (the moment between the writing of two files, a mistake) leaves the previous value
    in use. It is logged once and tried again at every look, because what was wrong need not show in the files: a
    folder on the way to them, or the process's own limits. Raises what ``load`` raises when the first load fails.
    """

    def __init__(self, what: str, load: Callable[..., T], *paths: Path) -> None:
        self._what = what
        self._paths = paths
        self._load = load
        # before load(), for the same reason as in _refresh()
        self._version = tuple(map(_version, paths))
        self._unusable: tuple[object, ...] | None = None
        self._next_check = time.monotonic() + CHECK_SECONDS
        self._value = load(*paths)

    def current(self) -> T:
        """Give the value of the files as they were a second ago or later."""
        now = time.monotonic()
        if now >= self._next_check:
            # before the look: the others use the value that is there meanwhile, and even a load that fails unexpectedly
            # is tried once a second, not by every request
            self._next_check = now + CHECK_SECONDS
            self._refresh()
        return self._value

    def _refresh(self) -> None:
        # taken before the files are read: if they change while they are read, the next check finds another version
        version = tuple(map(_version, self._paths))
        if version == self._version:
            return
        try:
            self._value = self._load(*self._paths)
        except (OSError, ValueError, ConfigError) as exc:
            if version != self._unusable:
                # the texts of other errors may quote the file
                cause = str(exc) if isinstance(exc, ConfigError) else f"({type(exc).__name__})"
                logger.warning("Could not reload the %s; keeping the previous one. %s", self._what, cause)
            self._unusable = version
        else:
            self._version, self._unusable = version, None
            logger.info("Reloaded the %s.", self._what)


def check_files(config: Config) -> None:
    """Load every file of the configuration once. Raises ConfigError for the first unusable one."""
    database_names(config.databases_dir)
    if config.tokens_file:
        load_tokens(config.tokens_file)
    if config.tls_cert_file and config.tls_key_file:
        server_context(config.tls_cert_file, config.tls_key_file)
    if config.table_policy_file:
        load_policy(config.table_policy_file)
    if config.audit_result_file:
        load_audit_result(config.audit_result_file)


def load_tokens(path: Path, name: str = "HOOK_TOKENS_FILE") -> tuple[bytes, ...]:
    """Read the bearer tokens, one per line; blank lines and lines that begin with # do not count.

    Raises ConfigError with one sentence, which names the setting or option, when there is none, or one that no caller
    could send: no one could call the hooks.
    """
    # of the blanks around a token only those that a file of lines may have
    lines = [(number, line.strip(" \t\r")) for number, line in enumerate(text_of(name, path).split("\n"), start=1)]
    tokens = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not tokens:
        raise ConfigError(f"{name} contains no token: put one on a line of its own in {path}.")
    for number, token in tokens:
        # https://www.rfc-editor.org/rfc/rfc9110#section-5.5
        if not re.fullmatch("[!-~]+", token):
            raise ConfigError(
                f"{name}: line {number} of {path} is not a token of visible ASCII characters; blanks, a comment behind "
                "the token and a byte order mark are not allowed."
            )
    return tuple(token.encode() for _, token in tokens)


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Make a context that speaks TLS 1.2 or later."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    certificate_and_key("HOOK_TLS_CERT_FILE and HOOK_TLS_KEY_FILE", context, certificate, key)
    return context


def load_policy(path: Path) -> TablePolicy:
    """Read the table policy from its file."""
    name = "HOOK_TABLE_POLICY_FILE"
    try:
        return parse_policy(text_of(name, path))
    except ValueError as exc:
        why = "must contain rules, each with namespaces and tables as lists of globs"
        raise ConfigError(f"{name}: {path} {why}.") from exc


def load_audit_result(path: Path) -> AuditResult:
    """Read what the last audit found; before the first one there is no file."""
    try:
        return AuditResult.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return AuditResult()
    except (OSError, ValueError, RecursionError) as exc:
        raise ConfigError(f"HOOK_AUDIT_RESULT_FILE: {path} must be readable and hold what the audit stored.") from exc


def _version(path: Path) -> tuple[int, ...] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    # the time of the last change of status shows a mode or an owner that was corrected
    # Kubernetes updates a mounted Secret by swapping a symbolic link: another file, with another inode
    # https://pkg.go.dev/k8s.io/kubernetes/pkg/volume/util#AtomicWriter
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_size

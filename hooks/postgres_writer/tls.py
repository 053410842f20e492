"""The server's TLS context, which follows its files: a renewed certificate needs no restart."""

import logging
import ssl
import threading
from pathlib import Path

log = logging.getLogger(__name__)


class ReloadingContext:
    """Gives out a server context and makes a new one when the certificate or its key has changed.

    Connections that are open keep their context; new handshakes get the new certificate. Files that do not
    match (the moment between the writing of one and of the other) leave the last good context in force.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self._lock = threading.Lock()
        self._version = self._files_version()
        self._context = self._load()

    def current(self) -> ssl.SSLContext:
        """Return the context of the files as they are now; costs two stat calls when nothing changed."""
        with self._lock:
            try:
                version = self._files_version()
                if version != self._version:
                    self._context = self._load()
                    self._version = version
                    log.info("The server certificate was read anew.")
            except (OSError, ssl.SSLError) as error:
                log.warning("The changed server certificate is not usable yet: %s.", type(error).__name__)
            return self._context

    def _files_version(self) -> tuple[tuple[int, int, int], ...]:
        stats = [path.stat() for path in (self._certificate, self._key)]
        return tuple((stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in stats)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        context.load_cert_chain(self._certificate, self._key, password="")
        return context

"""The server's TLS context."""

from __future__ import annotations

import ssl
from pathlib import Path


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Make a context that speaks TLS 1.2 or later.

    Raises OSError (of which ssl.SSLError is one) or ValueError when the files are no certificate and its unencrypted
    key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.load_cert_chain(certificate, key, password=_no_passphrase)
    return context


def _no_passphrase() -> str:
    # without this OpenSSL would ask on the terminal and the start would hang
    raise ValueError("the key is encrypted")

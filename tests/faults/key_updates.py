"""A TLS client that does nothing but change its keys. The module ssl cannot do that, OpenSSL's own functions can."""

from __future__ import annotations

import ctypes
import socket
import ssl  # noqa: F401 # loads the libraries
from pathlib import Path

_NOT_REQUESTED = 0
_BUFFER = 2**20


def key_updates(client: socket.socket, number: int) -> bytes:
    """Shake hands over a connection, and return so many updates of its keys, to be sent over it."""
    tls, crypto = _library("libssl"), _library("libcrypto")
    for function in (tls.TLS_client_method, tls.SSL_CTX_new, tls.SSL_new, crypto.BIO_new, crypto.BIO_s_mem):
        function.restype = ctypes.c_void_p
    new = _call(tls.SSL_new, _call(tls.SSL_CTX_new, tls.TLS_client_method()))
    arrived, made = (_call(crypto.BIO_new, crypto.BIO_s_mem()) for _ in range(2))
    _call(tls.SSL_set_bio, new, arrived, made)
    buffer = ctypes.create_string_buffer(_BUFFER)

    def taken() -> bytes:
        parts = []
        while (size := crypto.BIO_read(ctypes.c_void_p(made), buffer, _BUFFER)) > 0:
            parts.append(buffer.raw[:size])
        return b"".join(parts)

    while _call(tls.SSL_connect, new) != 1:
        client.sendall(taken())
        data = client.recv(65536)
        crypto.BIO_write(ctypes.c_void_p(arrived), data, len(data))
    client.sendall(taken())
    for _ in range(number):
        assert tls.SSL_key_update(ctypes.c_void_p(new), _NOT_REQUESTED) == 1
        assert _call(tls.SSL_do_handshake, new) == 1
    return taken()


def _call(function: ctypes._NamedFuncPointer, *pointers: int | None) -> int:
    return int(function(*map(ctypes.c_void_p, pointers)) or 0)


def _library(name: str) -> ctypes.CDLL:
    """Return the library that the module ssl has loaded."""
    mapped = Path("/proc/self/maps").read_text(encoding="utf-8").split()
    return ctypes.CDLL(next(part for part in mapped if f"/{name}" in part))

"""A client that is slow holds a thread for a while, and no longer."""

import socket

from support.postgres import Database
from support.server import running_server


def test_slow_headers_and_bodies_are_cut_off_and_others_are_served(database: Database) -> None:
    begun = (b"POST /sync HTTP/1.1\r\nHost: x\r\n", b"POST /sync HTTP/1.1\r\nContent-Length: 10\r\n\r\n{")
    with running_server(database, HOOK_WORKERS="1", HOOK_THREADS="4") as server:
        slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(2)]
        for client, start in zip(slow, begun, strict=True):
            client.sendall(start)
        assert server.get("/healthz", timeout=5).status_code == 200
        for client in slow:
            client.settimeout(25)
            answer = client.recv(1000)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
            client.close()

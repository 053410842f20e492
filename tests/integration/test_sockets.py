"""What is asked of the system's resolver and of a caller's socket."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from postgres_writer.config.settings import Host
from postgres_writer.database.dial import targets
from postgres_writer.server.caller import call_from_socket

Pair = tuple[socket.socket, socket.socket]


class TestTargets:
    """Hosts become addresses, within a deadline."""

    def test_a_name_is_looked_up_and_keeps_its_name_for_tls(self) -> None:
        found = targets([Host("localhost", 5433)], 5)
        assert {(target["host"], target["port"]) for target in found} == {("localhost", "5433")}
        assert {target["hostaddr"] for target in found} <= {"127.0.0.1", "::1"}

    def test_addresses_and_socket_folders_need_no_look_up(self) -> None:
        assert targets([Host("127.0.0.1", 1), Host("/tmp", 2), Host("::1", 3)], 0) == [
            {"host": "127.0.0.1", "port": "1", "hostaddr": "127.0.0.1"},
            {"host": "/tmp", "port": "2"},
            {"host": "::1", "port": "3", "hostaddr": "::1"},
        ]

    def test_one_name_that_is_unknown_does_not_stop_the_others(self) -> None:
        assert [target["host"] for target in targets([Host("nowhere.invalid"), Host("127.0.0.1")], 5)] == ["127.0.0.1"]

    def test_only_unknown_names_are_an_error(self) -> None:
        with pytest.raises(socket.gaierror):
            targets([Host("nowhere.invalid")], 5)

    def test_a_look_up_ends_with_its_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        over = threading.Event()

        def silent(*_args: object, **_options: object) -> list[object]:
            over.wait(60)
            return []

        # as with a name server that does not answer; a real one may answer, or refuse, however short the time is
        monkeypatch.setattr(socket, "getaddrinfo", silent)
        try:
            with pytest.raises(OSError, match="could not be looked up in time"):
                targets([Host("nowhere.invalid")], 0.01)
        finally:
            over.set()


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Connect two sockets: the server's end and the caller's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        caller = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    with ours, caller:
        yield ours, caller


class TestCall:
    """A caller that is gone is noticed."""

    def test_a_caller_who_waits_is_there(self, pair: Pair) -> None:
        server, caller = pair
        caller.sendall(b"request")
        call = call_from_socket(server)
        assert not call.hung_up()

    def test_a_caller_who_closes_has_hung_up(self, pair: Pair) -> None:
        server, caller = pair
        call = call_from_socket(server)
        caller.close()
        assert call.hung_up()

    def test_a_connection_that_is_closed_here_has_hung_up(self, pair: Pair) -> None:
        server, _ = pair
        call = call_from_socket(server)
        server.close()
        assert call.hung_up()

    def test_without_a_socket_the_request_arrives_now_and_nobody_hangs_up(self) -> None:
        before = time.monotonic()
        call = call_from_socket(None)
        assert before <= call.arrival <= time.monotonic()
        assert not call.hung_up()

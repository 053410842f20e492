"""`postgres-writer serve` as a process: how it starts, refuses to start, stops, and bears bad clients."""

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from postgres_writer.config.settings import SETTINGS
from support.certificates import make_certificate
from support.command import run_here
from support.payloads import payload, resource
from support.ports import free_port
from support.postgres import Database, scrubbed_environment
from support.server import PROGRAM, ServerProcess, running_server, serving
from support.waiting import wait_until

SYNC = payload(resource())


def serve(*arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    """Run `serve` to its end: only for starts that are refused."""
    return run_here("serve", *arguments, environ=environ)


@pytest.fixture(scope="module")
def bare_server() -> Iterator[ServerProcess]:
    """Run a server that reaches no database, with settings of earlier versions."""
    environ = {"PSQL_HOST": "127.0.0.1", "PSQL_PORT": str(free_port()), "HOOK_THREADS": "many", "HOOK_WORKERS": "3"}
    with serving(ServerProcess(environ)) as server:
        yield server


class TestStart:
    """A start that cannot work ends with exit code 2 and one sentence that names the variable."""

    @pytest.mark.parametrize(
        ("environ", "variable"),
        [
            ({}, "PSQL_HOST"),
            ({"PSQL_HOST": "db", "HOOK_PORT": "abc"}, "HOOK_PORT"),
            ({"PSQL_HOST": "db", "PSQL_PORT": "abc"}, "PSQL_PORT"),
            ({"PSQL_HOST": "db", "HOOK_TOKENS_FILE": "/no/such"}, "HOOK_TOKENS_FILE"),
            ({"PSQL_HOST": "db", "HOOK_TLS_CERT_FILE": os.devnull}, "HOOK_TLS_KEY_FILE"),
            (
                {"PSQL_HOST": "db", "HOOK_TLS_CERT_FILE": os.devnull, "HOOK_TLS_KEY_FILE": os.devnull},
                "HOOK_TLS_CERT_FILE",
            ),
            ({"PSQL_HOST": "db", "HOOK_HOST": "192.0.2.1"}, "HOOK_HOST"),
            ({"PSQL_HOST": "db", "HOOK_HOST": "name.invalid"}, "HOOK_HOST"),
            ({"PSQL_HOST": "db", "HOOK_TABLE_POLICY_FILE": os.devnull}, "HOOK_TABLE_POLICY_FILE"),
            ({"PSQL_HOST": "db", "HOOK_AUDIT_RESULT_FILE": os.devnull}, "HOOK_AUDIT_RESULT_FILE"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_a_bad_value_ends_it_with_two(self, environ: dict[str, str], variable: str) -> None:
        ended = serve(**environ)
        assert ended.returncode == 2
        [sentence] = ended.stderr.splitlines()
        assert sentence.startswith("postgres-writer: ")
        assert variable in sentence

    def test_embedded_beside_a_host_ends_it_with_two(self, tmp_path: Path) -> None:
        ended = serve("--embedded", "--data-dir", str(tmp_path / "data"), PSQL_HOST="db")
        assert (ended.returncode, "PSQL_HOST" in ended.stderr) == (2, True)
        assert not (tmp_path / "data").exists()

    @pytest.mark.parametrize("host", ["127.0.0.1", "::"])
    def test_a_port_in_use_ends_it_with_two_before_a_database_is_started(self, tmp_path: Path, host: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            ended = serve("--embedded", "--data-dir", str(tmp_path / "data"), HOOK_HOST=host, HOOK_PORT=port)
        assert ended.returncode == 2
        [sentence] = ended.stderr.splitlines()
        assert sentence.startswith("postgres-writer: HOOK_HOST and HOOK_PORT: ")
        assert "in use" in sentence
        assert not (tmp_path / "data").exists()

    def test_the_process_ends_with_two(self) -> None:
        environ = scrubbed_environment(os.environ)
        ended = subprocess.run([PROGRAM, "serve"], env=environ, capture_output=True, text=True, timeout=60, check=False)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert ended.stderr == serve().stderr

    def test_the_help_lists_every_variable_with_its_default(self) -> None:
        ended = serve("--help")
        assert ended.returncode == 0
        for setting in SETTINGS:
            assert f"{setting.name} (default: {setting.default_text})" in ended.stdout

    def test_settings_that_are_no_longer_used_are_named_once(self, bare_server: ServerProcess) -> None:
        assert len(bare_server.workers()) == 1
        for name in ("HOOK_THREADS", "HOOK_WORKERS"):
            assert bare_server.logs.count(f"{name} is no longer used") == 1

    def test_it_serves_without_a_database(self, bare_server: ServerProcess) -> None:
        assert bare_server.get("/readyz").status_code == 200
        answer = bare_server.post("sync", SYNC).json()
        assert answer["status"]["conditions"][0]["reason"] == "DatabaseUnavailable"


def wait_for(database: Database, condition: str) -> None:
    """Wait until a query of pg_stat_activity finds something."""
    wait_until(lambda: database.query(f"SELECT 1 FROM pg_stat_activity WHERE {condition}"), condition)


class TestStop:
    """SIGTERM ends the server; what it is doing is finished first."""

    def test_an_interrupted_server_ends_with_zero_and_every_line_of_its_log_is_json(
        self, server: ServerProcess
    ) -> None:
        status = server.post("sync", SYNC).json()["status"]
        # an operation that changes nothing is not told at the level INFO
        server.post("sync", payload(resource(status=status)))
        assert server.stop(signal.SIGINT) == 0
        lines = [json.loads(line) for line in server.logs.splitlines()]
        [change] = [line for line in lines if "operation" in line]
        assert change["operation"] == "inserted"
        assert (change["namespace"], change["name"], change["reason"]) == ("default", "sample", "RowSynced")

    def test_a_hook_in_flight_is_finished(self, database: Database, server: ServerProcess) -> None:
        answers: list[requests.Response] = []
        call = threading.Thread(target=lambda: answers.append(server.post("sync", SYNC)))
        with database.connection() as locker:
            locker.autocommit = False
            locker.cursor().execute("LOCK TABLE students")
            call.start()
            wait_for(database, "wait_event_type = 'Lock' AND application_name = 'postgres-writer'")
            os.kill(server.pid, signal.SIGTERM)
            time.sleep(0.5)
            assert not answers
            locker.rollback()
        call.join(60)
        assert answers[0].status_code == 200
        assert answers[0].json()["status"]["conditions"][0]["reason"] == "RowSynced"
        assert server.stop() == 0
        assert len(database.rows()) == 1

    def test_a_kept_alive_connection_is_never_cut(self, database: Database) -> None:
        """Callers in a loop get whole answers until one says `Connection: close`."""
        failures: list[Exception] = []
        answered: list[int] = []

        def loop(port: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            body, headers = json.dumps(SYNC), {"Content-Type": "application/json"}
            try:
                closing = False
                while not closing:
                    connection.request("POST", "/sync", body, headers)
                    response = connection.getresponse()
                    closing = response.getheader("Connection") == "close"
                    json.loads(response.read())
                    answered.append(response.status)
            except (OSError, ValueError, http.client.HTTPException) as error:
                failures.append(error)
            finally:
                connection.close()

        with running_server(database) as server:
            callers = [threading.Thread(target=loop, args=(server.port,)) for _ in range(4)]
            for caller in callers:
                caller.start()
            while len(answered) < 20 and not failures:
                time.sleep(0.02)
            os.kill(server.pid, signal.SIGTERM)
            for caller in callers:
                caller.join(60)
        assert failures == []
        assert set(answered) == {200}


class TestBadClients:
    """A client that sends something other than HTTP affects no one else."""

    @pytest.mark.parametrize(
        "sent",
        [
            b"POST /sync HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST /sync HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
            b"POST /sync HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
            b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * 200 + b"\r\n",
            b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: " + b"b" * 20_000 + b"\r\n\r\n",
            b"\x16\x03\x01\x02\x00 this is a TLS greeting\r\n\r\n",
        ],
        ids=["both lengths", "two lengths", "negative length", "long line", "many fields", "long field", "TLS"],
    )
    def test_broken_http_is_refused_and_closed(self, bare_server: ServerProcess, sent: bytes) -> None:
        with socket.create_connection(("127.0.0.1", bare_server.port), timeout=60) as client:
            client.sendall(sent)
            received = b""
            while chunk := client.recv(4096):
                received += chunk
        assert received.startswith(b"HTTP/1.1 4")
        assert b"Traceback" not in received
        assert bare_server.get("/healthz").status_code == 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the folder of the certificate."""
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def tls_server(shared_database: Database, folder: Path) -> Iterator[ServerProcess]:
    """Run a server with TLS."""
    made = make_certificate(folder, common_name="first")
    environ = {**shared_database.environ, **made.environ}
    with serving(ServerProcess(environ, scheme="https", verify=str(made.certificate))) as server:
        yield server


class TestTls:
    """TLS 1.2 or later only; a renewed certificate is used without a restart."""

    def test_hooks_are_answered_over_tls(self, tls_server: ServerProcess) -> None:
        assert tls_server.post("sync", SYNC).json()["status"]["conditions"][0]["reason"] == "RowSynced"

    def test_older_versions_are_refused(self, tls_server: ServerProcess) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        with (
            socket.create_connection(("127.0.0.1", tls_server.port), timeout=60) as raw,
            pytest.raises(ssl.SSLError),
        ):
            context.wrap_socket(raw)

    def test_a_renewed_certificate_is_used_by_new_connections(self, tls_server: ServerProcess, folder: Path) -> None:
        before = served_certificate(tls_server)
        kept = tls_server.post("sync", SYNC)
        make_certificate(folder, common_name="second")
        wait_until(lambda: served_certificate(tls_server) != before, "the new certificate is served")
        # the connection made with the old certificate stays open
        assert kept.status_code == tls_server.post("sync", SYNC).status_code == 200


def served_certificate(server: ServerProcess) -> str:
    """Return the certificate that a new connection gets."""
    return ssl.get_server_certificate(("127.0.0.1", server.port), timeout=10)

"""What anyone who can reach the port, write a resource or own a table still cannot do."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faults.floods import answer_and_end
from faults.site import Site
from support.callers import ask, body
from support.certificates import make_certificate
from support.payloads import DELETED, payload, resource
from support.postgres import Database
from support.server import ServerProcess, running_server, serving

SECRET = "Very-Private-Value"
TOKEN = "the-right-token"


@pytest.fixture(scope="module")
def guarded(shared_database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run a server that asks for a token."""
    tokens = tmp_path_factory.mktemp("guarded") / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    with running_server(shared_database, HOOK_TOKENS_FILE=str(tokens), HOOK_MAX_BODY_BYTES="65536") as server:
        yield server


def statuses(received: bytes) -> list[int]:
    """Return the status codes of all answers in a stream."""
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


SMUGGLED = b"POST /sync HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
HEAD = b"POST /sync HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "request_head",
    [
        pytest.param(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", id="length and chunks"),
        pytest.param(b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", id="chunks and length"),
        pytest.param(b"Content-Length: 5\r\nContent-Length: 6\r\n", id="two lengths"),
        pytest.param(b"Content-Length: 5, 6\r\n", id="a list of lengths"),
        pytest.param(b"Content-Length: +5\r\n", id="a length with a sign"),
        pytest.param(b"Content-Length: -5\r\n", id="a negative length"),
        pytest.param(b"Content-Length: 0x5\r\n", id="a hexadecimal length"),
        pytest.param(b"Content-Length : 5\r\n", id="a blank before the colon"),
        pytest.param(b"Transfer-Encoding: xchunked\r\n", id="an unknown coding"),
        pytest.param(b"Transfer-Encoding: chunked, identity\r\n", id="chunked is not the last coding"),
        pytest.param(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", id="two codings"),
        pytest.param(b"Transfer-Encoding:\x0bchunked\r\n", id="a control character before the coding"),
        pytest.param(b" Transfer-Encoding: chunked\r\n", id="a folded header"),
        pytest.param(b"Bad\x00Name: x\r\n", id="NUL in a name"),
    ],
)
def test_a_request_of_doubtful_length_is_refused_and_nothing_behind_it_is_read(
    guarded: ServerProcess, request_head: bytes
) -> None:
    received = answer_and_end(guarded.port, HEAD + request_head + b"\r\n0\r\n\r\n" + SMUGGLED)
    answered = statuses(received)
    assert len(answered) == 1, received
    assert 400 <= answered[0] < 600
    assert b"traceback" not in received.lower()


def test_a_body_longer_than_its_length_is_a_request_of_its_own_and_not_part_of_the_first(
    guarded: ServerProcess,
) -> None:
    """Ordinary pipelining: the second one has no token and is judged separately."""
    sent = json.dumps(payload(resource())).encode()
    first = HEAD + b"Authorization: Bearer " + TOKEN.encode() + b"\r\nContent-Length: %d\r\n\r\n" % len(sent) + sent
    last = SMUGGLED.removesuffix(b"\r\n") + b"Connection: close\r\n\r\n"
    assert statuses(answer_and_end(guarded.port, first + last)) == [200, 401]


AUTHORIZED = HEAD + b"Authorization: Bearer " + TOKEN.encode() + b"\r\n"


@pytest.mark.parametrize(
    ("status", "sent"),
    [
        pytest.param(414, b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\n\r\n", id="a long request line"),
        pytest.param(431, HEAD + b"X: " + b"a" * 20_000 + b"\r\n\r\n", id="a long header"),
        pytest.param(431, HEAD + b"".join(b"X-%d: a\r\n" % n for n in range(200)) + b"\r\n", id="many headers"),
        pytest.param(413, AUTHORIZED + b"Content-Length: 999999999999\r\n\r\n", id="a body over the limit"),
    ],
)
def test_limits_are_answered_at_once_and_the_server_goes_on(guarded: ServerProcess, status: int, sent: bytes) -> None:
    """The answer comes although the client sends nothing more, which would be cut off without one."""
    assert statuses(answer_and_end(guarded.port, sent)) == [status]
    assert guarded.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": TOKEN},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Bearer {TOKEN.upper()}"},
        {"Authorization": f"Bearer {TOKEN} {TOKEN}"},
        {"Authorization": "Bearer \xe9"},
    ],
    ids=str,
)
def test_without_the_token_nothing_is_done_and_nothing_is_told(
    guarded: ServerProcess, shared_database: Database, headers: dict[str, str]
) -> None:
    shared_database.query("TRUNCATE students")
    wire = {name: value.encode("latin-1") for name, value in headers.items()}
    for hook in ("sync", "finalize"):
        answer = guarded.post(hook, payload(resource(**(DELETED if hook == "finalize" else {}))), headers=wire)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert TOKEN not in answer.text
    assert shared_database.rows() == []
    assert TOKEN not in guarded.logs


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_no_name_can_forge_a_line_of_the_log(database: Database, log_format: str) -> None:
    forged = 'x"}\n{"level": "ERROR", "message": "forged"}\r\nforged=1\x1b[2J\u2028forged\x85forged'
    with running_server(database, LOG_FORMAT=log_format, LOG_LEVEL="DEBUG") as server:
        spec = {"table": "students", "name": "alex", "age": 1, "country": "canada"}
        for found in (
            resource(spec, name=forged),
            resource(spec, namespace=forged),
            resource({**spec, "table": forged}),
            resource(spec, uid=forged),
        ):
            assert server.post("sync", payload(found)).status_code == 200
        server.get("/" + "%0aforged%1b")
        lines = server.logs.split("\n")
    for line in filter(None, lines):
        assert line.isprintable(), ascii(line)
        assert not line.startswith(("forged", '{"level": "ERROR", "message": "forged"')), line
        if log_format == "json":
            assert json.loads(line)["message"] != "forged"


ROW = {"table": "students", "name": SECRET, "age": 1, "country": SECRET}
REFUSALS = {
    "a check constraint": "ALTER TABLE students ADD CHECK (age > 100)",
    "a unique column": "INSERT INTO students VALUES ('other/row', 'Very-Private-Value', 1, 'x');"
    "CREATE UNIQUE INDEX ON students (name)",
    "a value that is too long": "ALTER TABLE students ALTER name TYPE varchar(3)",
    "a column that needs a value": "ALTER TABLE students ADD needed text NOT NULL DEFAULT NULL",
    "a type that does not fit": "ALTER TABLE students ALTER country TYPE int USING 0",
    "a trigger that raises with the values": "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION 'no % here', NEW.name USING HINT = NEW.country, DETAIL = NEW.name; END $$;"
    "CREATE TRIGGER no BEFORE INSERT ON students FOR EACH ROW EXECUTE FUNCTION no()",
    "a trigger that raises as if it were busy": "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION '%', NEW.name USING ERRCODE = '40001'; END $$;"
    "CREATE TRIGGER no BEFORE INSERT ON students FOR EACH ROW EXECUTE FUNCTION no()",
    "a trigger that names a constraint after a value": "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION '%', NEW.name USING ERRCODE = '23514', CONSTRAINT = NEW.name || ' ' || NEW.name; END $$;"
    "CREATE TRIGGER no BEFORE INSERT ON students FOR EACH ROW EXECUTE FUNCTION no()",
    "row-level security": "CREATE POLICY nobody ON students USING (false); ALTER TABLE students ENABLE ROW LEVEL "
    "SECURITY; ALTER TABLE students FORCE ROW LEVEL SECURITY",
}


@pytest.mark.parametrize("log_format", ["json", "text"])
@pytest.mark.parametrize("refusal", REFUSALS)
def test_texts_of_postgresql_with_values_reach_neither_answer_nor_log(
    database: Database, refusal: str, log_format: str
) -> None:
    role = f"hook_{database.name}"
    database.query(f"CREATE ROLE {role} LOGIN")
    try:
        database.query(REFUSALS[refusal])
        database.query(f"GRANT SELECT, INSERT, UPDATE, DELETE ON students TO {role}")
        owner = Database({**database.connect, "user": role})
        with running_server(owner, LOG_FORMAT=log_format, LOG_LEVEL="DEBUG") as server:
            first = server.post("sync", payload(resource(ROW)))
            again = server.post("sync", payload(resource(ROW, first.json()["status"])))
            for answer in (first, again):
                assert answer.json()["status"]["conditions"][0]["status"] == "False", answer.text
                assert SECRET not in answer.text
            metrics = server.get("/metrics").text
            assert SECRET not in server.logs
            assert SECRET not in metrics
    finally:
        database.query(f"DROP OWNED BY {role}")
        database.query(f"DROP ROLE {role}")


def test_row_level_security_and_triggers_that_swallow_are_honest(site: Site) -> None:
    """The pair of the tests above: what is not refused but swallowed is no success either."""
    database = site.database
    database.query(
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;"
        "CREATE TRIGGER swallow BEFORE INSERT ON students FOR EACH ROW EXECUTE FUNCTION swallow()"
    )
    try:
        assert ask(site.server.port, body("swallowed")).ready == "False RowRejected"
    finally:
        database.query("DROP TRIGGER swallow ON students; DROP FUNCTION swallow()")


class Dripping:
    """Clients that send one byte after the other, for as long as the server lets them, and then come again."""

    def __init__(self, port: int, begun: bytes, number: int) -> None:
        self._port, self._begun, self._stop = port, begun, threading.Event()
        self._threads = [threading.Thread(target=self._drip, daemon=True) for _ in range(number)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _drip(self) -> None:
        while not self._stop.is_set():
            try:
                with socket.create_connection(("127.0.0.1", self._port), timeout=60) as client:
                    client.sendall(self._begun)
                    while not self._stop.wait(0.5):
                        client.sendall(b"a")
            except OSError:
                self._stop.wait(0.2)


BEGUN = {
    "headers": b"POST /sync HTTP/1.1\r\nHost: x\r\nX-Slow: ",
    "bodies": b"POST /sync HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n{",
    "chunked bodies": b"POST /sync HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\n0\r\n\r\n",
    "nothing at all": b"",
}


MANY_TIMES = 20
"""What slow clients may add to the waits of others, of whom they are a hundred; one who can hold a worker holds it for
seconds, which is a thousand times as long."""


def is_noticed(port: int, begun: bytes, sync: Callable[[str], None]) -> bool:
    """Say whether others wait much longer among a hundred slow clients than alone."""

    def mean_wait(name: str) -> float:
        began = time.monotonic()
        for number in range(20):
            sync(f"{name}-{number}")
        return (time.monotonic() - began) / 20

    alone = mean_wait("calm")
    dripping = Dripping(port, begun, 100)
    try:
        time.sleep(2)
        among = mean_wait("besieged")
    finally:
        dripping.stop()
    print(f"{alone:.4f} s alone, {among:.4f} s among slow clients")
    return among > MANY_TIMES * alone


@pytest.mark.parametrize("slow", BEGUN)
def test_a_hundred_slow_clients_starve_nobody(database: Database, slow: str) -> None:
    with running_server(database) as server:

        def sync(name: str) -> None:
            assert ask(server.port, body(name), patience=60).status == 200

        # what else the machine does may hit one of the two; what slow clients do, they do each time
        assert not all(is_noticed(server.port, BEGUN[slow], sync) for _ in range(3))


def test_a_hundred_half_handshakes_starve_nobody(database: Database, tmp_path: Path) -> None:
    made = make_certificate(tmp_path)
    server = ServerProcess({**database.environ, **made.environ}, scheme="https", verify=str(made.certificate))
    with serving(server):

        def sync(name: str) -> None:
            server.session.close()  # a handshake for each
            assert server.post("sync", body(name)).status_code == 200

        half = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"
        assert not all(is_noticed(server.port, half, sync) for _ in range(3))

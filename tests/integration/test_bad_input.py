"""Bad input over real HTTP: never a 500, never a traceback, never a lost row."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest

from integration.curl import Answer, call_hook, check_problem, curl
from postgres_writer.core.row import is_table
from support.answers import check_own_status, decode_answer
from support.payloads import DELETED, payload, recorded, resource
from support.postgres import Database
from support.server import ServerProcess, running_server
from support.spec_cases import ABSENT, SPEC_CASES, WIRE_ONLY, SpecCase, spec_with

LIMIT = 16 * 1024 * 1024
ROW = ("default/sample", "alex", 23, "canada")
KEPT = ("default/kept", "kept", 1, "kept")


class Rows:
    """The module's table students, over one connection."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def reset(self) -> None:
        """Leave two rows: that of the resource, and another one."""
        self._cursor.execute("TRUNCATE students")
        self._cursor.execute("INSERT INTO students VALUES (%s, %s, %s, %s), (%s, %s, %s, %s)", (*ROW, *KEPT))

    def rows(self) -> list[Any]:
        """Return all rows in the order of the id."""
        return self.query("SELECT id, name, age, country FROM students ORDER BY id")

    def query(self, statement: str) -> list[Any]:
        """Return the rows of a query."""
        self._cursor.execute(statement)
        found: list[Any] = self._cursor.fetchall()
        return found


@pytest.fixture(scope="module")
def site(shared_database: Database) -> Iterator[tuple[ServerProcess, Rows]]:
    """Run one server for the whole module; at its end the log must not tell of any failure."""
    with (
        running_server(shared_database) as server,
        shared_database.connection() as connection,
        connection.cursor() as cursor,
    ):
        workers = server.workers()
        yield server, Rows(cursor)
        assert '"level": "ERROR"' not in server.logs
        assert "Traceback" not in server.logs
        assert set(workers) <= set(server.workers()), "a worker died"


@pytest.fixture
def server(site: tuple[ServerProcess, Rows]) -> ServerProcess:
    return site[0]


@pytest.fixture
def database(site: tuple[ServerProcess, Rows]) -> Rows:
    site[1].reset()
    return site[1]


def post(server: ServerProcess, data: bytes, *arguments: str, hook: str = "sync", **options: Any) -> Answer:
    return curl(f"{server.url}/{hook}", *arguments, data=data, **options)


def call_often(server: ServerProcess, request: dict[str, Any]) -> dict[str, Any]:
    """Sync over a connection that stays open: a curl for each of hundreds of calls would take too long."""
    answer = server.post("sync", request)
    assert answer.status_code == 200, answer.text
    decoded = decode_answer(answer.content, "composite")
    if not decoded["finalized"]:
        check_own_status(decoded["status"])
    return decoded


def reason_of(answer: dict[str, Any]) -> str:
    return next(str(one["reason"]) for one in answer["status"]["conditions"] if one["type"] == "Ready")


def body_with(**metadata: Any) -> bytes:
    return json.dumps(payload(resource(**metadata))).encode()


SOUND = body_with()
NO_JSON: list[tuple[str, bytes]] = [
    ("an empty body", b""),
    ("blanks", b"  \n"),
    ("no JSON", b"parent: {}"),
    ("a form", b"parent=x&object=y"),
    ("half a request", SOUND[: len(SOUND) // 2]),
    ("two requests", SOUND + SOUND),
    ("no UTF-8", b'{"parent": "\xff\xfe"}'),
    ("UTF-16", SOUND.decode().encode("utf-16")),
    ("a byte order mark", b"\xef\xbb\xbf" + SOUND),
    ("a compressed body", gzip.compress(SOUND)),
    ("a bare NUL", b"\x00"),
    ("a raw NUL in a text", SOUND.replace(b"alex", b"al\x00ex")),
    ("a single quote", SOUND.replace(b'"', b"'")),
    ("NaN", SOUND.replace(b"23", b"NaN")),
    ("Infinity", SOUND.replace(b"23", b"-Infinity")),
    ("a number beyond all floats", SOUND.replace(b"23", b"1e999")),
    ("a number of 5000 digits", SOUND.replace(b"23", b"9" * 5000)),
    ("nesting without an end", b"[" * 100_000),
    ("deep lists", SOUND.replace(b"23", b"[" * 50_000 + b"]" * 50_000)),
    ("deep objects", SOUND.replace(b"23", b'{"a":' * 50_000 + b"1" + b"}" * 50_000)),
]
# one of a kind: what else is no hook request is in tests/unit/core/test_request.py
NO_REQUEST: list[tuple[str, bytes]] = [
    ("a list", b"[" + SOUND + b"]"),
    ("an empty object", b"{}"),
    ("both parent and object", json.dumps({"parent": resource(), "object": resource()}).encode()),
    ("metadata is a text", b'{"parent": {"metadata": "x"}}'),
    ("name is missing", body_with(name=ABSENT)),
    ("namespace has a lone surrogate", body_with(namespace="\ud800")),
]


@pytest.mark.parametrize("hook", ["sync", "finalize"])
def test_what_is_no_hook_request_is_a_bad_request(server: ServerProcess, database: Rows, hook: str) -> None:
    for sentence, data in (*NO_JSON, *NO_REQUEST):
        answer = post(server, data, hook=hook)
        check_problem(answer, 400)
        assert answer.json["detail"].endswith("."), sentence
    assert database.rows() == [KEPT, ROW]


@pytest.mark.parametrize(
    "content_type",
    [None, "text/plain", "text/json", "application/yaml", "application/x-www-form-urlencoded", "multipart/form-data"],
)
def test_another_content_type_is_refused(server: ServerProcess, content_type: str | None) -> None:
    check_problem(post(server, SOUND, content_type=content_type), 415)


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/json;x=y"]
)
def test_a_content_type_with_parameters_is_json(server: ServerProcess, content_type: str) -> None:
    assert post(server, SOUND, content_type=content_type).status == 200


# Size


def padded(found: dict[str, Any], size: int, **options: Any) -> bytes:
    """Return a request of exactly this many bytes: an annotation fills it up, each of its characters escaped."""
    found["metadata"]["annotations"] = {"filler": ""}
    empty = len(json.dumps(payload(found, **options)).encode())
    count, rest = divmod(size - empty, len("\\u00e9"))
    found["metadata"]["annotations"]["filler"] = "\u00e9" * count + "x" * rest
    return json.dumps(payload(found, **options)).encode()


def test_a_body_at_the_limit_still_finalizes(server: ServerProcess, database: Rows) -> None:
    data = padded(resource(status=recorded("students"), **DELETED), LIMIT, finalizing=True)
    assert len(data) == LIMIT
    answer = post(server, data, hook="finalize")
    assert answer.status == 200
    assert decode_answer(answer.body, "composite")["finalized"]
    assert database.rows() == [KEPT]


@pytest.mark.parametrize("size", [LIMIT + 1, 3 * LIMIT])
def test_a_body_over_the_limit_is_refused(server: ServerProcess, size: int) -> None:
    check_problem(post(server, padded(resource(), size)), 413)


@pytest.mark.parametrize("size", [0, 100, 3 * LIMIT])
def test_a_body_of_unknown_length_is_refused(server: ServerProcess, size: int) -> None:
    check_problem(post(server, b"x" * size, "--header", "Transfer-Encoding: chunked"), 411)


def test_after_a_refused_body_the_server_serves_on(server: ServerProcess) -> None:
    assert [post(server, data).status for data in (b"x" * (LIMIT + 1), SOUND, b"x", SOUND)] == [413, 200, 400, 200]


# Specs


def case_request(case: SpecCase, **metadata: Any) -> dict[str, Any]:
    found = resource(status=recorded("students"), **metadata)
    found.pop("spec")
    return {**found, **({} if case.spec is ABSENT else {"spec": case.spec})}


# one of a kind: tests/unit/core/test_request.py and the API server judge all of them
CASES = [
    case
    for case in (*SPEC_CASES, *WIRE_ONLY)
    if case.sentence
    in {
        "the sample",
        "table with a schema",
        "table in capitals keeps its case",
        "name with semicolons and a comment",
        "name with percent signs",
        "country with emoji",
        "the highest age",
        "deletionPolicy Retain",
        "spec is missing",
        "table: a statement",
        "name: a NUL inside",
        "name: a lone high surrogate",
        "age: a fraction",
        "deletionPolicy: a list",
    }
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_every_spec_gets_an_honest_answer_and_can_be_deleted(
    server: ServerProcess, database: Rows, case: SpecCase
) -> None:
    answer = call_hook(server.url, "sync", payload(case_request(case)))
    reason = reason_of(answer)
    if not case.valid:
        assert reason == "InvalidSpec"
        assert database.rows() == [KEPT, ROW]
    elif case.spec["table"] in ("students", "public.students"):
        assert reason == "RowSynced"
        assert database.rows() == [
            KEPT,
            ("default/sample", *(case.spec[field] for field in ("name", "age", "country"))),
        ]
    else:
        assert reason == "TableNotFound"
        assert database.rows() == [KEPT, ROW]
    assert "public.students" in answer["status"]["tables"] or case.valid
    doomed = payload(case_request(case, **DELETED), finalizing=True)
    if case.valid and case.spec.get("deletionPolicy") == "Retain":
        return
    assert call_hook(server.url, "finalize", doomed)["finalized"]
    assert database.rows() == [KEPT]
    assert database.query("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(1,)]


@pytest.mark.parametrize("field", ["name", "country"])
@pytest.mark.parametrize("text", ["x" * 2**20, "\U0001f600" * 2**18, "\0" * 2**20], ids=["x", "emoji", "NUL"])
def test_a_text_of_a_megabyte_is_refused_in_a_sentence(server: ServerProcess, field: str, text: str) -> None:
    answer = post(server, json.dumps(payload(resource(spec_with(**{field: text})))).encode())
    assert answer.status == 200
    assert len(answer.body) < 2000
    assert reason_of(decode_answer(answer.body, "composite")) == "InvalidSpec"


# Everything else of the resource

FOREIGN: list[Any] = [
    None, True, 7, -1.5, "Ready", [], [[]], {}, {"a": {"b": []}}, "\0", "\ud800", 10**30, "x" * 2**16,
    ["students", 7, None, "pg_catalog.pg_class", 'x"; DROP TABLE students'], [{"type": "Ready"}], [{"type": 7}], [None],
    [{"type": "Ready", "status": "Maybe", "reason": "x y", "message": 7, "lastTransitionTime": "now"}],
]  # fmt: skip


@pytest.mark.parametrize("field", ["tables", "observedTable", "conditions", "id", "observedGeneration", "unknown", ""])
def test_a_status_of_a_foreign_shape_is_ignored_and_rebuilt(server: ServerProcess, database: Rows, field: str) -> None:
    for value in FOREIGN:
        status = {**recorded("students"), field: value} if field else value
        answer = call_often(server, payload(resource(status=status)))
        assert (reason_of(answer), answer["status"]["tables"]) in (
            ("RowSynced", ["public.students"]),
            ("TableRecorded", ["public.students"]),
        ), value
        assert database.rows() == [KEPT, ROW]


@pytest.mark.parametrize(
    "field",
    ["uid", "generation", "annotations", "labels", "finalizers", "deletionTimestamp", "managedFields", "unknown"],
)
def test_metadata_of_a_foreign_shape_never_fails(server: ServerProcess, database: Rows, field: str) -> None:
    for value in FOREIGN:
        answer = call_often(server, payload(resource(**{field: value})))
        assert answer["finalized"] is (field == "deletionTimestamp" and value is not None)
        assert KEPT in database.rows()


@pytest.mark.parametrize("field", ["controller", "children", "related", "finalizing", "unknown"])
def test_the_rest_of_the_request_is_taken_as_it_comes(server: ServerProcess, database: Rows, field: str) -> None:
    for value in FOREIGN:
        answer = call_often(server, {**payload(resource()), field: value})
        assert answer["status"]["tables"] == ["public.students"]
        assert database.rows() == [KEPT, ROW]


@pytest.mark.parametrize("table", ["a.b.c", "", "pg_catalog.pg_class", "STUDENTS", 'x"; DROP TABLE students; --'])
def test_finalize_never_deletes_for_a_table_that_it_cannot_read(
    server: ServerProcess, database: Rows, table: str
) -> None:
    doomed = payload(resource(spec_with(table=table), **DELETED), finalizing=True)
    answer = call_hook(server.url, "finalize", doomed)
    assert answer["finalized"]
    assert not is_table(table) or table == "STUDENTS"
    assert database.rows() == [KEPT, ROW]


# Python 3.13 takes ten times as much as those before it
DEPTHS = {"low": [100, 400], "edge": range(940, 1000), "high": [2000, 5000, 9000], "edge of 3.13": range(9970, 10010)}


@pytest.mark.parametrize("depths", [*DEPTHS.values(), [100_000]], ids=[*DEPTHS, "any"])
def test_a_deep_status_is_echoed_or_refused(server: ServerProcess, depths: list[int]) -> None:
    """The decoder and the encoder have limits of their own; what passes the one must pass the other."""
    data = json.dumps(payload(resource(status=7, **DELETED), finalizing=True)).encode()
    for depth in depths:
        deep = b'{"a":' * depth + b"1" + b"}" * depth
        body = data.replace(b'"status": 7', b'"status": ' + deep)
        got = server.session.post(
            f"{server.url}/finalize", body, headers={"Content-Type": "application/json"}, timeout=60
        )
        if got.status_code == 200:
            assert depth < 100_000
            assert got.content.startswith(b'{"status":' + deep + b',"children":[],')
        else:
            check_problem(
                Answer(got.status_code, {key.lower(): got.headers[key] for key in got.headers}, got.content), 400
            )
            assert depth > 400

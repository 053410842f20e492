"""Whether a request is whole, byte by byte."""

from __future__ import annotations

import pytest

from postgres_writer.server.gathering import HEAD_BYTES, Gathered

LIMIT = 1000
HEAD = b"POST /sync HTTP/1.1\r\nHost: x\r\n"

WHOLE = {
    "no body": b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "a length": HEAD + b"Content-Length: 5\r\n\r\nabcde",
    "a length in odd letters": HEAD + b"cONTENT-lENGTH:\t5 \r\n\r\nabcde",
    "a length of nothing": HEAD + b"Content-Length: 0\r\n\r\n",
    "chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0\r\n\r\n12345\r\n0\r\n\r\n",
    "chunks with a trailer": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: y\r\n\r\n",
}


@pytest.mark.parametrize("request_bytes", WHOLE.values(), ids=WHOLE)
def test_a_request_is_whole_with_its_last_byte_and_not_before(request_bytes: bytes) -> None:
    gathered = Gathered(LIMIT)
    for number, value in enumerate(request_bytes):
        assert not gathered.is_whole(), request_bytes[:number]
        gathered.data.append(value)
    assert gathered.is_whole()


@pytest.mark.parametrize("request_bytes", WHOLE.values(), ids=WHOLE)
def test_what_follows_a_whole_request_changes_nothing(request_bytes: bytes) -> None:
    assert Gathered(LIMIT, request_bytes + b"GET / HT").is_whole()


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(b"a" * (HEAD_BYTES + 1), id="a head without an end"),
        pytest.param(HEAD + b"Content-Length: 1001\r\n\r\n", id="a length over the limit"),
        pytest.param(HEAD + b"Content-Length: x\r\n\r\n", id="a length that is no number"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", id="a chunk without a size"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n", id="a chunk of a negative size"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\nfff\r\n" + b"a" * 1001, id="chunks over the limit"),
    ],
)
def test_what_will_be_refused_is_not_waited_for(request_bytes: bytes) -> None:
    assert Gathered(LIMIT, request_bytes).is_whole()


def test_an_end_of_chunks_inside_a_chunk_is_none() -> None:
    assert not Gathered(LIMIT, HEAD + b"Transfer-Encoding: chunked\r\n\r\nff\r\n0\r\n\r\n").is_whole()


def test_a_client_that_asks_before_it_sends_the_body_is_told_once() -> None:
    gathered = Gathered(LIMIT, HEAD + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    assert not gathered.is_whole()
    assert gathered.wants_continue()
    assert not gathered.wants_continue()

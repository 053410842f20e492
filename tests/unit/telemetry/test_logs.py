"""A log line stays one line, says what it speaks of, and holds no value and no secret."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from postgres_writer.telemetry import logs
from postgres_writer.telemetry.logs import log_fields

HOSTILE = 'x\n2026-01-01T00:00:00Z ERROR   forged\r\x1b[31m\x00\u2028\u202e\x85 "quoted" \ud800 \U0001f600'


@pytest.fixture(autouse=True)
def _root_logger_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def written(log_format: str, message: str, level: str = "INFO", **given: object) -> str:
    stream = io.StringIO()
    logs.configure(level, log_format, stream)
    logging.getLogger("test").info(message, extra=log_fields(**given))
    return stream.getvalue()


def test_json_has_time_level_message_and_the_known_fields() -> None:
    line = json.loads(written("json", "row written", namespace="default", name="a", duration_ms=1.5, uid=None))
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "INFO",
        "message": "row written",
        "logger": "test",
        "namespace": "default",
        "name": "a",
        "duration_ms": 1.5,
    }


def test_text_has_pairs() -> None:
    line = written("text", "row written", namespace="default", reason="RowSynced", table="a b")
    assert line.endswith(' INFO    row written namespace=default reason=RowSynced table="a b"\n')


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_hostile_value_cannot_break_the_line(log_format: str) -> None:
    line = written(log_format, HOSTILE, name=HOSTILE)
    assert line.count("\n") == 1
    assert len(line.splitlines()) == 1
    assert line[:-1].isprintable()
    line.encode()


def _fail_over(text: str) -> None:
    try:
        _fail_with(text)
    except ValueError as error:
        raise RuntimeError(text) from error


def _fail_with(text: str) -> None:
    raise ValueError(text)


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_an_exception_shows_where_and_what_kind_but_not_its_text(log_format: str) -> None:
    stream = io.StringIO()
    logs.configure("INFO", log_format, stream)
    value = "23"
    try:
        _fail_over(f"Failing row contains ({value})")
    except RuntimeError:
        logging.getLogger("test").exception("failed")
    line = stream.getvalue()
    assert "(23)" not in line
    assert "RuntimeError" in line
    assert "caused by ValueError" in line
    assert "in _fail_with" in line


def test_an_error_of_the_system_keeps_its_reason() -> None:
    assert "ConnectionRefusedError: Connection refused" in logs.describe_exception(OSError(111, "Connection refused"))


def test_nothing_below_the_level_is_written() -> None:
    assert written("text", "unseen", level="WARNING") == ""

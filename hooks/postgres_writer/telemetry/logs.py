"""Log lines as JSON or text, one line per record whatever a value contains.

A call names what it speaks of with `extra=fields(namespace=..., name=...)`; the dictionary travels in one
attribute because LogRecord already has a `name`. Only the keys of FIELDS are written, and of an unexpected
exception only its type and frames: the texts of PostgreSQL's errors quote values of the row.
"""

import json
import logging
import sys
import traceback
from datetime import datetime, timezone
from typing import Any, TextIO

FIELDS = (
    "namespace",
    "name",
    "uid",
    "generation",
    "operation",
    "table",
    "reason",
    "duration_ms",
    "request_id",
    "hook",
    "status",
    "id",
    "cause",
    "sqlstate",
    "finding",
    "detail",
    "schemas",
    "before",
)

_SEPARATORS = frozenset(' "=')
_ENCODER = json.JSONEncoder(default=str)


def fields(**values: object) -> dict[str, dict[str, object]]:
    """Return the `extra` of a logging call: what the line speaks of, under the keys of FIELDS."""
    return {"fields": values}


class JsonFormatter(logging.Formatter):
    """One JSON object per line. Everything outside ASCII is escaped, so no character can break the line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its end."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname,
            "message": record.getMessage(),
            "logger": record.name,
            **_details(record),
        }
        return _ENCODER.encode(line)


class TextFormatter(logging.Formatter):
    """For people: time, level, message and key=value pairs; what does not print is escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its end."""
        pairs = [f"{key}={_quoted(value)}" for key, value in _details(record).items()]
        return " ".join([_time(record), f"{record.levelname:<7}", printable(record.getMessage()), *pairs])


def configure(level: str, log_format: str, stream: TextIO | None = None) -> None:
    """Send every logger's records to the stream (standard error), in the format, from the level on."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    # no format names the caller's line, thread, task or process: finding them is half the cost of a record
    # https://docs.python.org/3/howto/logging.html#optimization
    logging._srcfile = None  # noqa: SLF001
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    # at DEBUG they write the urls and headers of requests, tokens among them
    for noisy in ("urllib3", "requests"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def describe_exception(error: BaseException) -> str:
    """Return type and frames of an exception and of what caused it, without the messages.

    The message is kept only where it comes from the operating system and so cannot hold a value of a row.
    """
    parts: list[str] = []
    seen: BaseException | None = error
    while seen is not None:
        frames = "".join(traceback.format_tb(seen.__traceback__)).rstrip()
        message = f": {seen.strerror}" if isinstance(seen, OSError) and seen.strerror else ""
        parts.append(f"{type(seen).__qualname__}{message}\n{frames}")
        # the chain as Python prints it: `raise ... from None` ends it
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return "\ncaused by ".join(parts)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, tz=timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _details(record: logging.LogRecord) -> dict[str, object]:
    given = getattr(record, "fields", {})
    details = {key: given[key] for key in FIELDS if given.get(key) not in (None, "")}
    if record.exc_info and record.exc_info[1] is not None:
        details["exception"] = describe_exception(record.exc_info[1])
    return details


def _quoted(value: object) -> str:
    text = str(value)
    return text if text.isprintable() and _SEPARATORS.isdisjoint(text) and text else json.dumps(text)


def printable(text: str) -> str:
    """Return the text on one line, whatever it holds."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)

"""Log lines as JSON or text, one line per record whatever a value contains.

A call names what it speaks of with `extra=log_fields(namespace=..., name=...)`; the dictionary travels in one
attribute because LogRecord already has a `name`. Of an unexpected exception only its type and frames are written: the
texts of PostgreSQL's errors quote values of the row.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
import sys
import traceback
from datetime import datetime, timezone
from typing import TextIO

_SEPARATORS = frozenset(' "=')
_ENCODER = json.JSONEncoder(default=str)
_MOST, _PERIOD = 20, 10.0


def log_fields(**values: object) -> dict[str, dict[str, object]]:
    """Return the `extra` of a logging call: what the line speaks of. Keys without a value are left out."""
    return {"fields": values}


class JsonFormatter(logging.Formatter):
    """One JSON object per line. Everything outside ASCII is escaped, so no character can break the line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its end."""
        about = {"time": _time(record), "level": record.levelname, "message": record.getMessage()}
        return _ENCODER.encode({**about, "logger": record.name, **_details(record)})


class TextFormatter(logging.Formatter):
    """For people: time, level, message and key=value pairs; what does not print is escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its end."""
        pairs = [f"{key}={_quoted(value)}" for key, value in _details(record).items()]
        return " ".join([_time(record), f"{record.levelname:<7}", printable(record.getMessage()), *pairs])


class RateLimit(logging.Filter):
    """Lets 20 records of a logger through in 10 s; the next one says how many were left out.

    For what any client can cause, also without a token: it must not be able to fill a disk.
    """

    _seen, _until = 0, 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether the record is to be written."""
        if record.created >= self._until:
            if self._seen > _MOST:
                _append(record, f"({self._seen - _MOST} more before this one were not logged.)")
            self._seen, self._until = 0, record.created + _PERIOD
        self._seen += 1
        return self._seen <= _MOST


class PipeHandler(logging.Handler):
    """Writes to a pipe that does not block: what no one reads is dropped, and the next line says how much it was.

    A process that waited for its log to be read would stand still, with the requests in it.
    """

    _rest, _lost = b"", 0

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, behind the rest of one that did not fit."""
        lost = self._lost
        if lost:
            _append(record, f"({lost} before this one were lost: the log was full.)")
        line = f"{self.format(record)}\n".encode(errors="backslashreplace")
        written = self._write(self._rest) and not self._rest and self._write(line)
        self._lost = 0 if written else lost + 1

    def _write(self, data: bytes) -> bool:
        with contextlib.suppress(OSError):
            # up to PIPE_BUF bytes it writes everything or nothing; https://man7.org/linux/man-pages/man7/pipe.7.html
            self._rest = data[os.write(self._descriptor, data) :] if data else data
            return True
        return False


def _append(record: logging.LogRecord, remark: str) -> None:
    record.msg, record.args = f"{record.getMessage()} {remark}", None


def _handler() -> logging.Handler:
    """Give a handler for standard error; a pipe is opened once more, for other processes may share it as it is."""
    with contextlib.suppress(OSError, ValueError):
        descriptor = sys.stderr.fileno()
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return PipeHandler(os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK))
    return logging.StreamHandler()


def configure(level: str, log_format: str, stream: TextIO | None = None) -> None:
    """Send every logger's records to the stream (standard error), in the format, from the level on."""
    handler = logging.StreamHandler(stream) if stream else _handler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    # no format names the caller's line, thread, task or process: finding them is half the cost of a record
    # https://docs.python.org/3/howto/logging.html#optimization
    logging._srcfile = None  # noqa: SLF001
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # what cannot be logged is lost; neither that nor an error in a destructor may print what is no record
    logging.raiseExceptions = False
    sys.unraisablehook = lambda error: logging.getLogger(__name__).error("Ignored error.", exc_info=error.exc_value)
    logging.captureWarnings(capture=True)
    # at DEBUG they write the urls and headers of requests, tokens among them
    for noisy in ("urllib3", "requests"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def describe_exception(error: BaseException) -> str:
    """Return type and frames of an exception and of what caused it, without the messages.

    The message is kept only where it comes from the operating system and so cannot hold a value of a row.
    """
    frames = "".join(traceback.format_tb(error.__traceback__)).rstrip()
    message = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
    said = f"{type(error).__qualname__}{message}\n{frames}"
    # the chain as Python prints it: `raise ... from None` ends it
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return f"{said}\ncaused by {describe_exception(cause)}" if cause else said


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, tz=timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _details(record: logging.LogRecord) -> dict[str, object]:
    details = {key: value for key, value in getattr(record, "fields", {}).items() if value not in (None, "")}
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

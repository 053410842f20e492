"""One connection: opened lazily, replaced when it died, never waited for longer than its deadline.

psycopg2 is used asynchronously because a stopped PostgreSQL enforces no statement_timeout while its kernel still
acknowledges TCP: only the client's own clock ends such a wait. Driver errors become ours here, at this one boundary.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import psycopg2

from postgres_writer import errors
from postgres_writer.config.settings import DatabaseConfig
from postgres_writer.core.refusals import Guard, Refused
from postgres_writer.database import statements
from postgres_writer.database.dial import LASTING, HungUp, cause_of, targets, wait
from postgres_writer.database.qualified import forbidden_function
from postgres_writer.database.sharing import Circuit
from postgres_writer.deadlines import CLIENT_GRACE_SECONDS, CONNECTION_LIFE_SECONDS, LOCK_SHARE, PROBE_SECONDS, Call
from postgres_writer.errors import ConfigError, DatabaseBusy, DatabaseUnavailable, RequestExpired
from postgres_writer.telemetry import metrics
from postgres_writer.telemetry.logs import log_fields

logger = logging.getLogger(__name__)

_MAX_TEXTS, IDLE_SECONDS = 256, 0.05

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_LOCKED_CODE, _CANCELED_CODE, _TRANSACTION_TIMEOUT_CODE = "55P03", "57014", "25P04"
_BUSY_CODES = {"40001", "40P01", _LOCKED_CODE, _CANCELED_CODE, _TRANSACTION_TIMEOUT_CODE}
_READ_ONLY_CODE, _FAILED_TRANSACTION_CODE, _DENIED_CODE, _EXHAUSTED_CLASS = "25006", "25P02", "42501", "53"
_INVALID_TEXT_CODE, _UNTRANSLATABLE_CODE = "22P02", "22P05"
_LOST_PREPARED_CODE, _DUPLICATE_PREPARED_CODE = "26000", "42P05"
_CLOSING_SEVERITIES = {"FATAL", "PANIC"}

Parameters = Mapping[str, Any]
Result = tuple[Any, ...]


class _Lost(Exception):
    """The connection broke, or is of no use any more; the text is the message of the condition."""


class Stuck(Exception):
    """A statement had no answer, although the server takes connections."""


class Session:
    """A connection and what was learned about it: the server's clock and the prepared statements."""

    def __init__(
        self, config: DatabaseConfig, circuit: Circuit, meters: metrics.OfDatabase, on_lost: Callable[[], None]
    ) -> None:
        """``on_lost`` is called when a connection that has worked before turns out to be dead."""
        self._config, self._circuit, self._meters, self._on_lost = config, circuit, meters, on_lost
        self._connection: Any = None
        self._cursor: Any = None
        self._opened = self._offset = 0.0
        self.lock_timeout = self.lock_seconds = LOCK_SHARE * config.statement_timeout
        """How many seconds the next message that takes the lock of an id waits for a lock of PostgreSQL; at most."""
        self.idle_since = 0.0  # when the pool got the session back; monotonic seconds
        self._texts: dict[statements.Statement, str] = {}
        self._escapes = True

    def is_worth_keeping(self, now: float) -> bool:
        """Say whether there is a connection that is young enough to be used again at ``now`` (monotonic seconds)."""
        return self._connection is not None and now - self._opened < CONNECTION_LIFE_SECONDS

    def execute(self, call: Call, message: statements.Message, parameters: Parameters) -> Result:
        """Run one message (statements with their commit) and give the only row of its last statement.

        The deadlines are added to the parameters, by the server's clock; ``doc`` is given as a dictionary.
        Repeated once when the connection turns out to be dead or read-only, or the server's clock to have changed.

        Raises DatabaseUnavailable, DatabaseBusy, RequestExpired, or Refused with the SQLSTATE.
        """
        if self._has_ended():
            self._replace()
        least_away = 0.0
        while True:
            reused = self._connection is not None
            try:
                return self._attempt(call, message, parameters)
            except _Lost as exc:
                if not reused:
                    self.close()
                    raise DatabaseUnavailable(str(exc)) from exc
                self._replace()
                # it was sent and lost: a row that ends whatever reads it is not an outage
                least_away = 0.0 if str(exc) == errors.READ_ONLY else math.inf
            except DatabaseUnavailable as exc:
                exc.away = max(exc.away, least_away)
                raise
            except HungUp as exc:
                # its statement may wait for a lock, and would write when its successor has: so the server ends it
                self.close()
                raise RequestExpired(errors.EXPIRED) from exc
            except TimeoutError:
                raise DatabaseUnavailable(errors.UNAVAILABLE) from self._probe()

    def close(self) -> None:
        """Close the connection; the next statement opens a new one."""
        if self._connection is None:
            return
        self._connection.close()
        self._connection = self._cursor = None
        self._texts.clear()
        self._meters.open.dec()

    def _attempt(self, call: Call, message: statements.Message, parameters: Parameters) -> Result:
        start_by = call.start_by(self._config.statement_timeout)
        if self._connection is None:
            if not self._circuit.admits(now := time.monotonic()):
                raise self._unavailable(now)
            # a connect that has too little time left says nothing about the server and must not open the circuit
            _expect_waiting(call, start_by - min(PROBE_SECONDS, self._config.connect_timeout))
            self._connect(start_by)
        text = self._composed(call, message)
        # by the server's clock, which may be minutes off from ours
        given = {**parameters, "until": start_by + self._offset, "by": call.write_by + self._offset}
        if "doc" in parameters:
            # ASCII: a raw character would be read in the encoding that a trigger may have set in the session
            given["doc"] = json.dumps(parameters["doc"], ensure_ascii=self._escapes)
        _expect_waiting(call, start_by)
        try:
            with self._meters.seconds.time():
                result = self._run(text, given, call.hung_up)
        except Refused as exc:
            if exc.guard is not Guard.LATE:
                raise
            # else the server's clock was changed, or it is another server: a new connection measures it
            late = time.monotonic() >= start_by
            raise (RequestExpired(errors.EXPIRED) if late else _Lost(errors.UNAVAILABLE)) from exc
        self._succeed()
        return result

    def _composed(self, call: Call, message: statements.Message) -> str:
        """Compose what is sent: the settings that travel with the message, and its statements."""
        if len(self._texts) + len(message.parts) > _MAX_TEXTS:
            # only before composing: DEALLOCATE ALL would drop what this message executes
            if self._config.prepared_statements:
                self._run("DEALLOCATE ALL", None)
            self._texts.clear()
        limits = statements.limits(self._config.statement_timeout, self.lock_timeout)
        # a pooler may give every transaction another server connection
        pooled = [limits, statements.session_settings(local=True)]
        sets = [limits] * message.locks if self._config.prepared_statements else pooled
        return "; ".join([*sets, *(self._text(call, part, limits) for part in message.parts)])

    def _text(self, call: Call, statement: statements.Statement, limits: str) -> str:
        text = self._texts.get(statement) or statement.direct()
        if not statement.often or statement in self._texts:
            return text
        if self._config.prepared_statements:
            prepare, text = statement.prepared()
            try:
                # PREPARE plans, and planning waits while another session holds an exclusive lock on the table
                self._run(f"{limits}; {prepare}", None, call.hung_up)
            except Refused as exc:
                # named by the hash of its text, so what a session pool kept is the same statement
                if exc.code != _DUPLICATE_PREPARED_CODE:
                    raise
        self._texts[statement] = text
        return text

    def _run(self, text: str, parameters: Parameters | None, hung_up: Callable[[], bool] = lambda: False) -> Result:
        """Send one message and wait for its end, or for the caller's; gives the row if there is one."""
        try:
            self._cursor.execute(text, parameters)
            wait(self._connection, time.monotonic() + self._config.statement_timeout + CLIENT_GRACE_SECONDS, hung_up)
            return self._cursor.fetchone() if self._cursor.description else ()
        except psycopg2.Error as exc:
            raise _translated(exc) from exc

    def _connect(self, start_by: float) -> None:
        """Open a connection to the first host that takes one, and learn its clock."""
        until = min(time.monotonic() + self._config.connect_timeout, start_by)
        try:
            arguments = self._config.connect_arguments()
            hosts = targets(self._config.hosts, max(0.0, until - time.monotonic()))
            passwords = self._config.passwords()
        except (ConfigError, OSError) as exc:
            raise self._fail(str(exc)) from exc
        cause: Exception | None = None
        tries = [{**host, **({"password": word} if word else {})} for host in hosts for word in passwords]
        for number, host in enumerate(tries):
            # an equal part of what is left, so that a host which hangs leaves time for the next one
            share = (until - time.monotonic()) / (len(tries) - number)
            try:
                self._open({**arguments, **host}, time.monotonic() + share)
            except (psycopg2.Error, TimeoutError) as exc:
                cause, why = exc, str(exc).strip() or f"no answer from {host.get('host', 'the server')} in time"
            else:
                return
        raise self._fail(why) from cause

    def _open(self, arguments: dict[str, str], until: float) -> None:
        # whatever the database's encoding is, so that it is PostgreSQL which refuses a character that it lacks
        connection = psycopg2.connect(**arguments, client_encoding="UTF8", async_=True)  # type: ignore[call-overload]
        try:
            wait(connection, until)
            cursor = connection.cursor()
            # settings and question in one message: a new connection costs one round trip after its start, not three
            cursor.execute(self._greeting())
            wait(connection, until)
            # measured against the end of the round trip: the deadline may come early by that much, never late
            clock, read_only = cursor.fetchone()
            self._offset = clock - time.monotonic()
        except BaseException:
            connection.close()
            raise
        if read_only:
            connection.close()
            raise self._fail(errors.READ_ONLY)
        self._connection, self._cursor, self._opened = connection, cursor, time.monotonic()
        self._meters.opened.inc()
        self._meters.open.inc()
        # such a database knows no characters, and so no \\u escapes
        self._escapes = connection.get_parameter_status("server_encoding") != "SQL_ASCII"
        self._succeed()

    def _greeting(self) -> str:
        limits = statements.limits(self._config.statement_timeout, self.lock_seconds, local=False)
        sets = [limits, statements.session_settings(local=False)] if self._config.prepared_statements else []
        return "; ".join([*sets, statements.HELLO])

    def _succeed(self) -> None:
        if self._circuit.succeeded():
            self._meters.circuit_open.set(0)
            logger.info("PostgreSQL is reachable again", extra=log_fields(database=self._meters.name))

    def _fail(self, why: str) -> DatabaseUnavailable:
        now = time.monotonic()
        self._meters.failed.inc()
        self._meters.circuit_open.set(1)
        self._circuit.cause = why
        if self._circuit.failed(now):
            logger.warning("PostgreSQL cannot be reached", extra=log_fields(cause=why, database=self._meters.name))
        return self._unavailable(now)

    def _unavailable(self, now: float) -> DatabaseUnavailable:
        cause = cause_of(self._circuit.cause)
        away = math.inf if cause in LASTING else now - self._circuit.since
        return DatabaseUnavailable(cause.format(role=self._config.user, dbname=self._config.dbname), away)

    def _has_ended(self) -> bool:
        """Say whether there is a connection that has ended while it was idle, without waiting."""
        # the look takes two system calls, which are spared under load, where no connection is idle for long
        if self._connection is None or time.monotonic() - self.idle_since <= IDLE_SECONDS:
            return False
        try:
            # twice: what the server said before it closed the connection comes first
            return any(self._connection.poll() != psycopg2.extensions.POLL_OK for _ in range(2))
        except psycopg2.Error:
            return True

    def _replace(self) -> None:
        """Close a connection that turned out to be dead, and those that are as old: they have died of the same."""
        self.close()
        self._meters.replaced.inc()
        self._on_lost()

    def _probe(self) -> Exception:
        """Find out, after a statement without an answer, whether the server still takes connections."""
        self.close()
        if not self._circuit.admits(now := time.monotonic()):
            return self._unavailable(now)
        try:
            self._connect(now + PROBE_SECONDS)
        except DatabaseUnavailable as exc:
            if isinstance(exc.__cause__, TimeoutError):
                # the server hangs, and so would whatever is sent on an idle connection
                self._on_lost()
            return exc
        return Stuck()


def _expect_waiting(call: Call, start_by: float) -> None:
    if time.monotonic() >= start_by or call.hung_up():
        raise RequestExpired(errors.EXPIRED)


def is_table_timeout(exc: Exception) -> bool:
    """Say whether a statement waited in vain for its table, or for what it does there; not for a row."""
    cause = exc.__cause__
    if not isinstance(exc, DatabaseBusy) or not isinstance(cause, psycopg2.Error):
        return isinstance(cause, Stuck)
    # the error of a lock that a row, or a statement in a trigger, waited for has a context
    return cause.pgcode == _CANCELED_CODE or (cause.pgcode == _LOCKED_CODE and cause.diag.context is None)


def _translated(exc: psycopg2.Error) -> Exception:
    """Give our error for the driver's; its text is left behind, because it may hold values.

    Only a broken connection and the few errors that PostgreSQL itself raises about a session speak of the server. Any
    other is of the table or the row: a trigger or a foreign server raises any SQLSTATE, and its errors have a context.
    """
    code, diag = exc.pgcode, exc.diag
    if code in _BUSY_CODES:
        return DatabaseBusy(errors.BUSY)
    if code is None or (diag.severity_nonlocalized or diag.severity) in _CLOSING_SEVERITIES:
        if code is not None:
            logger.warning("PostgreSQL closed the connection", extra=log_fields(sqlstate=code))
        return _Lost(errors.UNAVAILABLE)
    if code[:2] == _EXHAUSTED_CLASS:
        return DatabaseUnavailable(errors.EXHAUSTED.format(code))
    # a character that the database's encoding lacks has the context of our own document
    if diag.context is not None and code != _UNTRANSLATABLE_CODE:
        return Refused(code, diag.constraint_name or "", inside=True)
    primary = diag.message_primary or ""
    # the cast that a guard lets fail quotes its text
    said = primary if code == _INVALID_TEXT_CODE else ""
    guard = next((guard for guard in Guard if f"{statements.WORD} {guard.value} " in said), None)
    refused = Refused(code, diag.constraint_name or "", guard, diag.column_name or "")
    return _session_error(code, guard, primary) or refused


def _session_error(code: str, guard: Guard | None, primary: str) -> Exception | None:
    """Give the error of the lock, of the role, or of a session that is of no use though its connection lives."""
    if guard is Guard.BUSY:
        return DatabaseBusy(errors.IN_FLIGHT)
    if code == _LOST_PREPARED_CODE:
        # a pooler handed out another server connection
        logger.warning("The server lost prepared statements; behind a pooler set PSQL_PREPARED_STATEMENTS=false")
        return _Lost(errors.LOST_PREPARED)
    if code == _READ_ONLY_CODE or guard is Guard.READ_ONLY:
        return _Lost(errors.READ_ONLY)
    # then nothing can be said of any table; the server's text is translated, but names the function
    if code == _DENIED_CODE and (function := forbidden_function(primary)):
        return DatabaseUnavailable(errors.FORBIDDEN.format(function))
    return _Lost(errors.UNAVAILABLE) if code == _FAILED_TRANSACTION_CODE else None

"""The HTTP shell: routes, authorization, error answers. What concerns a resource is decided elsewhere.

Any answer but 200 makes Metacontroller drop the status, post a Warning event with the body and back off up to a
thousand seconds, so those are only for what is not a hook request. The exception is 429, see ``_retry_after``.
"""

from __future__ import annotations

import hmac
import json
import logging
import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from random import getrandbits
from typing import Any, cast

import gevent
from flask import Flask, Response, request
from werkzeug import exceptions
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.http import parse_options_header

from postgres_writer.config.settings import Config
from postgres_writer.core.plan import ADOPTED, Operation, Outcome, is_adopted, is_drift, make_plan
from postgres_writer.core.policy import ALLOW_ALL
from postgres_writer.core.request import HookRequest, load_request
from postgres_writer.core.response import RETRY_SECONDS, build_response, keeps_status, retry_of, verdict
from postgres_writer.database.databases import Database, Databases
from postgres_writer.deadlines import Call
from postgres_writer.errors import DatabaseBusy, InvalidRequest, Retry
from postgres_writer.server.caller import Bodies, call_from_socket
from postgres_writer.server.files import Watched, load_audit_result, load_policy, load_tokens
from postgres_writer.server.worker import NEXT_TURN
from postgres_writer.telemetry import metrics
from postgres_writer.telemetry.logs import RateLimit, log_fields

logger = logging.getLogger(__name__)
_refusals = logging.getLogger(f"{__name__}.refused")
_refusals.addFilter(RateLimit())

# a no-op is no news: at a line per sync, ten thousand resources would fill the log with nothing
_CHANGES = {Operation.INSERTED, Operation.UPDATED, Operation.MOVED, Operation.DELETED}
_LOGGED = ("namespace", "name", "uid", "generation", "database", "table")
_MOST_QUEUES = 256
RETRIES_PER_SECOND = 50.0
"""How many retry slots a worker hands out: a hundred resources are back in 2 s, a hundred thousand do not storm."""
_PROBLEM_TYPE = "application/problem+json"
_REQUEST_ID = "postgres_writer.request_id"  # in the environ of WSGI
_DETAILS = {
    401: "Send the header 'Authorization: Bearer TOKEN' with a token of HOOK_TOKENS_FILE.",
    411: "Send the body with a Content-Length: a chunked one is not read.",
    413: "The body is larger than HOOK_MAX_BODY_BYTES allows.",
    415: "Send the body as application/json.",
    500: "Internal error; see the server log.",
}


def create_app(config: Config, databases: Databases) -> Flask:
    """Make the WSGI application. Raises ConfigError when the files of tokens or policy are unusable."""
    app = HookApp()
    metrics.declare()
    server = HookServer(config, databases)
    for hook in ("sync", "finalize"):
        app.hooks[f"/{hook}"] = partial(server.answer, hook)
        app.add_url_rule(f"/{hook}", hook, partial(server.view, hook), methods=["POST"])
    for probe in ("healthz", "readyz"):
        # readyz does not ask the database: with every pod unready Metacontroller would fall into its long back-off
        app.add_url_rule(f"/{probe}", probe, lambda: Response("ok\n", mimetype="text/plain"))
    app.add_url_rule("/metrics", "metrics", server.metrics)
    app.register_error_handler(exceptions.HTTPException, _problem)
    app.register_error_handler(Exception, _unexpected)
    return app


@dataclass(frozen=True)
class Answer:
    """The answer to a hook request, as WSGI takes it: werkzeug's Response copies and checks what is complete here."""

    body: bytes
    headers: list[tuple[str, str]]
    status: str = "200 OK"
    content_type: str = "application/json"

    def __call__(self, _environ: dict[str, Any], start_response: Any) -> list[bytes]:
        """Give status, headers and body."""
        about = [("Content-Type", self.content_type), ("Content-Length", str(len(self.body)))]
        start_response(self.status, [*about, *self.headers])
        return [self.body]


class HookApp(Flask):
    """Flask, with a short cut for hook requests: its contexts, routes and responses are a fifteenth of what one costs.

    ``hooks`` gives what answers a POST, by path. What it raises, and every other request, takes Flask's own way.
    """

    def __init__(self) -> None:
        super().__init__("postgres_writer", static_folder=None)
        self.hooks: dict[str, Callable[[dict[str, Any]], Answer]] = {}

    def wsgi_app(self, environ: dict[str, Any], start_response: Any) -> Any:
        """Answer a request, as WSGI wants it."""
        hook = self.hooks.get(environ["PATH_INFO"]) if environ["REQUEST_METHOD"] == "POST" else None
        if "HTTP_TRANSFER_ENCODING" in environ:
            hook = _refuse_chunks
        if hook is None:
            return super().wsgi_app(environ, start_response)
        try:
            return hook(environ)(environ, start_response)
        except Exception as exc:
            with self.request_context(environ):
                return self.make_response(self.handle_user_exception(exc))(environ, start_response)


def _refuse_chunks(_environ: dict[str, Any]) -> Answer:
    # to find the end of such a body costs any amount of work for each of its bytes
    raise exceptions.LengthRequired


class RetrySlots:
    """When failures are tried again: soft state, without locks, for greenlets take turns where they wait.

    One for all requests of a process; times are of the monotonic clock, in seconds.
    Slots are handed out in queues, so that the thousands of one do not hold up the few of another. Those of a queue
    follow each other at RETRIES_PER_SECOND, the first RETRY_SECONDS from now. So a few resources are tried again soon
    after PostgreSQL is back, and many come one after the other.
    """

    def __init__(self, period: float) -> None:
        self._period = period
        self._last: dict[Hashable, float] = {}

    def take(self, now: float, queue: Hashable) -> float | None:
        """Take the next slot of a queue; give the seconds until it comes, or None when the period has no more."""
        slot = max(self._last.get(queue, 0.0) + 1 / RETRIES_PER_SECOND, now + RETRY_SECONDS)
        if slot > now + self._period:
            return None
        if queue not in self._last and len(self._last) >= _MOST_QUEUES:
            # a queue whose last slot has passed says nothing any more
            self._last = {name: last for name, last in self._last.items() if last > now}
        if queue in self._last or len(self._last) < _MOST_QUEUES:
            self._last[queue] = slot
        return slot - now


class HookServer:
    """The views of the hooks and what they need: the databases, the table policy and the tokens."""

    def __init__(self, config: Config, databases: Databases) -> None:
        self._databases = databases
        self._config = config
        self._retries = RetrySlots(config.resync_seconds)
        self._bodies = Bodies(config.max_body_bytes)
        policy, tokens, result = config.table_policy_file, config.tokens_file, config.audit_result_file
        self._policy = Watched("table policy", load_policy, policy) if policy else None
        self._tokens = Watched("list of tokens", load_tokens, tokens) if tokens else None
        self._audit_result = Watched("audit result", load_audit_result, result) if result else None

    def answer(self, hook: str, environ: dict[str, Any]) -> Answer:
        """Answer a request for the hook. Raises HTTPException and InvalidRequest for what is not a hook request."""
        call = call_from_socket(environ.get("gunicorn.socket"))
        request_id = environ[_REQUEST_ID] = f"{getrandbits(64):016x}"
        # before the body is read: a caller without a token cannot make the server read and decode megabytes
        self._authorize(environ)
        body = self._decoded_body(environ, call)
        found: dict[str, Database] = {}  # a schema is never used with the server of a later configuration

        def schema_of(name: str) -> str:
            found[name] = self._databases.find(name)
            return found[name].config.schema

        hook_request = load_request(body, finalizing=hook == "finalize", schema_of=schema_of)
        database = found[hook_request.database]
        policy = self._policy.current() if self._policy else ALLOW_ALL
        permits = partial(policy.permits, database=hook_request.database, schema=database.config.schema)
        plan = make_plan(hook_request, permits, database.missing)
        outcome = database.store.apply(plan, call)
        kept = keeps_status(plan, outcome)
        slot = self._slot(hook_request, outcome, kept) if retry_of(outcome) is Retry.TRANSIENT else None
        answered = build_response(hook_request, outcome, time.time(), self._config.resync_seconds, slot)
        label = hook_request.database if database.missing is None else metrics.NO_DATABASE
        _report(hook, hook_request, outcome, label, time.monotonic() - call.arrival, request_id, kept)
        headers = [("X-Request-Id", request_id)]
        if kept:
            return _retry_after(verdict(hook_request, outcome)[2], answered["resyncAfterSeconds"], headers)
        return Answer(_ENCODER.encode(answered).encode(), headers)

    def view(self, hook: str) -> Answer:
        """Answer a request for the hook by a path that only Flask takes for the hook's, such as //sync."""
        return self.answer(hook, request.environ)

    def _slot(self, hook_request: HookRequest, outcome: Outcome, kept: bool) -> float | None:
        # what waits for PostgreSQL itself is in no table's queue, and where only a resync is late in one of its own
        table = (hook_request.relation or "") if isinstance(outcome.error, DatabaseBusy) else None
        return self._retries.take(time.monotonic(), (hook_request.database, table, kept))

    def metrics(self) -> Response:
        """Answer a scrape."""
        if self._config.metrics_token_required:
            self._authorize(request.environ)
        last_audit = self._audit_result.current() if self._audit_result else None
        text = b""
        for family in metrics.exposition(last_audit):
            # all of them take as long as several syncs
            gevent.sleep(NEXT_TURN)
            text += family
        return Response(text, content_type=metrics.CONTENT_TYPE)

    def _decoded_body(self, environ: dict[str, Any], call: Call) -> object:
        sent = environ.get("CONTENT_TYPE")
        if sent != "application/json" and parse_options_header(sent)[0].lower() != "application/json":
            raise exceptions.UnsupportedMediaType
        # later nothing could be written for it any more
        until = call.start_by(self._config.database.statement_timeout)
        try:
            with self._bodies.read(environ, until) as data:
                return _DECODER.decode(data.decode())
        except (ValueError, RecursionError) as exc:
            raise exceptions.BadRequest("The body is not JSON.") from exc

    def _authorize(self, environ: dict[str, Any]) -> None:
        if self._tokens is None:
            return
        scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        given = token.strip().encode()
        # every token is compared, in constant time: neither which one nor how much of it matched can be measured
        matches = [hmac.compare_digest(given, known) for known in self._tokens.current()]
        if scheme.lower() != "bearer" or not any(matches):
            raise exceptions.Unauthorized(www_authenticate=WWWAuthenticate("bearer"))


# Python reads NaN and Infinity, and 1e999 as Infinity: echoed in a status they would break Metacontroller's decoder
def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


_DECODER = json.JSONDecoder(parse_constant=_finite, parse_float=_finite)
_ENCODER = json.JSONEncoder(separators=(",", ":"))


def _report(  # noqa: PLR0913, PLR0917 - what there is to say of a request
    hook: str, hook_request: HookRequest, outcome: Outcome, database: str, seconds: float, request_id: str, kept: bool
) -> None:
    """Count and log what came of a hook request: a line per change or new failure, all else only at DEBUG.

    Where the status is ``kept`` the failure is not new for the next request either; the circuit's line tells of it.
    """
    status, reason, message = _summarize(hook_request, outcome)
    operation = outcome.operation
    done = ADOPTED if is_adopted(hook_request, outcome) else operation.value
    metrics.hook_requests(hook, hook_request.controller, reason, database).inc()
    metrics.hook_seconds(hook).observe(seconds)
    if operation is not Operation.NONE:
        metrics.rows(done, database).inc()
    drift = is_drift(hook_request, outcome)
    if drift:
        metrics.DRIFT.labels(database).inc()
    ready = hook_request.status.ready
    # warned of once, not at every retry: the failure is in the resource's condition already
    failed = outcome.error is not None and not kept and (ready is None or ready.reason != reason)
    level = logging.WARNING if failed else logging.INFO if operation in _CHANGES else logging.DEBUG
    if not logger.isEnabledFor(level):
        return
    logger.log(
        level,
        "drift repaired" if drift else "row adopted" if done == ADOPTED else message,
        extra=log_fields(
            **{name: getattr(hook_request, name) for name in _LOGGED},
            operation=done,
            reason=reason,
            duration_ms=round(seconds * 1000, 3),
            request_id=request_id,
            hook=hook,
            status=status,
        ),
    )


def _summarize(hook_request: HookRequest, outcome: Outcome) -> tuple[str, str, str]:
    """Give the status, reason and message for metrics and log; nothing is said about the row of a paused resource."""
    if hook_request.paused and not hook_request.finalizing:
        return "Unknown", metrics.PAUSED, "The resource is paused; nothing was written."
    status, reason, message = verdict(hook_request, outcome)
    return status, reason.value, message


def _problem_details(title: str, status: int, detail: str | None) -> bytes:
    """Give the body of an answer of _PROBLEM_TYPE; https://www.rfc-editor.org/rfc/rfc9457."""
    body = {"type": "about:blank", "title": title, "status": status, **({"detail": detail} if detail else {})}
    return _ENCODER.encode(body).encode()


def _retry_after(why: str, seconds: float, headers: list[tuple[str, str]]) -> Answer:
    """Leave the status as it is: at 429 Metacontroller writes nothing, posts no event and asks again when it is told.

    https://github.com/metacontroller/metacontroller/blob/v4.17.2/pkg/hooks/webhook.go
    """
    headers = [*headers, ("Retry-After", str(math.ceil(seconds)))]
    title = "Too Many Requests"
    return Answer(_problem_details(title, 429, why), headers, f"429 {title}", _PROBLEM_TYPE)


def _problem(error: exceptions.HTTPException) -> Response:
    """Answer what is not a hook request."""
    status = error.code or 500
    detail = error.description if isinstance(error, exceptions.BadRequest) else _DETAILS.get(status)
    # with the error's own headers: a 405 must say which methods are allowed, a 401 how to authenticate
    # https://www.rfc-editor.org/rfc/rfc9110#section-15.5.6
    response = cast("Response", error.get_response())
    response.data, response.content_type = _problem_details(error.name, status, detail), _PROBLEM_TYPE
    if (request_id := request.environ.get(_REQUEST_ID)) is not None:
        response.headers["X-Request-Id"] = request_id
    if request.endpoint in ("sync", "finalize"):
        metrics.HOOK_REQUESTS.labels(request.endpoint, "none", f"HTTP{status}", metrics.NO_DATABASE).inc()
        about = log_fields(hook=request.endpoint, status=status, request_id=request_id)
        _refusals.warning("The request was refused.", extra=about)
    return response


def _unexpected(error: Exception) -> Response:
    if isinstance(error, InvalidRequest):
        return _problem(exceptions.BadRequest(str(error)))
    logger.error("Internal error.", exc_info=error, extra=log_fields(request_id=request.environ.get(_REQUEST_ID)))
    return _problem(exceptions.InternalServerError())

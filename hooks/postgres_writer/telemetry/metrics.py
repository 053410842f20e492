"""What the worker counts in its memory, after Prometheus' naming conventions. No label ever names a resource."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from functools import cache
from itertools import chain
from types import SimpleNamespace
from typing import cast

import prometheus_client
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from postgres_writer import __version__
from postgres_writer.config.variables import DEFAULT_DATABASE
from postgres_writer.core.audit_result import AuditResult, Fault
from postgres_writer.core.plan import ADOPTED, Operation
from postgres_writer.errors import Reason

# when a counter began is known from what restarted: for each series another one would say so
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST

PAUSED = "Paused"
"""Of a paused resource Ready says nothing new, so its requests are counted under the name of the condition Paused."""
NO_DATABASE = ""
"""The database of what is no hook request, or names no database that is configured: any name could be in it."""
_DATABASE = ["database"]
# up to the timeout of the webhook: a slower answer reaches no one
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

HOOK_REQUESTS = Counter(
    "postgres_writer_hook_requests_total",
    "Hook requests answered, by hook, kind of controller, database and reason of the condition Ready.",
    ["hook", "controller", "reason", "database"],
)
HOOK_SECONDS = Histogram(
    "postgres_writer_hook_duration_seconds",
    "Time from the arrival of a hook request to its answer.",
    ["hook"],
    buckets=_SECONDS,
)
STATEMENT_SECONDS = Histogram(
    "postgres_writer_database_duration_seconds",
    "Duration of one statement, including waits for locks, as measured by the hook server.",
    _DATABASE,
    buckets=_SECONDS,
)
ROWS = Counter(
    "postgres_writer_rows_total",
    "Rows made to match their resources, by operation: inserted, updated, adopted, unchanged, moved, deleted, absent.",
    ["operation", "database"],
)
DRIFT = Counter(
    "postgres_writer_drift_repaired_total", "Rows that something else had changed and that were restored.", _DATABASE
)
CUT_OFF = Counter(
    "postgres_writer_connections_cut_off_total",
    "Client connections that were closed because a handshake, a request with its answer, or silence took too long.",
)
CONNECTIONS_OPEN = Gauge("postgres_writer_database_connections", "Connections that are open now.", _DATABASE)
CONNECTIONS_OPENED = Counter("postgres_writer_database_connections_opened_total", "Connections opened.", _DATABASE)
CONNECTIONS_FAILED = Counter("postgres_writer_database_connections_failed_total", "Failed connects.", _DATABASE)
CONNECTIONS_REPLACED = Counter(
    "postgres_writer_database_connections_replaced_total",
    "Connections that were dropped while idle and were replaced, with the statement repeated.",
    _DATABASE,
)
CONNECTION_WAITS = Counter(
    "postgres_writer_database_connection_waits_total",
    "Messages that waited for a connection, by result: lent, expired (none in time), refused (their table began to "
    "fail fast meanwhile).",
    ["result", "database"],
)
TABLE_CIRCUIT = Counter(
    "postgres_writer_table_circuit_total",
    "Locked or slow tables, by event: opened (requests for the table begin to fail fast), refused (a request that "
    "failed fast), closed (a statement succeeded again).",
    ["event", "database"],
)
BUILD_INFO = Gauge("postgres_writer_build_info", "The version that runs; always 1.", ["version", "python_version"])
CIRCUIT_OPEN = Gauge("postgres_writer_database_circuit_open", "1 while calls fail fast after an outage.", _DATABASE)


# labels() would look for the series under a lock at every request
hook_requests = cache(HOOK_REQUESTS.labels)
hook_seconds = cache(HOOK_SECONDS.labels)
rows = cache(ROWS.labels)


class OfDatabase:
    """The series of one database."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seconds = STATEMENT_SECONDS.labels(name)
        self.open, self.opened = CONNECTIONS_OPEN.labels(name), CONNECTIONS_OPENED.labels(name)
        self.failed, self.replaced = CONNECTIONS_FAILED.labels(name), CONNECTIONS_REPLACED.labels(name)
        self.circuit_open, self.drift = CIRCUIT_OPEN.labels(name), DRIFT.labels(name)
        self.waits = {result: CONNECTION_WAITS.labels(result, name) for result in ("lent", "expired", "refused")}
        self.circuits = {event: TABLE_CIRCUIT.labels(event, name) for event in ("opened", "refused", "closed")}
        for operation in (*(known.value for known in set(Operation) - {Operation.NONE}), ADOPTED):
            ROWS.labels(operation, name)


def declare() -> None:
    """Let every series exist from the start, at 0: the first failure is then an increase and not a beginning."""
    BUILD_INFO.labels(__version__, platform.python_version()).set(1)
    for hook in ("sync", "finalize"):
        HOOK_SECONDS.labels(hook)
        for reason in ("HTTP400", "HTTP401", "HTTP411", "HTTP413", "HTTP415", "HTTP500"):
            HOOK_REQUESTS.labels(hook, "none", reason, NO_DATABASE)
        # of the default database only: it takes hundreds of lines of a scrape
        for controller in ("composite", "decorator"):
            for reason in (*(known.value for known in Reason), PAUSED):
                HOOK_REQUESTS.labels(hook, controller, reason, DEFAULT_DATABASE)


def of_last_audit(result: AuditResult) -> Iterator[Metric]:
    """Give what the last audit found: a process of its own, of which the server only shows what it left behind."""
    meaning = "Findings of the last audit, by kind."
    findings = GaugeMetricFamily("postgres_writer_audit_findings", meaning, labels=["finding"])
    for kind in Fault:
        findings.add_metric([kind.value], result.findings.get(kind.value, 0))
    yield findings
    ended = "When the last audit ended, in Unix time; 0 when none has."
    for name, meaning, value in (
        ("postgres_writer_audit_last_timestamp_seconds", ended, result.finished),
        ("postgres_writer_audit_duration_seconds", "How long the last audit took.", result.seconds),
        ("postgres_writer_audit_resources", "Resources that the last audit compared.", result.resources),
        ("postgres_writer_audit_rows", "Rows that the last audit compared.", result.rows),
        ("postgres_writer_audit_tables", "Tables that the last audit compared.", result.tables),
    ):
        yield GaugeMetricFamily(name, meaning, value=value)


def exposition(last_audit: AuditResult | None = None) -> Iterator[bytes]:
    """Give the scrape in the text format, family by family; the last audit's result where there is to be one."""
    for family in chain(prometheus_client.REGISTRY.collect(), of_last_audit(last_audit) if last_audit else ()):
        yield prometheus_client.generate_latest(cast("Collector", SimpleNamespace(collect=[family].__iter__)))

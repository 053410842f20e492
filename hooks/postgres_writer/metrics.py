"""What the server counts, after Prometheus' naming conventions. No label ever names a resource.

Under gunicorn every worker writes to PROMETHEUS_MULTIPROC_DIR and any worker answers a scrape for all of them.
"""

from __future__ import annotations

import os

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

HOOK_REQUESTS = Counter(
    "postgres_writer_hook_requests_total",
    "Hook requests answered, by hook, kind of controller and reason of the condition Ready.",
    ["hook", "controller", "reason"],
)
HOOK_SECONDS = Histogram(
    "postgres_writer_hook_duration_seconds",
    "Time from the arrival of a hook request to its answer.",
    ["hook"],
    buckets=_SECONDS,
)
DATABASE_SECONDS = Histogram(
    "postgres_writer_database_duration_seconds",
    "Time that one statement took, as the hook server saw it.",
    buckets=_SECONDS,
)
ROWS = Counter(
    "postgres_writer_rows_total",
    "Rows that were made true, by operation: inserted, updated, unchanged, moved, deleted, absent.",
    ["operation"],
)
DRIFT = Counter(
    "postgres_writer_drift_repaired_total",
    "Rows that somebody else had changed or removed and that were put right.",
)
CONNECTIONS_OPEN = Gauge(
    "postgres_writer_database_connections",
    "Connections to PostgreSQL that are open now.",
    multiprocess_mode="livesum",
)
CONNECTIONS_OPENED = Counter(
    "postgres_writer_database_connections_opened_total", "Connections to PostgreSQL that were opened."
)
CONNECTIONS_FAILED = Counter(
    "postgres_writer_database_connections_failed_total", "Attempts to connect to PostgreSQL that failed."
)
CONNECTIONS_REPLACED = Counter(
    "postgres_writer_database_connections_replaced_total",
    "Connections that had died while idle and were replaced, with the statement repeated.",
)
CIRCUIT_OPEN = Gauge(
    "postgres_writer_database_circuit_open",
    "1 while calls fail fast because PostgreSQL could not be reached.",
    multiprocess_mode="livemax",
)


def exposition() -> bytes:
    """Give the scrape of all workers in the text format."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)

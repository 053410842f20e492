"""The whole run: what is measured in which order, and the figures that come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from bench import growth, probes, report
from bench.cases import OBJECTS, ROWS, Case, keep_alive_cases, noop, row_cases, run_rounds, write
from bench.others import other_cases
from bench.servers import Bench, bench, counted
from postgres_writer.config.settings import Config

ROUNDS = 3
_CLOSE_ROUNDS = 9
"""Cases that are compared by a ratio which has little room follow each other, in many short rounds."""
_CONCURRENCIES = (1, 16, 64)
_WAL_REQUESTS = 10_000
_MEMORY_MARKS = (20_000, 100_000)

_P99 = {
    "no-op": "p99_over_p50",
    "write": "write_p99_over_p50",
    "no-op, scraped": "scraped_p99_over_p50",
    "write, scraped": "scraped_write_p99_over_p50",
}
"""The figure that says how far the slowest requests of a case are from its median."""

Say = Callable[[str], None]
Figures = dict[str, float]


def whole(seconds: int, say: Say, plot: Path | None) -> tuple[Figures, bool]:
    """Measure everything; give the figures of the JSON line and whether a target was missed.

    ``seconds`` is how long each case is measured in all rounds together; ``plot``: where the resync schedule is drawn.
    """
    figures: Figures = {}
    with bench(OBJECTS) as parts:
        say(f"{Config.connections} connections, as shipped\n")
        figures |= _promises(parts, say)
        cases = keep_alive_cases(parts, _CONCURRENCIES) + row_cases(parts.hook)
        with other_cases(parts) as others:
            cases += others
            run_rounds(cases, ROUNDS, max(1, seconds // ROUNDS), parts.postgres.pid)
        close = [noop(parts.hook, 16), write(parts.hook, 16, "close"), *row_cases(parts.hook, "close")]
        run_rounds(close, _CLOSE_ROUNDS, max(1, seconds // _CLOSE_ROUNDS), parts.postgres.pid)
        check_operations(parts, cases + close)
        _print_table(cases, say)
        figures |= ratios(cases) | row_ratios(close) | connections(parts)
        for measured in probes.raw(parts.database, max(1, seconds // ROUNDS)):
            say(f"raw psycopg2, {measured.name}: {measured.rate:,.0f}/s, client {measured.client_ms:.3f} ms CPU each")
            figures[f"raw_{measured.name.replace('-', '')}_rate"] = round(measured.rate)
        figures |= _memory(parts, say)
    figures |= growth.measure(say, max(1, seconds // ROUNDS), plot)
    figures |= growth.databases(say, max(1, seconds // _CLOSE_ROUNDS), _CLOSE_ROUNDS)
    say("")
    for line in report.promises(figures):
        say(line)
    say("")
    for line in report.verdicts(figures):
        say(line)
    return figures, any(not t.met(figures) for t in report.TARGETS if t.key in figures)


def _promises(parts: Bench, say: Say) -> Figures:
    requests, wal = probes.wal_bytes(parts, _WAL_REQUESTS)
    row_wal = {
        f"{key(name)}_noop_wal_bytes": probes.wal_bytes(parts, _WAL_REQUESTS, it)[1] for name, it in ROWS.items()
    }
    trips = probes.round_trips(parts.database)
    start = probes.start_seconds(parts.database)
    say(f"{requests:,} no-op syncs wrote {wal} bytes of WAL, those of PostgresRows {list(row_wal.values())}")
    say(f"round trips: {trips}; `serve` answers after {start:.2f} s")
    return {
        "noop_wal_bytes": wal,
        **row_wal,
        "noop_round_trips": trips["no-op"],
        "write_round_trips": trips["write"],
        "delete_round_trips": trips["finalize"],
        "start_seconds": round(start, 3),
    }


def _print_table(cases: list[Case], say: Say) -> None:
    yardsticks = {case.kind: case for case in cases if case.name.startswith("bare")}
    say("")
    for line in report.table(cases, yardsticks):
        say(line)
    say("")


def _memory(parts: Bench, say: Say) -> Figures:
    found = probes.memory(parts, _MEMORY_MARKS)
    for mark, (rss, pss) in found.items():
        say(f"after {mark:,} syncs the largest worker has {rss:.1f} MB RSS, {pss:.1f} MB PSS")
    early, late = (found[mark][0] for mark in _MEMORY_MARKS)
    return {"rss_mb_per_worker": round(late, 1), "rss_growth_mb": round(late - early, 2)}


def ratios(cases: Iterable[Case]) -> Figures:
    """Give the figures that compare the hook with the bare endpoint, at 16 connections that stay open."""
    at_16 = _at_16(cases)
    yardstick, unchanged, written = at_16["bare Flask"], at_16["no-op"], at_16["write"]
    figures = {
        "noop_ratio": unchanged.over(yardstick, lambda m: m.rate),
        "write_ratio": written.over(yardstick, lambda m: m.rate),
        "noop_cpu_ratio": unchanged.server_ms / yardstick.server_ms,
        "noop_cpu_ms": unchanged.server_ms,
        "noop_rate": unchanged.rate,
        "bare_rate": yardstick.rate,
    }
    for name, figure in _P99.items():
        if name in at_16:
            figures[figure] = at_16[name].middle(lambda m: m.p99_ms / m.p50_ms)
    if foreign := at_16.get("no-op, 1,000 foreign fields"):
        figures["foreign_time_ratio"] = unchanged.over(foreign, lambda m: m.rate)
    return {name: round(value, 3) for name, value in figures.items()}


def row_ratios(cases: Iterable[Case]) -> Figures:
    """Give the figures that compare PostgresRows with a PostgresWriter, at 16 connections that stay open."""
    at_16 = _at_16(cases)
    return {
        f"{key(name)}_{key(operation)}_cpu_ratio": round(
            at_16[f"{operation}, {name}"].over(at_16[operation], lambda m: m.cpu_ms), 3
        )
        for name in ROWS
        for operation in ("no-op", "write")
    }


def _at_16(cases: Iterable[Case]) -> dict[str, Case]:
    return {case.name: case for case in cases if case.connections == 16 and not case.load.close}


def key(name: str) -> str:
    """Give a case's name as part of a figure's: without blanks and signs."""
    return name.replace("-", "").replace(" ", "_")


def connections(parts: Bench) -> Figures:
    """Give how many connections the hook server opens under load, and how many it may have at a time."""
    opened, reopened, limit = probes.connections(parts)
    return {
        "connections_opened": opened,
        "connections_limit": limit,
        "connections_beyond_limit": max(0, opened - limit),
        "connections_reopened": reopened,
    }


def check_operations(parts: Bench, cases: Iterable[Case]) -> None:
    """Make sure that the hook did what the cases say: a benchmark of errors would be fast.

    Raises RuntimeError when it did not.
    """
    reasons = counted(parts.hook, "postgres_writer_hook_requests_total")
    good = ("RowSynced", "RowDeleted")
    other = sum(value for labels, value in reasons.items() if not any(f'reason="{name}"' in labels for name in good))
    rows = counted(parts.hook, "postgres_writer_rows_total")
    for operation in ("unchanged", "inserted", "deleted"):
        mine = [case for case in cases if case.operation == operation and case.server is parts.hook]
        answered = sum(measured.requests for case in mine for measured in case.rounds)
        if sum(value for labels, value in rows.items() if f'operation="{operation}"' in labels) < answered:
            raise RuntimeError(f"{answered} requests should have been {operation}; the server counted {rows}")
    refused = sum(measured.refused + measured.broken for case in cases for measured in case.rounds)
    # a request that was under way when wrk ended has no one to answer; wrk ends twice in a round, once to warm up
    abandoned = sum(case.connections * 2 * len(case.rounds) for case in cases)
    if refused or other > abandoned:
        raise RuntimeError(f"{refused} requests failed, {other} ended otherwise: {reasons}")

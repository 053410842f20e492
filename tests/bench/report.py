"""The figures of a run as a table, and against their targets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bench.cases import Case, Kind

HEAD = "| case | connections | requests/s | p50 ms | p99 ms | CPU ms server | CPU ms PostgreSQL | to bare |"
RULE = "| --- | --: | --: | --: | --: | --: | --: | --: |"


@dataclass(frozen=True)
class Target:
    """What a figure of the JSON line must be at most or at least."""

    key: str
    bound: float
    at_least: bool = False

    @property
    def wanted(self) -> str:
        """The target in words."""
        return f"{'at least' if self.at_least else 'at most'} {self.bound:,g}"

    def met(self, figures: Mapping[str, float]) -> bool:
        """Say whether the figure of this run is within the bound."""
        value = figures[self.key]
        return value >= self.bound if self.at_least else value <= self.bound


TARGETS = (
    Target("noop_ratio", 0.7, at_least=True),
    Target("write_ratio", 0.5, at_least=True),
    Target("noop_cpu_ratio", 1.3),
    Target("p99_over_p50", 4),
    Target("write_p99_over_p50", 4),
    Target("scraped_p99_over_p50", 4),
    Target("scraped_write_p99_over_p50", 4),
    Target("noop_wal_bytes", 2048),
    Target("noop_round_trips", 1),
    Target("write_round_trips", 1),
    Target("delete_round_trips", 1),
    Target("connections_beyond_limit", 0),
    Target("connections_reopened", 0),
    Target("rss_mb_per_worker", 60),
    Target("rss_growth_mb", 2),
    Target("start_seconds", 2),
    Target("foreign_time_ratio", 2),
    Target("3_columns_noop_wal_bytes", 2048),
    Target("30_columns_noop_wal_bytes", 2048),
    Target("3_columns_noop_cpu_ratio", 1.1),
    Target("3_columns_write_cpu_ratio", 1.1),
    Target("30_columns_noop_cpu_ratio", 1.6),
    Target("30_columns_write_cpu_ratio", 1.6),
    Target("databases_noop_cpu_ratio", 1.3),
    Target("databases_rss_mb", 16),
)

PROMISES = {
    "no-op at 16 connections, rate to bare": ("noop_ratio",),
    "write at 16 connections, rate to bare": ("write_ratio",),
    "CPU of a no-op, to bare": ("noop_cpu_ratio",),
    "PostgresRow of 3 columns to PostgresWriter, CPU of a no-op; of a write": (
        "3_columns_noop_cpu_ratio",
        "3_columns_write_cpu_ratio",
    ),
    "the same of 30 columns": ("30_columns_noop_cpu_ratio", "30_columns_write_cpu_ratio"),
    "50 databases to one, CPU of a no-op": ("databases_noop_cpu_ratio",),
    "the same, MB more of RSS": ("databases_rss_mb",),
    "p99 over p50 of a no-op; of a write": ("p99_over_p50", "write_p99_over_p50"),
    "the same while /metrics is read each second": ("scraped_p99_over_p50", "scraped_write_p99_over_p50"),
    "WAL of 10,000 and more no-op syncs, bytes; of PostgresRows of 3 and 30 columns": (
        "noop_wal_bytes",
        "3_columns_noop_wal_bytes",
        "30_columns_noop_wal_bytes",
    ),
    "round trips of a no-op, a write, a delete (counted in PostgreSQL's protocol)": (
        "noop_round_trips",
        "write_round_trips",
        "delete_round_trips",
    ),
    "connections opened beyond those allowed; opened again": ("connections_beyond_limit", "connections_reopened"),
    "RSS of a worker after 100,000 syncs, MB": ("rss_mb_per_worker",),
    "how much of it came after 20,000 syncs, MB": ("rss_growth_mb",),
    "start of `serve` to its first answer, s": ("start_seconds",),
    "1,000 foreign fields, time to an ordinary no-op": ("foreign_time_ratio",),
}
"""The figures of each target, by what the table calls them; those of one line have the same target."""


def promises(figures: Mapping[str, float]) -> list[str]:
    """Give the lines of a Markdown table: what was measured, beside its target."""
    targets = {target.key: target for target in TARGETS}
    lines = ["| promise | measured | target |", "| --- | --: | --: |"]
    for promise, keys in PROMISES.items():
        measured = "; ".join(f"{round(figures[key], 2):,g}" for key in keys)
        lines.append(f"| {promise} | {measured} | {targets[keys[0]].wanted} |")
    return lines


def table(cases: Iterable[Case], yardsticks: Mapping[Kind, Case]) -> list[str]:
    """Give the lines of a Markdown table; ``yardsticks``: the bare endpoint by kind of connections."""
    lines = [HEAD, RULE]
    for case in cases:
        yardstick = yardsticks.get(case.kind)
        ratio = f"{case.over(yardstick, lambda m: m.rate):.2f}" if yardstick else ""
        lines.append(
            f"| {case.name} | {case.connections} | {case.rate:,.0f} | {case.middle(lambda m: m.p50_ms):.2f} "
            f"| {case.middle(lambda m: m.p99_ms):.2f} | {case.server_ms:.3f} | {case.database_ms:.3f} | {ratio} |"
        )
    return lines


def verdicts(figures: Mapping[str, float], targets: Iterable[Target] = TARGETS) -> list[str]:
    """Give a line per target that the run has a figure for."""
    return [
        f"{'met   ' if target.met(figures) else 'MISSED'} {target.key} = {figures[target.key]:g} ({target.wanted})"
        for target in targets
        if target.key in figures
    ]

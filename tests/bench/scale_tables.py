"""The findings of the benchmark of many resources as the tables of docs/performance.md."""

from __future__ import annotations

from typing import Any

PARTS = {
    "apiserver": "API server",
    "etcd": "etcd",
    "postgresql": "PostgreSQL",
    "hook": "hook",
    "metacontroller": "Metacontroller",
}
PERIOD = 300
"""The default resync period in seconds."""

Found = dict[str, Any]


def tables(found: Found) -> list[str]:
    """Give the lines of both tables in Markdown: the creates by number of resources, and everything else."""
    parts = list(PARTS.values())
    lines = [f"| number of resources | creates/s | CPU of a create, ms: {' | '.join(parts)} |"]
    lines.append("| --: | --: |" + " --: |" * len(parts))
    for mark in (int(name.rpartition("_")[2]) for name in found if name.startswith("creates_per_second_at_")):
        cpu = found[f"create_cpu_ms_at_{mark}"]
        cells = [f"{cpu[part]:.1f}" for part in PARTS]
        lines.append(f"| {mark:,} | {found[f'creates_per_second_at_{mark}']} | {' | '.join(cells)} |")
    lines += ["", "| what | measured |", "| --- | --- |"]
    return lines + [f"| {what} | {measured} |" for what, measured in _rows(found)]


def _rows(found: Found) -> list[tuple[str, str]]:
    return [
        ("all created in", f"{found['create_seconds']} s"),
        ("memory", _listed({part: _memory(found[f"{part}_mb"]) for part in PARTS})),
        ("etcd", f"{found['etcd_bytes_per_object']:,} bytes for each resource"),
        *_steady(found, found["steady_calls_per_second"], found["objects"] / PERIOD),
        _outage(found, "without_postgresql", "PostgreSQL"),
        _outage(found, "without_hook_servers", "any hook server"),
        (
            "restart of Metacontroller: until all have been synced",
            f"{found['restart_storm_seconds']:.0f} s, {found['restart_writes']} API writes with a new resource's",
        ),
        ("- a new resource created in that moment is Ready after", f"{found['restart_new_object_seconds']} s"),
        ("full audit of both databases", f"{found['audit_seconds']:.0f} s; {_audit(**found['audit'])}"),
    ]


def _steady(found: Found, rate: float, due: float) -> list[tuple[str, str]]:
    if rate == 0:
        return [("resyncs only", "none was due: all were created too short a time before")]
    each = {part: found[f"steady_{part}_cpu_cores"] / rate for part in PARTS}
    in_ms = _listed({part: f"{1000 * cpu:.2f}" for part, cpu in each.items()})
    cores = _listed({part: f"{due * cpu:.2f}" for part, cpu in each.items()})
    return [
        (
            f"resyncs only (a minute at {rate:.0f} calls/s), CPU of one call in ms",
            f"{in_ms}; {found['steady_writes']} API writes",
        ),
        (f"so with P = {PERIOD} ({due:.0f} calls/s), cores", cores),
    ]


def _outage(found: Found, name: str, what: str) -> tuple[str, str]:
    figure = {key: found[f"{name}_{key}"] for key in ("seconds", "new")}
    return f"{figure['seconds']:.0f} s without {what}, with {figure['new']} resources created meanwhile", (
        f"these were Ready {found[f'{name}_new_objects_seconds']} s after it was back, all after "
        f"{found[f'{name}_all_ready_seconds']} s; at the worst {found[f'{name}_not_ready']} were not Ready; "
        f"{found[f'{name}_writes']:,} API writes, {found[f'{name}_event_writes']:,} of events"
    )


def _audit(resources: int, rows: int, findings: dict[str, int], **_: int) -> str:
    return f"{resources:,} resources, {rows:,} rows, {sum(findings.values())} findings"


def _listed(by_part: dict[str, str]) -> str:
    return ", ".join(f"{PARTS[part]} {value}" for part, value in by_part.items())


def _memory(mb: float) -> str:
    return f"{mb / 1024:.1f} GB" if mb >= 1024 else f"{mb:.0f} MB"

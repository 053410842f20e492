"""How it grows: the cost of a sync by the number of rows, and how the resync of many resources spreads over time."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

from bench import bodies, load, probes
from bench.cases import Case, noop, run_rounds
from bench.servers import counted, fill, hook_server
from bench.spread import schedule_svg, steady_peak, syncs_per_second
from support.databases import write_folder
from support.postgres import private_instance

SIZES = (100, 1_000, 10_000, 100_000)
RESOURCES = 10_000
DATABASES = 50
PERIOD = 300
_HORIZON = 4 * PERIOD
_ROUNDS = 3


def measure(say: Callable[[str], None], seconds: int, plot: Path | None) -> dict[str, float]:
    """Measure the cost of a no-op sync at every size and the resync of RESOURCES resources; give the figures."""
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(private_instance(password="bench", settings={"shared_buffers": "256MB"}))
        cases: list[Case] = []
        for size in SIZES:
            database = postgres.maintenance.create_sibling()
            fill(database, "noop", range(size))
            database.query("VACUUM (ANALYZE, FREEZE) students")
            server = stack.enter_context(hook_server(database.environ))
            case = noop(server, 16, f"{size:,}")
            case.load = type(case.load)(case.load.url, case.load.template, 16, size)
            cases.append(case)
        run_rounds(cases, _ROUNDS, seconds, postgres.pid)
        say("\n| rows in the table | no-op syncs/s | p50 ms | CPU ms server | CPU ms PostgreSQL |")
        say("| --: | --: | --: | --: | --: |")
        for case in cases:
            measured = f"{case.middle(lambda m: m.p50_ms):.2f} | {case.server_ms:.3f} | {case.database_ms:.3f}"
            say(f"| {case.name} | {case.rate:,.0f} | {measured} |")
        say("")
        waits = [probes.answer_of(cases[-1].server, number)["resyncAfterSeconds"] for number in range(RESOURCES)]
    cost = [case.server_ms + case.database_ms for case in cases]
    return {**_resync(waits, cost[-1], say, plot), "growth_cpu_ratio": round(max(cost) / min(cost), 3)}


def databases(say: Callable[[str], None], seconds: int, rounds: int) -> dict[str, float]:
    """Measure no-op syncs of RESOURCES resources in one database and spread over DATABASES of the same PostgreSQL."""
    with contextlib.ExitStack() as stack:
        settings = {"shared_buffers": "256MB", "max_connections": "400"}
        postgres = stack.enter_context(private_instance(password="bench", settings=settings))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pgw-bench-")))
        one = postgres.maintenance.create_sibling()
        fill(one, "noop", range(RESOURCES))
        for number in range(DATABASES):
            database = postgres.maintenance.create_sibling()
            fill(database, "noop", range(number, RESOURCES, DATABASES))
            write_folder(folder, f"bench-{number}", database)
        servers = [
            stack.enter_context(hook_server({**one.environ, "PSQL_DATABASES_DIR": str(folder)})) for _ in range(2)
        ]
        alone, spread = (noop(server, 16) for server in servers)
        template = bodies.of_databases(spread.load.template)
        spread.load = replace(spread.load, template=template, databases=DATABASES)
        run_rounds([alone, spread], rounds, seconds, postgres.pid)
        opened = [_connections(case, count) for case, count in ((alone, 1), (spread, DATABASES))]
        memory = [max(map(load.memory_mb, case.server.workers())) for case in (alone, spread)]
    ratios = [spread.over(alone, figure) for figure in (_rate, _server_ms, _database_ms)]
    say(f"\n| | 1 database | {DATABASES} databases | {DATABASES} to 1 |\n| --- | --: | --: | --: |")
    say(f"| no-op syncs/s | {alone.rate:,.0f} | {spread.rate:,.0f} | {ratios[0]:.2f} |")
    say(f"| CPU ms of the server | {alone.server_ms:.3f} | {spread.server_ms:.3f} | {ratios[1]:.2f} |")
    say(f"| CPU ms of PostgreSQL | {alone.database_ms:.3f} | {spread.database_ms:.3f} | {ratios[2]:.2f} |")
    say(
        f"| memory of the server, RSS | {memory[0]:.1f} MB | {memory[1]:.1f} MB | {memory[1] - memory[0]:.1f} MB more |"
    )
    each = f"at most {max(opened[1])} to one database"
    say(f"| connections of the server | {sum(opened[0])} | {sum(opened[1])} | {each} |")
    return {
        "databases_noop_ratio": round(ratios[0], 3),
        "databases_noop_cpu_ratio": round(ratios[1], 3),
        "databases_rss_mb": round(memory[1] - memory[0], 1),
    }


def _rate(measured: load.Measured) -> float:
    return measured.rate


def _server_ms(measured: load.Measured) -> float:
    return 1000 * measured.server_cpu / measured.requests


def _database_ms(measured: load.Measured) -> float:
    return 1000 * measured.database_cpu / measured.requests


def _connections(case: Case, databases: int) -> list[int]:
    """Give how many connections the server of a case has to each database; so many were asked about."""
    requests = counted(case.server, "postgres_writer_hook_requests_total")
    synced = [count for labels, count in requests.items() if count and 'reason="RowSynced"' in labels]
    # wrk abandons what is under way when it ends, which it does twice in a round
    if len(synced) != databases or sum(requests.values()) - sum(synced) > case.connections * 2 * len(case.rounds):
        raise RuntimeError(f"not every database answered, or otherwise: {requests}")
    opened = counted(case.server, "postgres_writer_database_connections").values()
    return [int(count) for count in opened if count]


def _resync(waits: list[float], cost_ms: float, say: Callable[[str], None], plot: Path | None) -> dict[str, float]:
    per_second = syncs_per_second(waits, PERIOD, _HORIZON)
    mean = RESOURCES / PERIOD
    peak = steady_peak(per_second, PERIOD)
    cores = mean * cost_ms / 1000
    say(
        f"{RESOURCES:,} resources synced at once: from the second period on {mean:.1f} syncs/s, median "
        f"{median(per_second[2 * PERIOD :])}, at most {peak} in a second (chance alone: about "
        f"{mean + 3 * math.sqrt(mean):.0f}); {100 * cores:.1f} % of a core"
    )
    if plot is not None:
        plot.write_text(schedule_svg(per_second, PERIOD, RESOURCES), encoding="utf-8")
    return {"resync_peak_over_mean": round(peak / mean, 2), "resync_cores_per_10000": round(cores, 4)}
